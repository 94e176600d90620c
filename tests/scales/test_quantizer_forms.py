"""Random networks in the spellings of quantizers: every scale through a cache and back, and the plain network's values.

The models are written by the code below, not by ours: pairs for each reader or one for all, scales of rank 0 or 1, in
initializers, Constant nodes or behind an Identity, int8 or uint8, weights stored as integers or behind a pair.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import NodeProto, helper, numpy_helper

from tests.scales.test_qdq_extract import POLICY, random_model, run
from trtforge.errors.calibration import QdqNothingToDo
from trtforge.graph.model import Model
from trtforge.scales.carry import carry
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.qdq_extract import take_apart
from trtforge.scales.codecs.trt_cache import CalibrationCache

WEIGHT_AXIS = {"Conv": 0, "ConvTranspose": 1, "MatMul": 1}


@dataclass(frozen=True)
class Spelling:
    """``kept``: initializer, value, value_float or identity. ``each``: a pair for each reader."""

    scale: np.float32
    rank: int
    zero: np.int8 | np.uint8
    kept: str
    each: bool


spellings = st.builds(
    Spelling,
    st.floats(2.0**-100, 2.0**100, width=32).map(np.float32),
    st.sampled_from([0, 1]),
    st.sampled_from([np.int8(0), np.uint8(128)]),
    st.sampled_from(["initializer", "value", "value_float", "identity"]),
    st.booleans(),
)


class Exporter:
    """Writes a network with pairs, or with an Identity in the place of each: its float form."""

    def __init__(self, model: Model, spelled: dict[str, Spelling], weights: dict[str, str], *, pairs: bool) -> None:
        self.source, self.spelled, self.weights, self.pairs = model.proto, spelled, weights, pairs
        self.nodes: list[NodeProto] = []
        self.constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
        self.made: dict[str, str] = {}

    def write(self) -> Model:
        for node in self.source.graph.node:
            copy = NodeProto.FromString(node.SerializeToString())
            for slot, name in enumerate(node.input):
                if name in self.spelled:
                    copy.input[slot] = self.activation(name, f"{node.output[0]}_{slot}")
                elif name in self.weights:
                    copy.input[slot] = self.weight(name, WEIGHT_AXIS[node.op_type])
            self.nodes.append(copy)
        old = self.source.graph
        graph = helper.make_graph(self.nodes, "exported", old.input, old.output, list(self.constants.values()))
        return Model(helper.make_model(graph, opset_imports=self.source.opset_import, ir_version=8))

    def activation(self, name: str, reader: str) -> str:
        said = self.spelled[name]
        key = f"{name}.{reader}" if said.each else name
        if key not in self.made:
            self.made[key] = self.pair(
                key, name, self.scale(key, said), self.constant(f"{key}.z", self.ranked(said.zero, said))
            )
        return self.made[key]

    def pair(self, key: str, source: str, *params: str, **attributes: int) -> str:
        if self.pairs:
            self.add("QuantizeLinear", [source, *params], f"{key}.q", **attributes)
            return self.add("DequantizeLinear", [f"{key}.q", *params], f"{key}.dq", **attributes)
        return self.add("Identity", [source], f"{key}.dq")

    def weight(self, name: str, axis: int) -> str:
        if name in self.made:
            return self.made[name]
        values = numpy_helper.to_array(self.constants[name])
        others = tuple(each for each in range(values.ndim) if each != axis)
        largest = np.abs(values).max(axis=others) if self.weights[name] != "per tensor" else np.abs(values).max()
        scale = self.constant(f"{name}.s", np.asarray(largest / np.float32(127), np.float32))
        zero = self.constant(f"{name}.z", np.zeros(np.shape(largest), np.int8))
        attributes = {"axis": axis} if np.ndim(largest) else {}
        if self.weights[name] == "pair":
            self.made[name] = self.pair(name, name, scale, zero, **attributes)
        else:
            shape = [-1 if each == axis else 1 for each in range(values.ndim)]
            steps = values / (largest.reshape(shape) / np.float32(127)) if attributes else values / (largest / 127)
            stored = self.constant(f"{name}.stored", np.clip(np.rint(steps), -127, 127).astype(np.int8))
            self.made[name] = self.add("DequantizeLinear", [stored, scale, zero], f"{name}.dq", **attributes)
            del self.constants[name]
        return self.made[name]

    def scale(self, key: str, said: Spelling) -> str:
        name, value = f"{key}.s", self.ranked(said.scale, said)
        if said.kept == "value":
            return self.add("Constant", [], name, value=numpy_helper.from_array(value))
        if said.kept == "value_float" and said.rank == 0:
            return self.add("Constant", [], name, value_float=float(said.scale))
        if said.kept == "identity":
            return self.add("Identity", [self.constant(f"{name}.shared", value)], name)
        return self.constant(name, value)

    @staticmethod
    def ranked(value: np.generic, said: Spelling) -> np.ndarray:
        return np.full((1,) * said.rank, value, value.dtype)

    def constant(self, name: str, values: np.ndarray) -> str:
        self.constants[name] = numpy_helper.from_array(values, name)
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], **attributes))
        return output


@st.composite
def exported(draw: st.DrawFn) -> tuple[Model, Model, dict[str, np.float32]]:
    """A quantized network, its float form, and the scale of each quantized activation."""
    model = draw(random_model())
    graph = model.proto.graph
    names = ["x", *(output for node in graph.node for output in node.output)]
    read = {name for node in graph.node for name in node.input}
    spelled = {name: draw(spellings) for name in names if name in read and draw(st.integers(0, 3))}
    assume(spelled)
    kinds = ["per channel", "per tensor", "pair", ""]
    weighted = [node.input[1] for node in graph.node if node.op_type in WEIGHT_AXIS]
    weights = {name: kind for name in weighted if (kind := draw(st.sampled_from(kinds)))}
    both = [Exporter(model, spelled, weights, pairs=pairs).write() for pairs in (True, False)]
    return both[0], both[1], {name: said.scale for name, said in spelled.items()}


@settings(max_examples=80, deadline=None)
@given(exported())
def test_every_scale_comes_back_and_the_plain_network_computes_the_same(
    case: tuple[Model, Model, dict[str, np.float32]],
) -> None:
    quantized, floats, scales = case
    onnx.checker.check_model(quantized.proto, full_check=True)
    found = take_apart(quantized)
    x = np.random.default_rng(0).normal(size=(1, 4, 6, 6)).astype(np.float32)
    np.testing.assert_array_equal(run(found.model, x), run(floats, x))

    data = CalibrationCache.from_table(carry(found).table, tensorrt="8.6.2").to_bytes()
    read = CalibrationCache.from_bytes(data)
    assert {name: read.scales[name].tobytes() for name in scales} == {n: s.tobytes() for n, s in scales.items()}
    try:
        again, report = insert(found.model, read.to_table(), POLICY)
    except QdqNothingToDo:
        return
    back = CalibrationCache.from_table(take_apart(again).table, tensorrt="8.6.2")
    lines = back.to_bytes().splitlines()
    assert len(lines) == 1 + len(report.tensors) and set(lines) <= set(data.splitlines())


def test_the_float_form_differs_from_the_quantized_one() -> None:
    """Else the test above compares a network with itself."""
    body = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,6,6] x) => (float[1,4,6,6] y) { y = Relu(x) }'
    model = Model(onnx.parser.parse_model(body))
    said = {"x": Spelling(np.float32(0.5), 0, np.int8(0), "value", True)}
    x = np.full((1, 4, 6, 6), 0.7, np.float32)
    values = [run(Exporter(model, said, {}, pairs=pairs).write(), x).max() for pairs in (True, False)]
    assert values == pytest.approx([0.5, 0.7])
