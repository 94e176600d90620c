"""Plugins of ours in an engine: found in its graph, written down, kernels beside it, looked for at loading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge import plugins
from trtforge.errors.engine import ForeignGpu, PluginNotHere
from trtforge.files import write_bytes
from trtforge.gpu import cuda_core
from trtforge.kernels.cubins import fitting
from trtforge.kernels.plugin import NAMESPACE, VERSION, PluginKind
from trtforge.kernels.tensorrt import register

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.surgery.op import Creator, Lowered


def ours() -> frozenset[Creator]:
    """The creators that the compiler's process registers."""
    from trtforge.surgery.op import Creator

    return frozenset(Creator(name, VERSION, NAMESPACE) for name in plugins.kinds())


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


def facts(kinds: Mapping[str, PluginKind], lowered: Sequence[Lowered]) -> dict[str, Any]:
    """What the report says of them; nothing without any."""
    if not kinds:
        return {}
    nodes = [
        {"plugin": one.plugin.creator.name, "outputs": list(one.nodes[-1].output), "fields": dict(one.plugin.fields)}
        for one in lowered
        if one.plugin is not None
    ]
    return {"plugins": records(kinds, nodes)}


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


def for_this_gpu(kinds: Mapping[str, PluginKind], plan: Path) -> None:
    """Their kernels lie beside the plan and fit GPU 0. Raises ForeignGpu, MissingPackage."""
    if kinds:
        major, minor = cuda_core().Device(0).compute_capability
        check_kernels(kinds, plan, f"{major}.{minor}")


def register_all(trt: Any, kinds: Mapping[str, PluginKind], plan: Path) -> list[Any]:
    """Put an engine's plugins into the registry; whoever runs it keeps the creators alive. Raises ExecutionFailed."""
    return [register(trt, kind, _cubins(kind, plan.parent)) for kind in kinds.values()]


def _cubins(kind: PluginKind, folder: Path) -> dict[str, bytes]:
    return {sm: path.read_bytes() for sm, path in kind.kernels.files(folder).items()}
