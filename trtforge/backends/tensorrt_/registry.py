"""The stock plugins that the TensorRT of this machine has, asked in a process of their own: it may crash."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from trtforge.backends.tensorrt_ import environment
from trtforge.errors.environment import MissingPackage

if TYPE_CHECKING:
    from trtforge.surgery.op import Creator

_PROBE = """
import json, tensorrt as trt
trt.init_libnvinfer_plugins(trt.Logger(trt.Logger.ERROR), "")
registry = trt.get_plugin_registry()
found = registry.all_creators if hasattr(registry, "all_creators") else registry.plugin_creator_list
print(json.dumps([[each.name, each.plugin_version, each.plugin_namespace] for each in found]))
"""


@cache
def creators() -> frozenset[Creator]:
    """Raises MissingPackage."""
    from trtforge.surgery.op import Creator

    try:
        ran = subprocess.run(
            [sys.executable, "-P", "-c", _PROBE],
            env=environment.child_environment(),
            capture_output=True,
            text=True,
            check=True,
            timeout=120,
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        words = (getattr(error, "stderr", "") or "").strip().rpartition("\n")[2]
        raise MissingPackage(
            "TensorRT cannot be asked for its plugins", why=words or str(error), next=environment.INSTALL
        ) from error
    return frozenset(Creator(*each) for each in json.loads(ran.stdout.strip().rpartition("\n")[2]))
