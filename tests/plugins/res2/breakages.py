"""The stage broken in every way that the rule refuses, one thing at a time, and what is said of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

Stage = Any
"""Of graphs.py."""

Change = Callable[[Stage], object]


@dataclass(frozen=True)
class Breakage:
    """One thing wrong. ``why``: a regular expression for a part of the sentence. ``fixed``: what the spelling must be
    for it."""

    why: str
    do: Change
    fixed: dict[str, Any] = field(default_factory=dict)


def _attribute(*nodes: str, **attributes: str) -> Change:
    def do(stage: Stage) -> None:
        for node in nodes:
            stage.lines[node].attributes.pop("auto_pad", None)
            stage.lines[node].attributes |= attributes

    return do


def _stride_in_2b(stage: Stage) -> None:
    _attribute("a_2b", strides="[2, 2]", pads="[1, 1, 1, 1]")(stage)
    _attribute("a_branch1", strides="[2, 2]")(stage)


def _grouped(stage: Stage) -> None:
    stage.lines["b_2b"].attributes["group"] = "2"
    stage.weights["b_2b_w"] = stage.weights["b_2b_w"][:, ::2]


def _wider(stage: Stage) -> None:
    """Block b's inner convolutions have twice the channels."""
    for name, axes in (("b_2a", (0,)), ("b_2b", (0, 1)), ("b_2c", (1,))):
        for axis in axes:
            weight = stage.weights[f"{name}_w"]
            stage.weights[f"{name}_w"] = np.concatenate([weight, weight], axis)
        if 0 in axes:
            for each in (f"{name}_{what}" for what in ("b", "scale", "shift", "mean", "variance")):
                if each in stage.weights:
                    stage.weights[each] = np.tile(stage.weights[each], 2)


def _computed(weight: str) -> Change:
    return lambda stage: stage.compute(weight)


def _also_read(tensor: str) -> Change:
    def do(stage: Stage) -> None:
        name = stage.value(tensor) if tensor.endswith(("2a", "2b", "2c", "branch1")) else tensor
        stage.outputs.append(stage.add("aux", "Sigmoid", [name]))

    return do


def _channels_last(stage: Stage) -> None:
    stage.behind("b_2a_relu", "to_last", "Transpose", perm="[0, 2, 3, 1]")
    stage.before("b_2b", "to_first", "Transpose", perm="[0, 3, 1, 2]")


def _quantized(stage: Stage) -> None:
    stage.weight("scale", np.float32(0.1))
    stage.weights["zero_point"] = np.int8(0)
    stage.behind("b_2a_relu", "q", "QuantizeLinear", "scale", "zero_point")
    stage.before("b_2b", "dq", "DequantizeLinear", "scale", "zero_point")


def _padded(stage: Stage) -> None:
    stage.weights["amounts"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
    stage.behind("a_2a_relu", "pad", "Pad", "amounts")
    _attribute("a_2b", pads="[0, 0, 0, 0]")(stage)


def _another(name: str, operator: str, *more: str) -> Change:
    return lambda stage: stage.swap(name, operator, *more)


def _reads_the_first(stage: Stage) -> None:
    stage.lines["b_2a"].inputs[0] = "x"


def _overflowing(stage: Stage) -> None:
    stage.weights["a_2c_variance"] = np.zeros_like(stage.weights["a_2c_variance"])
    stage.weights["a_2c_scale"] = stage.weights["a_2c_scale"] * np.float32(1e38)


def _separate_bias(stage: Stage) -> None:
    stage.weight("apart", np.ones((stage.spelling.channels[1], 1, 1)))
    stage.behind(stage.value("b_2a"), "biased", "Add", "apart")


OF_NORM = {"norm": True, "opset": 17}
MODERN = {"opset": 17}
EVEN = {"size": (6, 8)}

BREAKAGES = {
    "inner tensor read outside": Breakage(
        "block b: the tensor 'b_2b_relu' .* second consumer 'aux'", _also_read("b_2b_relu")
    ),
    "projection read outside": Breakage(
        "block a: the tensor 'a_branch1.*' .* second consumer 'aux'", _also_read("a_branch1")
    ),
    "block a's output read outside": Breakage(
        "block a: the tensor 'a_relu' .* second consumer 'aux'", _also_read("a_relu")
    ),
    "sum read outside": Breakage("block c: the tensor 'c_add' .* second consumer 'aux'", _also_read("c_add")),
    "inner tensor is an output": Breakage(
        "block b: the tensor 'b_2a_relu' inside it is an output", lambda stage: stage.outputs.append("b_2a_relu")
    ),
    "block b's output is an output": Breakage(
        "block b: the tensor 'b_relu' inside it is an output", lambda stage: stage.outputs.append("b_relu")
    ),
    "dilation": Breakage(
        "block b: conv 2b has dilation 2x2", _attribute("b_2b", dilations="[2, 2]", pads="[2, 2, 2, 2]")
    ),
    "groups": Breakage("block b: conv 2b has 2 groups", _grouped),
    "pads": Breakage(r"block c: conv 2b has pads \[0, 0, 2, 2\]", _attribute("c_2b", pads="[0, 0, 2, 2]")),
    "stride of v1": Breakage(
        "block a: conv 2a has stride 2x2: a stage that changes", _attribute("a_2a", "a_branch1", strides="[2, 2]"), EVEN
    ),
    "stride of v1.5": Breakage("block a: conv 2b has stride 2x2", _stride_in_2b, EVEN),
    "computed weight": Breakage("block b: conv 2a: its weight 'b_2a_w_again' is not a constant", _computed("b_2a_w")),
    "computed bias": Breakage("block c: conv 2c: its bias .* not a constant", _computed("c_2c_b"), {"bias": True}),
    "one block": Breakage("block b is missing", lambda stage: None, {"blocks": "a"}),
    "two blocks": Breakage("block c is missing: behind block b", lambda stage: None, {"blocks": "ab"}),
    "four blocks": Breakage("fourth block follows, which ends in 'd_add'", lambda stage: None, {"blocks": "abcd"}),
    "no ReLU behind 2a": Breakage("block a: conv 2a has no ReLU", lambda stage: stage.drop("a_2a_relu")),
    "no ReLU behind 2b": Breakage("block c: conv 2b has no ReLU", lambda stage: stage.drop("c_2b_relu")),
    "no ReLU behind a sum": Breakage("block b: the addition 'b_add' has no ReLU", lambda stage: stage.drop("b_relu")),
    "another activation": Breakage("conv 2a is followed by LeakyRelu 'b_2a_relu'", _another("b_2a_relu", "LeakyRelu")),
    "another activation of a sum": Breakage(
        "block a: the addition 'a_add' is followed by Sigmoid", _another("a_relu", "Sigmoid")
    ),
    "ReLU6": Breakage(
        r"Clip 'c_2b_relu' to \[0, 6\].*relu6-to-relu", _another("c_2b_relu", "Clip", "zero", "six"), MODERN
    ),
    "Clip without a lower bound": Breakage(
        r"Clip 'c_2b_relu' to \[-inf, 6\]", _another("c_2b_relu", "Clip", '""', "six"), MODERN
    ),
    "Clip from above zero": Breakage(r"Clip 'b_2a_relu' to \[6, inf\]", _another("b_2a_relu", "Clip", "six"), MODERN),
    "Clip without bounds": Breakage(r"Clip 'a_relu' to \[-inf, inf\]", _another("a_relu", "Clip"), MODERN),
    "block b reads another tensor": Breakage("block b is missing", _reads_the_first, {"channels": (32, 32, 32)}),
    "computed bound": Breakage(
        r"Clip 'a_2a_relu' to \[0, \?\]",
        lambda stage: (_another("a_2a_relu", "Clip", "zero", "largest")(stage), _computed("largest")(stage)),
        MODERN,
    ),
    "ReLU behind 2c": Breakage(
        "block b: conv 2c is followed by Relu 'early'", lambda stage: stage.behind(stage.value("b_2c"), "early", "Relu")
    ),
    "scaled residual": Breakage(
        "block c: conv 2c is followed by Mul 'scaled'",
        lambda stage: stage.behind(stage.value("c_2c"), "scaled", "Mul", "six"),
    ),
    "bias on its own": Breakage("block b: conv 2a is followed by Add 'biased'", _separate_bias),
    "Transpose pair": Breakage("block b: conv 2a is followed by Transpose 'to_last'", _channels_last),
    "Transpose pair between blocks": Breakage(
        "block b: Transpose 'first' lies inside",
        lambda stage: (
            stage.behind("a_relu", "last", "Transpose", perm="[0, 2, 3, 1]"),
            stage.behind("last", "first", "Transpose", perm="[0, 3, 1, 2]"),
        ),
    ),
    "Transpose before one branch": Breakage(
        "block a: Identity 'same' lies inside", lambda stage: stage.before("a_branch1", "same", "Identity")
    ),
    "Identity": Breakage(
        "conv 2b is followed by Identity 'same'.*remove-identity",
        lambda stage: stage.behind("b_2b_relu", "same", "Identity"),
    ),
    "Q/DQ": Breakage("conv 2a is followed by QuantizeLinear 'q'.*before quantization", _quantized, {"opset": 13}),
    "Pad": Breakage("block a: conv 2a is followed by Pad 'pad'", _padded, {"opset": 13}),
    "widths differ": Breakage("block b: conv 2a makes 64 channels, not 32", _wider, {"channels": (32, 32, 64)}),
    "odd inner channels": Breakage("the stage has 48 inner channels", lambda stage: None, {"channels": (32, 48, 64)}),
    "odd input": Breakage("the stage has 24 input channels", lambda stage: None, {"channels": (24, 32, 64)}),
    "odd output": Breakage("the stage has 80 output channels", lambda stage: None, {"channels": (32, 32, 80)}),
    "normalization twice": Breakage(
        "conv 2b is followed by BatchNormalization 'again'",
        lambda stage: stage.behind(
            "a_2b_bn",
            "again",
            "BatchNormalization",
            *(f"a_2b_{each}" for each in ("scale", "shift", "mean", "variance")),
        ),
        OF_NORM,
    ),
    "computed normalization": Breakage(
        "BatchNormalization 'a_2b_bn' reads 'a_2b_mean_again', which is not a constant", _computed("a_2b_mean"), OF_NORM
    ),
    "normalization out of range": Breakage("weights of 'a_2c' leave the range", _overflowing, OF_NORM),
}


def broken(name: str, spelling: Any, make: Callable[[Any], Stage]) -> Stage:
    """A stage, made by ``make``, with one thing wrong; the spelling gives way where it must."""
    stage = make(replace(spelling, **BREAKAGES[name].fixed, shuffle=False))
    BREAKAGES[name].do(stage)
    return stage
