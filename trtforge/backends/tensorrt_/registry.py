"""The stock plugins that the TensorRT of this machine has."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from trtforge.backends.tensorrt_ import environment

if TYPE_CHECKING:
    from trtforge.surgery.op import Creator

_LOAD = 'trt.init_libnvinfer_plugins(trt.Logger(trt.Logger.ERROR), "")'


@cache
def creators() -> frozenset[Creator]:
    """Raises MissingPackage."""
    from trtforge.backends.nvidia.registry import ask

    return ask("tensorrt", "TensorRT", environment.child_environment(), before=_LOAD, next_=environment.INSTALL)
