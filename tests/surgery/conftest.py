"""A network of three convolutions, and a plugin for the ones with a ReLU behind them."""

from __future__ import annotations

from collections.abc import Iterable
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import NodeProto, helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.scales.table import ScaleTable, TensorRange
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
    function_proto,
    missing_range,
    why_not_ours,
)
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, is_op, label

TEXT = """
    <ir_version: 8, opset_import: ["": 17]>
    net (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y, float[1, 4, 8, 8] aux) {
        [first] c0 = Conv <pads = [1, 1, 1, 1]> (x, w0, b0)
        [first_relu] r0 = Relu (c0)
        [second] c1 = Conv <pads = [1, 1, 1, 1]> (r0, w1)
        [second_relu] r1 = Relu (c1)
        [side] aux = Neg (c1)
        [third] c2 = Conv <pads = [1, 1, 1, 1]> (r1, w2)
        [sigmoid] s2 = Sigmoid (c2)
        [last] c3 = Conv <pads = [1, 1, 1, 1]> (s2, w3)
        [last_relu] y = Relu (c3)
    }
"""


class ConvReluRule(Rule):
    """relu(w * x + b)."""

    name = "conv-relu"

    def anchors(self, view: View) -> Iterable[NodeProto]:
        return view.nodes("Conv")

    def match(self, anchor: NodeProto, view: View) -> Match:
        (made,) = anchor.output
        relu = next((node for node in view.readers(made) if is_op(node, "Relu")), None)
        if relu is None:
            raise NotHere
        result = relu.output[0]
        inner = view.closed([anchor, relu], [result])
        if len(anchor.input) == 2 and view.scalar(anchor.input[1]) == 0.0:
            raise Near("the weight is zero")
        return Match(self.name, label(anchor), tuple(anchor.input), (result,), inner, (anchor.input[0], result))


class Ours(Lowering):
    name = "trtforge"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        return why_not_ours(situation, ("int8", "fp32")) or missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        if situation.precision != "int8":
            return ConvRelu().function(match, view, names)
        x, result = match.inputs[0], match.outputs[0]
        inside, outside = names.fresh(f"{x}_int8"), names.fresh(f"{result}_int8")
        taken, made = scale_of(x, situation), scale_of(result, situation)
        weight = names.weight(f"{result}_weight", view.value(match.inputs[1]))
        scales = {"input_scale": taken, "output_scale": made}
        node = call("ConvReluInt8", [inside, weight], [outside], match.at, **scales)
        nodes = (quantize(x, taken, inside, names), node, dequantize(outside, made, result, names))
        plugin = Plugin(Creator("ConvReluInt8", "1", DOMAIN), "conv-relu", scales)
        return Lowered(nodes, tuple(names.initializers), (), {DOMAIN: 1}, plugin)


class Standard(Lowering):
    """Needs opset 19, and is not for targets below SM 8.6."""

    name = "attention"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        return "" if situation.sm == "8.6" else f"it is for SM 8.6, and this is SM {situation.sm}"

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        inner = names.fresh("conv")
        nodes = (
            helper.make_node("Conv", list(match.inputs), [inner], pads=[1] * 4),
            helper.make_node("Relu", [inner], list(match.outputs)),
        )
        return Lowered(nodes, opsets={"": 19})


class ConvRelu(Op):
    """A convolution and the ReLU behind it,
    in one.

    More words that no list shows.
    """

    name = "conv-relu"
    rule = ConvReluRule()
    lowerings = (Ours(), Standard())

    def function(self, match: Match, view: View, names: Names) -> Lowered:
        operands = ["x", "w", "b"][: len(match.inputs)]
        nodes = [
            helper.make_node("Conv", operands, ["c"], pads=[1] * 4),
            helper.make_node("Relu", ["c"], ["y"]),
        ]
        name = f"ConvRelu{len(operands)}"
        function = function_proto(name, operands, ["y"], nodes, opset=17)
        node = call(name, match.inputs, match.outputs, match.at)
        return Lowered((node,), (), (function,), {DOMAIN: 1})


def made(text: str, **weights: np.ndarray) -> Model:
    """A model from ONNX's text form, its weights, and shapes inferred."""
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return infer_shapes(Model(proto))


@pytest.fixture(scope="session")
def kit() -> SimpleNamespace:
    """The classes of this file, for tests that make more of them."""
    return SimpleNamespace(ConvRelu=ConvRelu, ConvReluRule=ConvReluRule, Ours=Ours, Standard=Standard, made=made)


@pytest.fixture
def op() -> ConvRelu:
    return ConvRelu()


@pytest.fixture
def net() -> Model:
    """TEXT: `first` and `last` are conv-relu, `second` nearly, `third` is something else."""
    rng = np.random.default_rng(3)
    weights = {f"w{n}": rng.normal(0, 0.2, (4, 4, 3, 3)).astype(np.float32) for n in range(4)}
    return made(TEXT, **weights, b0=rng.normal(0, 0.1, 4).astype(np.float32))


@pytest.fixture
def table(net: Model) -> ScaleTable:
    """Ranges of every tensor: 1 and up, so that no two scales are the same."""
    names = ["x", *(name for node in net.proto.graph.node for name in node.output)]
    return ScaleTable({name: TensorRange(-1.0 - n, 1.0 + n, 4) for n, name in enumerate(names)})


@pytest.fixture
def int8(table: ScaleTable) -> Situation:
    return Situation("tensorrt_rtx", "int8", "8.0", ranges={name: seen.amax for name, seen in table.ranges.items()})
