"""The 3-D pixel shuffle as TensorRT plugins: INT8 in CDHW32, and FP32 or FP16 in the linear layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from trtforge.kernels.launch import Launch
from trtforge.kernels.plugin import Fields, PluginKind, Size, Tensor
from trtforge.plugins.pixel_shuffle_3d.launch import KERNEL_SET, launches


class PixelShuffle3d(PluginKind):
    """x [N, 8K, D, H, W] to y [N, K, 2D, 2H, 2W]."""

    name = "PixelShuffle3d"
    kernels = KERNEL_SET
    tensors: ClassVar[tuple[str, ...]] = ("x", "y")
    types: ClassVar[tuple[str, ...]] = ("float32", "float16")
    half: ClassVar[bool] = True
    layout = "linear"

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        this = tensors[position]
        return this.layout == self.layout and this.dtype in self.types and this.dtype == tensors[0].dtype

    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        return (inputs[0],)

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        batch, wide, *size = inputs[0]
        return [[batch, wide // 8, *(length * 2 for length in size)]]

    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        skip = inputs[1].shape[1] if len(inputs) > 1 else 0
        scales = [fields.get(name, 1.0) for name in ("input_scale", "skip_scale", "output_scale")]
        return launches(inputs[0].shape, inputs[0].dtype, skip, *scales)

    def addresses(self, pointers: Sequence[int], workspace: int, pieces: Any) -> dict[str, int]:
        return {"skip": 0} | super().addresses(pointers, workspace, pieces)


class PixelShuffle3dConcat(PixelShuffle3d):
    """x and skip [N, C, 2D, 2H, 2W] to y [N, K + C, 2D, 2H, 2W]: the shuffled channels first."""

    name = "PixelShuffle3dConcat"
    tensors = ("x", "skip", "y")

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        ((batch, channels, *size),) = super().output_shapes(inputs[:1], fields)
        return [[batch, channels + inputs[1][1], *size]]


class PixelShuffle3dInt8(PixelShuffle3d):
    """INT8 in CDHW32; from the input's scale to the output's."""

    name = "PixelShuffle3dInt8"
    types = ("int8",)
    half = False
    layout = "cdhw32"
    fields: ClassVar = {"input_scale": "float", "output_scale": "float"}


class PixelShuffle3dConcatInt8(PixelShuffle3dConcat):
    """INT8 in CDHW32; from both inputs' scales to the output's."""

    name = "PixelShuffle3dConcatInt8"
    types = ("int8",)
    half = False
    layout = "cdhw32"
    fields: ClassVar = {"input_scale": "float", "skip_scale": "float", "output_scale": "float"}


KINDS = (PixelShuffle3d(), PixelShuffle3dConcat(), PixelShuffle3dInt8(), PixelShuffle3dConcatInt8())
