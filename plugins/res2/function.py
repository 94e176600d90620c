"""What res2 is: the conv2_x stage of ResNet-50 as ONNX functions, in float and in INT8, and the way between them.

Three bottlenecks a, b, c at stride 1: y = relu(2c(relu(2b(relu(2a(x))))) + shortcut), 2b 3x3 with padding 1, the others
1x1. The shortcut of a is the convolution branch1 of its input, that of b and c is their input (He et al., "Deep
Residual Learning for Image Recognition", 2016).

`Res2Int8` is what the kernels compute, to the bit. Every scale is amax / 127 and symmetric. A convolution sums int8
products in int32, and a result is made of the sum in float32, each operation rounded on its own:

    q = clip(round_half_even(float(sum) * M + B), low, 127)                        2a, 2b, branch1
    q = clip(round_half_even((float(sum) * M + B) + float(residual) * R), 0, 127)  2c, the block's output

with low = 0 where a ReLU follows (2a, 2b) and -128 for branch1. 2c is not rounded to int8 before the addition. With the
scales s of activations and s_w[c] of a weight's output channel c:

    M[c] = s_in * s_w[c] / s_out    B[c] = bias[c] / s_out    R = s_residual / s_out
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper

from trtforge.scales.codecs.weights import along, channel_scales, quantize
from trtforge.scales.table import TensorRange
from trtforge.surgery.op import function_proto

Array = np.ndarray[Any, Any]

FLOAT, INT8 = "Res2", "Res2Int8"
"""Names of the functions."""

CONVOLUTIONS = ("a_branch1", "a_2a", "a_2b", "a_2c", "b_2a", "b_2b", "b_2c", "c_2a", "c_2b", "c_2c")
"""Order of the functions' weights."""

BLOCKS = ("a", "b", "c")
RANGES = 14
"""Of MLPerf's `dynamic_ranges`: pool1; a: branch1, 2a, 2b, 2c, output; b and c: 2a, 2b, 2c, output. The ranges of 2c
before the addition (4, 8, 12) are not used here."""

INPUT_AND_OUTPUT = {
    "a_branch1": (0, 1),
    "a_2a": (0, 2),
    "a_2b": (2, 3),
    "a_2c": (3, 5),
    "b_2a": (5, 6),
    "b_2b": (6, 7),
    "b_2c": (7, 9),
    "c_2a": (9, 10),
    "c_2b": (10, 11),
    "c_2c": (11, 13),
}
"""Convolution -> positions of its ranges; 2c's second one is that of the block's output."""

RESIDUAL_AND_OUTPUT = {"a": (1, 5), "b": (5, 9), "c": (9, 13)}


@dataclass(frozen=True)
class QuantizedConvolution:
    """``weight`` int8 [O, I, k, k]; ``multiplier`` M and ``bias`` B float32 [O, 1, 1]."""

    weight: Array
    multiplier: Array
    bias: Array


@dataclass(frozen=True)
class Quantized:
    """Res2Int8's constants: the convolutions in order, and ``residual`` R, float32 [3]."""

    convolutions: tuple[QuantizedConvolution, ...]
    residual: Array

    def inputs(self) -> list[Array]:
        """In the function's order, after `x`."""
        return [each for conv in self.convolutions for each in (conv.weight, conv.multiplier, conv.bias)] + [
            self.residual
        ]


def quantized(weights: Sequence[Array], biases: Sequence[Array], ranges: Sequence[float]) -> Quantized:
    """Res2Int8's constants from those of Res2 and the ranges (amax) of its activations.

    ``weights`` float32 [O, I, k, k] and ``biases`` float32 [O], ten each in the order of CONVOLUTIONS; ``ranges`` in
    MLPerf's order (RANGES). Weights get a scale an output channel and are clipped to [-127, 127]. M, B and R are
    computed in float64 and rounded once. A range of zeros counts as one of scale 1. Raises ValueError where the counts
    do not fit, or a number is not finite.
    """
    if len(weights) != len(CONVOLUTIONS) or len(biases) != len(CONVOLUTIONS) or len(ranges) != RANGES:
        raise ValueError(
            f"res2 has {len(CONVOLUTIONS)} weights and biases and {RANGES} ranges, "
            f"not {len(weights)}, {len(biases)} and {len(ranges)}"
        )
    scales = [float(TensorRange(-amax, amax, 1).usable_scale) for amax in ranges]
    convolutions = []
    for name, weight, bias in zip(CONVOLUTIONS, weights, biases, strict=True):
        source, made = (scales[at] for at in INPUT_AND_OUTPUT[name])
        of_channel = channel_scales(weight, 0)
        multiplier = source * of_channel.astype(np.float64) / made
        convolutions.append(
            QuantizedConvolution(
                quantize(weight, of_channel, 0),
                along(multiplier.astype(np.float32), 0, 3),
                along((bias.astype(np.float64) / made).astype(np.float32), 0, 3),
            )
        )
    residual = [scales[added] / scales[made] for added, made in RESIDUAL_AND_OUTPUT.values()]
    result = Quantized(tuple(convolutions), np.array(residual, np.float32))
    if not all(np.isfinite(each).all() for each in result.inputs()):
        raise ValueError("a weight, bias or range of res2 is not finite, or its quotient is none of float32")
    return result


def float_function() -> FunctionProto:
    """The function `Res2`, float32 or float16: x [N, C, H, W], a weight and a bias a convolution -> y [N, O, H, W]."""
    nodes: list[NodeProto] = []
    block = "x"
    for letter in BLOCKS:
        shortcut = _convolution(nodes, "a_branch1", block) if letter == "a" else block
        inner = _relu(nodes, _convolution(nodes, f"{letter}_2a", block))
        inner = _relu(nodes, _convolution(nodes, f"{letter}_2b", inner))
        inner = _convolution(nodes, f"{letter}_2c", inner)
        nodes.append(helper.make_node("Add", [inner, shortcut], [f"{letter}_sum"]))
        block = _relu(nodes, f"{letter}_sum", "y" if letter == "c" else "")
    inputs = ["x", *(f"{name}_{part}" for name in CONVOLUTIONS for part in "wb")]
    return function_proto(FLOAT, inputs, ["y"], nodes, doc="conv2_x of ResNet-50: bottlenecks a, b, c at stride 1.")


def int8_function() -> FunctionProto:
    """The function `Res2Int8`: x int8 [N, C, H, W], `Quantized.inputs` -> y int8 [N, O, H, W].

    onnxruntime's sums are exact where its CPU has VNNI; on others its kernels for int8 weights may saturate int16
    sums of two products, so hold a result against another machine's only if both have it.
    """
    nodes = [_constant("low", -128.0), _constant("zero", 0.0), _constant("high", 127.0)]
    block = "x"
    for number, letter in enumerate(BLOCKS):
        shortcut = block
        if letter == "a":
            shortcut = _rounded(nodes, _scaled(nodes, "a_branch1", block), "low")
        inner = _rounded(nodes, _scaled(nodes, f"{letter}_2a", block), "zero")
        inner = _rounded(nodes, _scaled(nodes, f"{letter}_2b", inner), "zero")
        inner = _scaled(nodes, f"{letter}_2c", inner)
        nodes += [
            helper.make_node("Cast", [shortcut], [f"{letter}_shortcut"], to=TensorProto.FLOAT),
            helper.make_node("Constant", [], [f"{letter}_number"], value_int=number),
            helper.make_node("Gather", ["r", f"{letter}_number"], [f"{letter}_r"]),
            helper.make_node("Mul", [f"{letter}_shortcut", f"{letter}_r"], [f"{letter}_residual"]),
            helper.make_node("Add", [inner, f"{letter}_residual"], [f"{letter}_sum"]),
        ]
        block = _rounded(nodes, f"{letter}_sum", "zero", "y" if letter == "c" else "")
    inputs = ["x", *(f"{name}_{part}" for name in CONVOLUTIONS for part in "wmb"), "r"]
    return function_proto(INT8, inputs, ["y"], nodes, doc="Res2 in INT8, as its kernels compute it.")


def _attributes(name: str) -> dict[str, Any]:
    size, pad = (3, 1) if name.endswith("2b") else (1, 0)
    return {"kernel_shape": [size, size], "pads": [pad] * 4}


def _convolution(nodes: list[NodeProto], name: str, tensor: str) -> str:
    inputs = [tensor, f"{name}_w", f"{name}_b"]
    nodes.append(helper.make_node("Conv", inputs, [f"{name}_conv"], **_attributes(name)))
    return f"{name}_conv"


def _relu(nodes: list[NodeProto], tensor: str, output: str = "") -> str:
    output = output or f"{tensor}_relu"
    nodes.append(helper.make_node("Relu", [tensor], [output]))
    return output


def _scaled(nodes: list[NodeProto], name: str, tensor: str) -> str:
    """float(convolution) * M + B."""
    nodes += [
        helper.make_node("ConvInteger", [tensor, f"{name}_w"], [f"{name}_conv"], **_attributes(name)),
        # Exact: |sum| <= 9 * 64 * 128 * 128 < 2^24, of 64 channels under 3x3; of 256 under 1x1 it is less.
        helper.make_node("Cast", [f"{name}_conv"], [f"{name}_float"], to=TensorProto.FLOAT),
        helper.make_node("Mul", [f"{name}_float", f"{name}_m"], [f"{name}_product"]),
        helper.make_node("Add", [f"{name}_product", f"{name}_b"], [f"{name}_scaled"]),
    ]
    return f"{name}_scaled"


def _rounded(nodes: list[NodeProto], tensor: str, low: str, output: str = "") -> str:
    output = output or f"{tensor}_int8"
    nodes += [
        helper.make_node("Round", [tensor], [f"{tensor}_round"]),
        helper.make_node("Clip", [f"{tensor}_round", low, "high"], [f"{tensor}_clip"]),
        helper.make_node("Cast", [f"{tensor}_clip"], [output], to=TensorProto.INT8),
    ]
    return output


def _constant(name: str, value: float) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_float=value)
