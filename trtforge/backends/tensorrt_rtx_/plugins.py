"""The plugins that TensorRT-RTX can build in: those its registry holds by itself, and ours."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from trtforge.backends.tensorrt_rtx_ import environment

if TYPE_CHECKING:
    from trtforge.surgery.op import Creator


@cache
def creators() -> frozenset[Creator]:
    """Ours are put into the registry by the compiler's process. Raises MissingPackage."""
    from trtforge.backends.nvidia.plugins import ours
    from trtforge.backends.nvidia.registry import ask

    again = environment.INSTALL + " --force-reinstall"
    return ours() | ask("tensorrt_rtx", "TensorRT-RTX", environment.child_environment(), next_=again)
