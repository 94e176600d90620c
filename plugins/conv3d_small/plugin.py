"""A network's first and last 3-D convolution in INT8 as TensorRT plugins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from trtforge.kernels.launch import Launch
from trtforge.kernels.plugin import Fields, PluginKind, Size, Tensor
from trtforge.plugins.conv3d_small.function import INT8, INT8_TO_FLOAT
from trtforge.plugins.conv3d_small.launch import KERNEL_SET, launches

FLOAT32 = 1
"""As ONNX numbers it."""


class Conv3dSmallInt8(PluginKind):
    """The first one: x int8 [N, 1, D, H, W] linear to y int8 [N, O, ...] in CDHW32; w int8, multiplier and offset
    float32 [O]."""

    name = INT8
    kernels = KERNEL_SET
    tensors = ("x", "w", "multiplier", "offset", "y")
    fields: ClassVar = {"pads": "ints", "strides": "ints"}
    taken, made = ("int8", "linear"), ("int8", "cdhw32")

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        constants = (("int8", "linear"), ("float32", "linear"), ("float32", "linear"))
        wanted = (self.taken, *constants, self.made)[position]
        return (tensors[position].dtype, tensors[position].layout) == wanted

    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        return (self.made[0],)

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        (batch, _, *size), (outputs, _, *kernel) = inputs[:2]
        pads = [sum(pair) for pair in zip(fields["pads"][:3], fields["pads"][3:], strict=True)]
        spans = zip(size, kernel, pads, fields["strides"], strict=True)
        return [[batch, outputs, *((length - window + pad) // stride + 1 for length, window, pad, stride in spans)]]

    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        x, w = inputs[:2]
        return launches(x.shape, w.shape, outputs[0].dtype, fields["pads"], fields["strides"])


class Conv3dSmallInt8ToFloat(Conv3dSmallInt8):
    """The last one: x int8 [N, C, D, H, W] in CDHW32 to y float32 [N, O, D, H, W] linear."""

    name = INT8_TO_FLOAT
    fields: ClassVar = {"pads": "ints", "strides": "ints", "to": "int"}
    taken, made = ("int8", "cdhw32"), ("float32", "linear")

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        if fields["to"] != FLOAT32:
            raise ValueError(f"the plugin {self.name} makes float32, ONNX type {FLOAT32}; its node says {fields['to']}")
        return super().output_shapes(inputs, fields)


KINDS = (Conv3dSmallInt8(), Conv3dSmallInt8ToFloat())
