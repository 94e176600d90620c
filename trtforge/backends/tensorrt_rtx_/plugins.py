"""Plugins in TensorRT-RTX engines: what its registry has, ours put into it, an engine's looked for before loading."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge import plugins
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.engine import ForeignGpu, PluginNotHere
from trtforge.errors.environment import MissingPackage
from trtforge.files import write_bytes
from trtforge.kernels.cubins import fitting
from trtforge.kernels.plugin import NAMESPACE, VERSION, PluginKind

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.surgery.op import Creator

_PROBE = """
import json, tensorrt_rtx as trt
found = trt.get_plugin_registry().all_creators
print(json.dumps([[each.name, each.plugin_version, each.plugin_namespace] for each in found]))
"""


@cache
def creators() -> frozenset[Creator]:
    """What the registry holds by itself, and ours, which the compiler's process registers. Raises MissingPackage."""
    from trtforge.surgery.op import Creator

    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE],
            env=environment.child_environment(),
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
    except subprocess.TimeoutExpired as error:
        raise _silent("it did not answer in 120 s") from error
    if ran.returncode != 0:
        raise _silent(ran.stderr.strip().rpartition("\n")[2] or f"it ended with code {ran.returncode}")
    stock = (Creator(*each) for each in json.loads(ran.stdout.strip().rpartition("\n")[2]))
    return frozenset((*stock, *(Creator(name, VERSION, NAMESPACE) for name in plugins.kinds())))


def _silent(why: str) -> MissingPackage:
    return MissingPackage(
        "TensorRT-RTX cannot be asked for its plugins", why=why, next=environment.INSTALL + " --force-reinstall"
    )


def kinds_in(model: Model) -> dict[str, PluginKind]:
    """Our plugins among a graph's nodes, by name."""
    found = {node.op_type for node in model.proto.graph.node if node.domain == NAMESPACE}
    return {name: kind for name, kind in plugins.kinds().items() if name in found}


def records(kinds: Mapping[str, PluginKind], nodes: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """What the manifest says: each plugin of the plan with its version, source and the fields of every node."""
    return [
        {
            "name": kind.name,
            "version": VERSION,
            "namespace": NAMESPACE,
            "kernels": kind.kernels.plugin,
            "source": kind.source_digest(),
            "nodes": [node for node in nodes if node["plugin"] == kind.name],
        }
        for kind in kinds.values()
    ]


def write_cubins(kinds: Mapping[str, PluginKind], sm: str, folder: Path) -> dict[str, Path]:
    """The kernels' binaries for the engine's folder: file name -> path. Raises MissingPackage, KernelNotCompiled."""
    files = {}
    for kernels in dict.fromkeys(kind.kernels for kind in kinds.values()):
        path = folder / kernels.file_name(sm)
        write_bytes(path, kernels.compile([sm])[sm])
        files[path.name] = path
    return files


def needed(report: Mapping[str, Any], where: Path) -> dict[str, PluginKind]:
    """The plugins an engine was built with; they must be this trtforge's, to the source. Raises PluginNotHere."""
    found = {}
    for record in report.get("plugins", ()):
        name, here = record["name"], plugins.kinds().get(record["name"])
        if here is None or (record["version"], record["namespace"]) != (VERSION, NAMESPACE):
            raise _not_here(where, record, f"this trtforge has {', '.join(plugins.kinds())}")
        if record["source"] != here.source_digest():
            why = f"its kernels' source was {record['source'][:12]}; here it is {here.source_digest()[:12]}"
            raise _not_here(where, record, why)
        found[name] = here
    return found


def check_kernels(kinds: Mapping[str, PluginKind], plan: Path, sm: str) -> None:
    """Kernels for a GPU of compute capability ``sm`` lie beside the plan. Raises ForeignGpu.

    Asked before anything is read: while the engine runs, TensorRT would say no more than that a plugin failed.
    """
    for kind in kinds.values():
        try:
            fitting(kind.kernels.files(plan.parent), sm)
        except ForeignGpu as error:
            raise ForeignGpu(
                f"the kernels of the plugin {kind.name} do not run on this GPU",
                where=str(plan),
                why=error.why,
                next=error.next,
            ) from error


def _not_here(where: Path, record: Mapping[str, Any], why: str) -> PluginNotHere:
    return PluginNotHere(
        f"the engine needs the plugin {record['namespace']}::{record['name']} {record['version']}",
        where=str(where),
        why=why,
        next="install the trtforge that built it (see `tools` in manifest.json), or build it again: "
        "trtforge build RECIPE",
    )
