"""The first and the last convolution of a volume's network, found in a graph and lowered."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import FunctionProto, NodeProto

from trtforge.plugins.conv3d_small import function
from trtforge.plugins.conv3d_small.launch import LOWEST_SM, why_not
from trtforge.scales.codecs.weights import channel_scales
from trtforge.scales.codecs.weights import quantize as quantize_weight
from trtforge.surgery.int8 import dequantize, quantize, scale_of
from trtforge.surgery.op import (
    DOMAIN,
    Creator,
    Lowered,
    Lowering,
    Names,
    Op,
    Plugin,
    Situation,
    call,
    missing_range,
    why_not_ours,
)
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, attribute, label

NAME = "conv3d-small"
OPSET = 13
"""The first that has all of what the functions are written in: Unsqueeze of axes that are an input."""


class Conv3dSmallRule(Rule):
    """A 3-D convolution with so few channels on one side that tensor cores idle: the first, of 1 channel, or the last,
    1x1x1 to at most 8 channels of the graph's output.

    The first has 3x3x3, padding 1 and stride 1 or 2. Both have constant weights, one group, no dilation.
    """

    name = NAME
    begins = "Conv"

    def requires(self, view: View) -> str:
        if view.opset >= OPSET:
            return ""
        return f"the graph has opset {view.opset}, and its function needs {OPSET}: put `upgrade-opset` before it"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return view.nodes("Conv")

    def match(self, anchor: NodeProto, view: View) -> Match:
        weight = view.constant_shape(anchor.input[1])
        if weight is None or len(weight) != 5:
            raise NotHere("its kernel has not three dimensions")
        is_last = anchor.output[0] in view.index.outputs
        if weight[1] != 1 and not is_last:
            raise NotHere("it reads several channels, as the first does not, and makes no output, as the last does")
        bias = anchor.input[2] if len(anchor.input) > 2 else ""
        if bias and view.constant_shape(bias) is None:
            raise Near(f"its bias {bias!r} is computed in the graph")
        if attribute(anchor, "group", 1) != 1 or set(attribute(anchor, "dilations", [1])) != {1}:
            raise Near("it has groups or dilations")
        if attribute(anchor, "auto_pad", "NOTSET") != "NOTSET":
            raise Near(f"its padding is {attribute(anchor, 'auto_pad')}; write it as `pads`")
        pads, strides = attribute(anchor, "pads", [0] * 6), attribute(anchor, "strides", [1] * 3)
        made = "float32" if is_last and weight[1] != 1 else "int8"
        if why := why_not(weight, made, pads, strides):
            raise Near(why)
        (result,) = anchor.output
        return Match(
            rule=NAME,
            at=label(anchor),
            inputs=(anchor.input[0], anchor.input[1], bias),
            outputs=(result,),
            inner=(),
            ranges=(anchor.input[0],) if made == "float32" else (anchor.input[0], result),
            attributes={"pads": pads, "strides": strides},
            facts={"made": made},
        )


class Ours(Lowering):
    """The IPluginV3 of this folder, in INT8."""

    name = "trtforge"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        if why := why_not_ours(situation, precisions=("int8",)):
            return why
        if situation.sm is None or tuple(map(int, situation.sm.split("."))) < tuple(map(int, LOWEST_SM.split("."))):
            return f"its kernels need SM {LOWEST_SM} or later, and the target has {situation.sm or 'no GPU'}"
        return missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        x, w, b = match.inputs
        (result,) = match.outputs
        weight, to_float = view.value(w), match.facts["made"] == "float32"
        assert weight is not None  # the rule looked
        bias = view.value(b) if b else None
        bias = np.zeros(weight.shape[0], np.float32) if bias is None else bias
        taken, made = scale_of(x, situation), 1.0 if to_float else scale_of(result, situation)
        scales = channel_scales(weight, 0)
        constants = [
            names.weight(f"{w}_quantized", quantize_weight(weight, scales, 0)),
            names.weight(f"{w}_multiplier", (taken * scales.astype(np.float64) / made).astype(np.float32)),
            names.weight(f"{w}_offset", (bias.astype(np.float64) / made).astype(np.float32)),
        ]
        inside = names.fresh(f"{x}_int8")
        before = quantize(x, taken, inside, names)
        if to_float:
            fields = {**match.attributes, "to": 1}
            node = call(function.INT8_TO_FLOAT, [inside, *constants], [result], match.at, **fields)
            nodes: tuple[NodeProto, ...] = (before, node)
            made_by = function.conv3d_small_int8_to_float()
        else:
            fields = dict(match.attributes)
            outside = names.fresh(f"{result}_int8")
            node = call(function.INT8, [inside, *constants], [outside], match.at, **fields)
            nodes = (before, node, dequantize(outside, made, result, names))
            made_by = function.conv3d_small_int8()
        plugin = Plugin(Creator(node.op_type, "1", DOMAIN), NAME, fields)
        return Lowered(nodes, tuple(names.initializers), (_at_opset(made_by, view),), {DOMAIN: 1}, plugin)


class Conv3dSmall(Op):
    """The first 3-D convolution, of one channel, and the last, to a few classes."""

    name = NAME
    rule = Conv3dSmallRule()
    lowerings = (Ours(),)

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        x, w, b = match.inputs
        shape = view.constant_shape(w)
        assert shape is not None  # the rule looked
        bias = b or names.weight(f"{w}_bias", np.zeros(shape[0], np.float32))
        node = call(function.FLOAT, (x, w, bias), match.outputs, match.at, **match.attributes)
        return Lowered((node,), tuple(names.initializers), (_at_opset(function.conv3d_small(), view),), {DOMAIN: 1})


def _at_opset(meaning: FunctionProto, view: View) -> FunctionProto:
    """onnx's checks want the model's opset in a function; these operators mean the same in all from `OPSET` on."""
    for entry in meaning.opset_import:
        entry.version = view.opset
    return meaning


OP = Conv3dSmall()
