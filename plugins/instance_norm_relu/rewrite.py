"""Instance normalization and the ReLU behind it, found in a graph and lowered."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import FunctionProto, NodeProto, helper

from trtforge.plugins.instance_norm_relu import function
from trtforge.plugins.instance_norm_relu.launch import LOWEST_SM
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
    stock_missing,
    why_not_ours,
)
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, attribute, is_op, label

NAME = "instance-norm-relu"
LANES = 32
"""Channels of one CDHW32 group; the INT8 kernel works on whole ones."""

OPSET = 15
"""The first that has all of what the functions are written in: Shape of a part."""


class InstanceNormReluRule(Rule):
    """relu((x - mean) / sqrt(variance + epsilon) * scale + bias), mean and variance of each image and channel.

    Found where an `InstanceNormalization` with constant scale and bias has one reader, a `Relu`.
    """

    name = NAME
    begins = "InstanceNormalization"

    def requires(self, view: View) -> str:
        if view.opset >= OPSET:
            return ""
        return f"the graph has opset {view.opset}, and its function needs {OPSET}: put `upgrade-opset` before it"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return view.nodes("InstanceNormalization")

    def match(self, anchor: NodeProto, view: View) -> Match:
        x, scale, bias = anchor.input
        normal = anchor.output[0]
        readers = view.readers(normal)
        activation = next((node for node in readers if is_op(node, "Relu")), None)
        if activation is None:
            other = next((node for node in readers if is_op(node, "LeakyRelu", "PRelu", "Elu", "Clip")), None)
            if other is None:
                raise NotHere("no activation is behind it")
            raise Near(f"the activation behind it is {other.op_type}, and the plugin computes Relu")
        for what, name in (("scale", scale), ("bias", bias)):
            if view.constant_shape(name) is None:
                raise Near(f"its {what} {name!r} is computed in the graph")
        result = activation.output[0]
        shape = view.shape(x)
        return Match(
            rule=NAME,
            at=label(anchor),
            inputs=(x, scale, bias),
            outputs=(result,),
            inner=view.closed([anchor, activation], [result]),
            ranges=(x, result),
            attributes={"epsilon": float(attribute(anchor, "epsilon", 1e-5))},
            facts={"rank": None if shape is None else len(shape), "channels": view.constant_shape(scale)},
        )


class Ours(Lowering):
    """The IPluginV3 of this folder: INT8 in CDHW32, FP32 or FP16 in the linear layout."""

    name = "trtforge"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        if why := why_not_ours(situation, precisions=("int8", "fp32", "fp16")):
            return why
        if situation.sm is None or tuple(map(int, situation.sm.split("."))) < tuple(map(int, LOWEST_SM.split("."))):
            return f"its kernels need SM {LOWEST_SM} or later, and the target has {situation.sm or 'no GPU'}"
        if match.facts["rank"] != 5:
            rank = match.facts["rank"]
            return f"the kernel is for volumes, tensors of rank 5; {match.inputs[0]!r} has rank {rank or 'unknown'}"
        return self._int8_refuses(match, situation) if situation.precision == "int8" else ""

    def _int8_refuses(self, match: Match, situation: Situation) -> str:
        channels, epsilon = match.facts["channels"][0], match.attributes["epsilon"]
        if channels % LANES:
            return f"the INT8 kernel takes channels in groups of {LANES}, and here are {channels}"
        if epsilon <= 0:
            return f"the INT8 kernel divides by sqrt(variance + epsilon), and epsilon is {epsilon:g}"
        return missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        if situation.precision != "int8":
            return InstanceNormRelu().function(match, view, names)
        x, scale, bias = match.inputs
        (result,) = match.outputs
        taken, made = scale_of(x, situation), scale_of(result, situation)
        inside, outside = names.fresh(f"{x}_int8"), names.fresh(f"{result}_int8")
        fields = {**match.attributes, "input_scale": taken, "output_scale": made}
        node = call("InstanceNormReluInt8", [inside, scale, bias], [outside], match.at, **fields)
        nodes = (quantize(x, taken, inside, names), node, dequantize(outside, made, result, names))
        return Lowered(
            nodes,
            tuple(names.initializers),
            (_at_opset(function.instance_norm_relu_int8(), view),),
            {DOMAIN: 1},
            Plugin(Creator("InstanceNormReluInt8", "1", DOMAIN), NAME, fields),
        )


class Stock(Lowering):
    """NVIDIA's `InstanceNormalization_TRT`, version 3 or 2, which has the ReLU as a field.

    It stays in float in an INT8 engine too: its INT8 form takes scales from a calibrator, not from Q/DQ nodes.
    """

    name = "stock"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        if why := stock_missing(situation, "InstanceNormalization_TRT", ("3", "2")):
            return why
        rank = match.facts["rank"]
        if rank in (4, 5):
            return ""
        return f"NVIDIA's plugin takes tensors of rank 4 or 5; {match.inputs[0]!r} has rank {rank or 'unknown'}"

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        creators = {each for each in situation.creators if each.name == "InstanceNormalization_TRT"}
        versions = {each.version for each in creators if not each.namespace}
        version = max(versions & {"2", "3"})
        x, scale, bias = match.inputs
        values = {name: view.value(tensor) for name, tensor in (("scales", scale), ("bias", bias))}
        fields = {"epsilon": match.attributes["epsilon"], "relu": 1, "alpha": 0.0}
        node = helper.make_node(
            "InstanceNormalization_TRT",
            [x],
            list(match.outputs),
            name=match.at,
            plugin_version=version,
            plugin_namespace="",
            **{name: np.asarray(value, np.float32).tolist() for name, value in values.items()},
            **fields,
        )
        return Lowered((node,), plugin=Plugin(Creator("InstanceNormalization_TRT", version), NAME, fields))


class InstanceNormRelu(Op):
    """Instance normalization and the ReLU behind it."""

    name = NAME
    rule = InstanceNormReluRule()
    lowerings = (Stock(), Ours())

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        node = call("InstanceNormRelu", match.inputs, match.outputs, match.at, **match.attributes)
        plugin = Plugin(Creator("InstanceNormRelu", "1", DOMAIN), NAME, dict(match.attributes))
        return Lowered((node,), (), (_at_opset(function.instance_norm_relu(), view),), {DOMAIN: 1}, plugin)


def _at_opset(meaning: FunctionProto, view: View) -> FunctionProto:
    """onnx's checks want the model's opset in a function; these operators mean the same in all from `OPSET` on."""
    for entry in meaning.opset_import:
        entry.version = view.opset
    return meaning


OP = InstanceNormRelu()
