"""Instance normalization and ReLU as TensorRT plugins: INT8 in CDHW32, and FP32 or FP16 in the linear layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from trtforge.kernels.launch import Launch
from trtforge.kernels.plugin import Array, Fields, PluginKind, Size, Tensor
from trtforge.plugins.instance_norm_relu.function import FLOAT, INT8
from trtforge.plugins.instance_norm_relu.launch import KERNEL_SET, launches, workspace_bytes


class _InstanceNorm(PluginKind):
    kernels = KERNEL_SET
    tensors = ("x", "scale", "bias", "y")

    def output_types(self, inputs: Sequence[str]) -> tuple[str, ...]:
        return (inputs[0],)

    def output_shapes(self, inputs: Sequence[Sequence[Size]], fields: Fields) -> list[list[Any]]:
        return [list(inputs[0])]

    def workspace(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Mapping[str, int]:
        return workspace_bytes(inputs[0].shape, inputs[0].dtype)


class InstanceNormReluFloat(_InstanceNorm):
    """x float32 or float16, linear; scale and bias float32, also where the graph's are float16."""

    name = FLOAT
    fields: ClassVar = {"epsilon": "float"}
    weights = 2  # constants: ONNX wants them in x's type, the kernels in float32
    half = True

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        this = tensors[position]
        if this.layout != "linear":
            return False
        if position in (1, 2):
            return this.dtype == "float32"
        return this.dtype in ("float32", "float16") and this.dtype == tensors[0].dtype

    def compile_weights(self, weights: Sequence[Array], fields: Fields) -> list[Array]:
        return [values.astype(np.float32) for values in weights]

    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        return launches(inputs[0].shape, inputs[0].dtype, fields["epsilon"])


class InstanceNormReluInt8(_InstanceNorm):
    """x and y int8 in CDHW32; scale and bias float32."""

    name = INT8
    fields: ClassVar = {"epsilon": "float", "input_scale": "float", "output_scale": "float"}

    def accepts(self, position: int, tensors: Sequence[Tensor]) -> bool:
        this = tensors[position]
        if position in (1, 2):
            return (this.dtype, this.layout) == ("float32", "linear")
        return (this.dtype, this.layout) == ("int8", "cdhw32")

    def launches(self, inputs: Sequence[Tensor], outputs: Sequence[Tensor], fields: Fields) -> Sequence[Launch]:
        scales = (fields["input_scale"], fields["output_scale"])
        return launches(inputs[0].shape, "int8", fields["epsilon"], *scales)


KINDS = (InstanceNormReluFloat(), InstanceNormReluInt8())
