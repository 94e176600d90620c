"""The conv2_x stage as a TensorRT plugin: INT8 in NC/32HW32."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from trtforge.kernels.launch import Launch
from trtforge.kernels.plugin import Array, Fields, PluginKind, Size, Tensor
from trtforge.plugins.res2.function import INT8
from trtforge.plugins.res2.launch import KERNEL_SET, launches, workspace_bytes
from trtforge.plugins.res2.pack import packed


class Res2Int8(PluginKind):
    """x int8 [N, C, H, W] to y int8 [N, O, H, W], both CHW32; the packed weights and scales of blocks a, b and c."""

    name = INT8
    kernels = KERNEL_SET
    tensors = ("x", *(f"{block}_{part}" for block in "abc" for part in ("weights", "scales")), "y")
    weights = 31  # of the function: a weight, a multiplier and a bias for ten convolutions, and the residuals' factors

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        this = tensors[position]
        if position in (0, len(self.tensors) - 1):
            return (this.dtype, this.layout) == ("int8", "chw32")
        wanted = "int8" if self.tensors[position].endswith("weights") else "float32"
        return (this.dtype, this.layout) == (wanted, "linear")

    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        return ("int8",)

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        batch, _, height, width = inputs[0]
        # block a's scales: M and B of 2a and 2b, of branch1 and 2c (four times as many), then 4 more: 5 a channel of y
        return [[batch, (inputs[2][0] - 4) // 5, height, width]]

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Mapping[str, int]:
        batch, channels, height, width = outputs[0].shape
        return workspace_bytes(channels // 4, batch, height, width)

    def compile_weights(self, weights: Sequence[Array], fields: Fields) -> list[Array]:
        return list(packed(weights).values())

    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        batch, channels, height, width = outputs[0].shape
        return launches(channels // 4, batch, height, width, channels_in=inputs[0].shape[1])


KINDS = (Res2Int8(),)
