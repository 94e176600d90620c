"""float32 graphs to float16: same results to half's precision, right types everywhere, no silent infinity."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from trtforge.backends.tensorrt_rtx_.half import convert
from trtforge.errors.backend import Fp16OutOfRange, RtxRequestRefused
from trtforge.graph.model import Model

HEAD = '<ir_version: 8, opset_import: ["": 17]>'


def model(text: str, **weights: np.ndarray) -> Model:
    proto = onnx.parser.parse_model(f"{HEAD} {text}")
    proto.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    return Model(proto)


def check_same(before: Model, tolerance: float = 5e-3) -> Model:
    """Runs both on the ONNX reference and returns the converted model, fully checked."""
    after, _ = convert(before)
    onnx.checker.check_model(after.proto, full_check=True)
    rng = np.random.default_rng(0)
    feeds = {}
    for value in before.proto.graph.input:
        kind = value.type.tensor_type
        shape = [dim.dim_value for dim in kind.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        feeds[value.name] = rng.uniform(-2, 2, shape).astype(dtype)
    for want, got in zip(
        ReferenceEvaluator(before.proto).run(None, feeds), ReferenceEvaluator(after.proto).run(None, feeds), strict=True
    ):
        assert got.dtype == want.dtype
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)
    return after


def types(converted: Model) -> dict[str, int]:
    found = {value.name: value.type.tensor_type.elem_type for value in converted.proto.graph.value_info}
    return found | {tensor.name: tensor.data_type for tensor in converted.proto.graph.initializer}


def test_a_convolution_computes_in_half_between_casts() -> None:
    rng = np.random.default_rng(1)
    before = model(
        "net (float[1,4,8,8] x) => (float[1,8,8,8] y) { a = Conv <pads=[1,1,1,1]> (x, w, b)  y = Relu(a) }",
        w=rng.normal(size=(8, 4, 3, 3)).astype(np.float32) * 0.1,
        b=rng.normal(size=8).astype(np.float32),
    )
    after = check_same(before)
    assert [node.op_type for node in after.proto.graph.node] == ["Cast", "Conv", "Relu", "Cast"]
    assert TensorProto.FLOAT not in types(after).values()
    assert [value.type.tensor_type.elem_type for value in after.proto.graph.input] == [TensorProto.FLOAT]


def test_slots_that_onnx_keeps_in_float32_stay() -> None:
    """Resize takes its data in half, and its scales in float32 only."""
    before = model(
        'net (float[1,1,4,4] x) => (float[1,1,8,8] y) { a = Abs(x)  y = Resize <mode="nearest"> (a, , s) }',
        s=np.array([1, 1, 2, 2], np.float32),
    )
    after = check_same(before)
    assert types(after)["s"] == TensorProto.FLOAT
    resize = next(node for node in after.proto.graph.node if node.op_type == "Resize")
    assert types(after)[resize.input[0]] == TensorProto.FLOAT16


def test_one_tensor_read_as_half_and_as_float() -> None:
    before = model(
        """net (float[1,1,4,4] x, float[4] s) => (float[1,1,8,8] y, float[4] z) {
            t = Abs(s)  z = Sqrt(t)  one = Div(t, t)  two = Add(one, extra)
            y = Resize <mode="nearest"> (x, , two) }""",
        extra=np.array([0, 0, 1, 1], np.float32),
    )
    check_same(before)


def test_casts_constants_and_fills_change_type() -> None:
    before = model(
        """net (int64[4] i) => (float[4] y, int64[4] j) {
            a = Cast <to = 1> (i)  c = Constant <value_float = 2.5> ()  d = Constant <value = float {0.5}> ()
            n = Shape(i)  f = ConstantOfShape(n)  g = ConstantOfShape <value = float[1] {3.0}> (n)
            b = Mul(a, c)  e = Add(b, d)  h = Add(e, f)  y = Add(h, g)  j = Cast <to = 7> (y) }"""
    )
    after = check_same(before)
    assert all(
        attribute.t.data_type != TensorProto.FLOAT for node in after.proto.graph.node for attribute in node.attribute
    )


def test_an_input_that_is_an_output_and_a_shared_weight() -> None:
    before = model(
        "net (float[2,2] x) => (float[2,2] y, float[2,2] z) { y = Identity(x)  a = MatMul(x, w)  z = MatMul(a, w) }",
        w=np.eye(2, dtype=np.float32),
    )
    after = check_same(before)
    assert len(after.proto.graph.initializer) == 1


def test_names_that_end_like_ours_do_not_collide() -> None:
    check_same(
        model(
            "net (float[2] x) => (float[2] y) { a = Neg(x)  a_half = Abs(x)  x_half = Mul(a, a_half) y = Neg(x_half) }"
        )
    )


def test_a_weight_beyond_half_is_refused_and_a_mask_fill_is_cut() -> None:
    text = "net (float[2] x) => (float[2] y) { y = Mul(x, w) }"
    with pytest.raises(Fp16OutOfRange) as caught:
        convert(model(text, w=np.array([1.0, 7e4], np.float32)))
    assert "'w'" in caught.value.where
    assert "70000" in caught.value.why
    _, report = convert(model(text, w=np.array(-3.4e38, np.float32)))
    assert report.clamped == ["w"]
    assert (report.weights, report.casts, report.float_nodes) == (1, 2, [])


def test_infinities_stay_infinite() -> None:
    after, report = convert(
        model("net (float[2] x) => (float[2] y) { y = Min(x, w) }", w=np.array([np.inf, 1.0], np.float32))
    )
    assert not report.clamped
    assert np.isinf(numpy_helper.to_array(after.proto.graph.initializer[0])[0])


def test_graphs_inside_nodes_and_unknown_operators_are_refused() -> None:
    branch = "then_branch = g () => (float[2] a) { a = Neg(x) }, else_branch = h () => (float[2] b) { b = Abs(x) }"
    with pytest.raises(RtxRequestRefused) as caught:
        convert(model(f"net (float[2] x, bool c) => (float[2] y) {{ y = If <{branch}> (c) }}"))
    assert "If" in caught.value.where
    other = model("net (float[2] x) => (float[2] y) { y = Neg(x) }")
    other.proto.graph.node[0].domain = "made.up"
    other.proto.opset_import.append(helper.make_opsetid("made.up", 1))
    with pytest.raises(RtxRequestRefused, match="float16"):
        convert(other)


UNARY = ("Abs", "Neg", "Relu", "Sigmoid", "Tanh", "Identity", "Softsign")
BINARY = ("Add", "Mul", "Max", "Min")


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_graphs_keep_their_values(data: st.DataObject) -> None:
    names, lines = ["x", "w"], []
    for number in range(data.draw(st.integers(1, 8))):
        operator = data.draw(st.sampled_from(UNARY + BINARY))
        arguments = [data.draw(st.sampled_from(names)) for _ in range(1 if operator in UNARY else 2)]
        lines.append(f"t{number} = {operator}({', '.join(arguments)})")
        lines.append(f"u{number} = Tanh(t{number})")  # keeps values small, so that the tolerance means something
        names += [f"t{number}", f"u{number}"]
    outputs = data.draw(st.lists(st.sampled_from(names[2:]), min_size=1, max_size=3, unique=True))
    before = model(
        f"net (float[2,3] x) => ({', '.join(f'float[2,3] {name}' for name in outputs)}) {{ {' '.join(lines)} }}",
        w=np.array([[0.5, -1, 2], [0, 1, -0.25]], np.float32),
    )
    check_same(before, tolerance=2e-2)
