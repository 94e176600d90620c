"""The plugins, one folder each: the op's meaning, its rule, its kernels, its TensorRT class."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtforge.kernels.plugin import PluginKind
    from trtforge.surgery.op import Op

NAMES = ("res2", "qkv-to-context", "instance-norm-relu", "pixel-shuffle-3d", "conv3d-small", "nms")
"""As a recipe's `surgery` and `plugins` name them. The folder has underscores."""

WITH_KERNELS = ("res2", "instance-norm-relu", "pixel-shuffle-3d", "conv3d-small")
"""Those that bring a TensorRT plugin of ours."""


@cache
def ops() -> dict[str, Op]:
    """Every op by name, in the order in which they are usually tried."""
    return {name: _module(name, "rewrite").OP for name in NAMES}


@cache
def kinds() -> dict[str, PluginKind]:
    """Every TensorRT plugin of ours by its name in TensorRT, which is the ONNX function's."""
    return {kind.name: kind for name in WITH_KERNELS for kind in _module(name, "plugin").KINDS}


def _module(name: str, part: str):  # type: ignore[no-untyped-def]
    return import_module(f"{__name__}.{name.replace('-', '_')}.{part}")
