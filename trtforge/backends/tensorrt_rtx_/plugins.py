"""Plugins in TensorRT-RTX engines: what its registry has, ours put into it, an engine's looked for before loading."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from trtforge.backends.nvidia.plugins import ours
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.environment import MissingPackage

if TYPE_CHECKING:
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
    return frozenset((*stock, *ours()))


def _silent(why: str) -> MissingPackage:
    return MissingPackage(
        "TensorRT-RTX cannot be asked for its plugins", why=why, next=environment.INSTALL + " --force-reinstall"
    )
