"""On random graphs: every pass is idempotent, keeps values by name, and leaves a valid graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.graph.passes.registry import available, run

SHAPE = [2, 4, 5, 6]
SAFE = [name for name, one in available().items() if not one.redefines]


class Builder:
    """A graph of float tensors of one shape, grown by one small motif at a time."""

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.tensors = ["x"]
        self.rng = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        output = f"{op}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [output], **attributes))
        return output

    def weight(self, value: Any) -> str:
        name = f"w{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def floats(self, *shape: int) -> np.ndarray[Any, Any]:
        return self.rng.normal(size=shape).astype(np.float32)

    def grow(self, motif: str, first: str, second: str) -> None:
        if motif == "norm":
            conv = self.node("Conv", first, self.weight(self.floats(4, 4, 1, 1)))
            parts = [self.weight(self.floats(4)) for _ in range(3)] + [self.weight(np.abs(self.floats(4)) + 0.5)]
            result = self.node("BatchNormalization", conv, *parts)
        elif motif == "reshape":
            axis = self.node("Constant", value=numpy_helper.from_array(np.array([0], np.int64)))
            batch = self.node("Gather", self.node("Shape", first), axis)
            rest = self.weight(np.array(SHAPE[1:], np.int64))
            result = self.node("Reshape", first, self.node("Concat", batch, rest, axis=0))
        elif motif == "constant":
            scaled = self.node("Mul", self.weight(self.floats(1, 4, 1, 1)), self.weight(np.float32(2)))
            result = self.node("Add", first, self.node("Neg", scaled))
        elif motif == "pool":
            result = self.node("Add", first, self.node("GlobalAveragePool", second))
        elif motif == "mean":
            result = self.node("Mul", first, self.node("ReduceMean", second, axes=[2, 3]))
        elif motif == "unsqueeze":
            if self.opset >= 13:
                axes = self.weight(np.array([0], np.int64))
                result = self.node("Squeeze", self.node("Unsqueeze", first, axes), axes)
            else:
                result = self.node("Squeeze", self.node("Unsqueeze", first, axes=[0]), axes=[0])
        elif motif in ("Add", "Mul"):
            result = self.node(motif, first, second)
        elif motif == "dead":
            self.node("Exp", first)
            return
        else:
            result = self.node(motif, first)
        self.tensors.append(result)

    def model(self, outputs: list[str]) -> Model:
        value = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "random",
            [value("x", TensorProto.FLOAT, SHAPE)],
            [value(name, TensorProto.FLOAT, SHAPE) for name in dict.fromkeys(outputs)],
            self.weights,
        )
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=7)
        onnx.checker.check_model(proto)
        return Model(proto)


MOTIFS = ["Relu", "Sigmoid", "Identity", "Dropout", "Softmax", "Tanh", "Add", "Mul", "norm", "reshape", "constant"]
MOTIFS += ["pool", "mean", "unsqueeze", "dead"]


@st.composite
def models(draw: st.DrawFn) -> Model:
    builder = Builder(draw(st.sampled_from([11, 13, 17])))
    for _ in range(draw(st.integers(1, 8))):
        motif = draw(st.sampled_from(MOTIFS))
        builder.grow(motif, *(draw(st.sampled_from(builder.tensors)) for _ in range(2)))
    produced = [name for name in builder.tensors if name != "x"]
    if not produced:
        builder.grow("Relu", "x", "x")
        produced = builder.tensors[1:]
    return builder.model([*draw(st.lists(st.sampled_from(produced), max_size=2)), produced[-1]])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(model=models(), order=st.permutations(SAFE))
def test_passes_in_any_order_keep_values_and_are_idempotent(values, agree, model: Model, order: list[str]) -> None:
    feeds = {"x": np.random.default_rng(1).normal(size=SHAPE).astype(np.float32)}
    expected = values(model, feeds)
    for name in order:
        model, (report,) = run(model, [name])
        onnx.checker.check_model(model.proto, full_check=True)
        actual = values(model, feeds)
        agree(expected, actual)
        assert {value.name for value in model.proto.graph.output} <= actual.keys()
        again, (second,) = run(model, [name])
        assert not second.modified, (name, report.reason, second.reason)
        assert again.proto == model.proto


@settings(max_examples=20, deadline=None)
@given(model=models(), names=st.lists(st.sampled_from(sorted(available())), max_size=4))
def test_a_run_is_deterministic_and_leaves_its_input_alone(model: Model, names: list[str]) -> None:
    names = ["upgrade-opset", *names]
    before = model.proto.SerializeToString(deterministic=True)
    first, _ = run(model, names)
    second, _ = run(model, names)
    assert first.proto.SerializeToString(deterministic=True) == second.proto.SerializeToString(deterministic=True)
    assert model.proto.SerializeToString(deterministic=True) == before


@pytest.mark.parametrize("name", sorted(set(available()) - set(SAFE)))
def test_passes_that_redefine_something_say_so_in_their_page(name: str) -> None:
    one = available()[name]
    assert one.redefines <= {"inputs", "outputs", "values"}
    assert len(one.doc.splitlines()) > 1
