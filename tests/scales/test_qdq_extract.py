"""Q/DQ read back: other tools' spellings, forms that are refused, and round trips on random graphs."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper
from onnx.parser import parse_model

from trtforge.errors.calibration import QdqNotPlain
from trtforge.errors.scales import QdqScalesDisagree
from trtforge.graph.digests import digests
from trtforge.graph.model import Model
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.recipe.models import Quantize
from trtforge.scales.codecs.extraction import NOTE
from trtforge.scales.codecs.qdq import extract, insert
from trtforge.scales.codecs.qdq_extract import take_apart
from trtforge.scales.table import ScaleTable, TensorRange


def run(model: Model, x: np.ndarray) -> np.ndarray:
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(model.proto, model.folder, options).run(None, {"x": x})[0]  # type: ignore[no-any-return]


SHAPE = (1, 4, 6, 6)


@st.composite
def random_model(draw: st.DrawFn) -> Model:
    """A chain with branches of same-shaped tensors: convolutions, products, sums, pools, activations, reuse."""
    nodes, weights, tensors = [], [], ["x"]
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    for number in range(draw(st.integers(1, 9))):
        kind = draw(
            st.sampled_from(["Conv", "Conv", "ConvTranspose", "MatMul", "Add", "Relu", "MaxPool", "AveragePool"])
        )
        source, output = draw(st.sampled_from(tensors)), f"t{number}:0"
        name = draw(st.sampled_from([f"node{number}", ""]))
        inputs, attributes = [source], {}
        if kind in ("Conv", "ConvTranspose"):
            group = draw(st.sampled_from([1, 2]))
            shape = (4, 4 // group, 3, 3)
            attributes = {"pads": [1, 1, 1, 1], "group": group}
        elif kind == "MatMul":
            shape = (6, 6)
        if kind in ("Conv", "ConvTranspose", "MatMul"):
            weights.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), f"w{number}"))
            inputs.append(f"w{number}")
        if kind == "Conv" and draw(st.booleans()):
            weights.append(numpy_helper.from_array(random.normal(size=4).astype(np.float32), f"b{number}"))
            inputs.append(f"b{number}")
        if kind == "Add":
            inputs.append(draw(st.sampled_from(tensors)))
        if kind in ("MaxPool", "AveragePool"):
            attributes = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        nodes.append(helper.make_node(kind, inputs, [output], name=name, **attributes))
        tensors.append(output)
    outputs = sorted({tensors[-1], draw(st.sampled_from(tensors[1:]))})
    graph = helper.make_graph(
        nodes,
        "random",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, SHAPE) for name in outputs],
        weights,
    )
    return Model(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


amaxes = st.floats(min_value=2.0**-60, max_value=2.0**60, width=32)


@st.composite
def quantizable(draw: st.DrawFn) -> tuple[Model, ScaleTable]:
    """A random model with at least one weighted node, and ranges for most of its tensors (the input always)."""
    weighted = {"Conv", "MatMul", "ConvTranspose"}
    model = draw(random_model().filter(lambda m: any(n.op_type in weighted for n in m.proto.graph.node)))
    names = [name for node in model.proto.graph.node for name in node.output]
    known = [name for name in names if draw(st.integers(0, 7))]
    table = ScaleTable({name: TensorRange(-draw(amaxes), 0.0, 1) for name in ["x", *known]})
    reads_known = any(n.op_type in weighted and n.input[0] in table.ranges for n in model.proto.graph.node)
    if not reads_known:
        table = ScaleTable({name: TensorRange(-draw(amaxes), 0.0, 1) for name in ["x", *names]})
    return model, table


POLICY = Quantize(conv_transpose=True)


@settings(max_examples=60, deadline=None)
@given(quantizable())
def test_insert_then_extract_gives_the_same_graph_and_scales(case: tuple[Model, ScaleTable]) -> None:
    model, table = case
    quantized, report = insert(model, table, POLICY, weights="float")
    plain, scales = extract(quantized)
    assert digests(plain) == digests(model)
    assert set(scales.ranges) == set(report.tensors)
    for name, seen in scales.ranges.items():
        assert seen.scale.tobytes() == table.ranges[name].scale.tobytes()


@settings(max_examples=60, deadline=None)
@given(quantizable())
def test_inserted_models_are_valid_and_keep_every_float_name(case: tuple[Model, ScaleTable]) -> None:
    model, table = case
    quantized, report = insert(model, table, POLICY)
    onnx.checker.check_model(quantized.proto, full_check=True)
    made = {name for node in quantized.proto.graph.node for name in node.output}
    assert {name for node in model.proto.graph.node for name in node.output} <= made
    quantizers = [node.input[0] for node in quantized.proto.graph.node if node.op_type == "QuantizeLinear"]
    assert len(quantizers) == len(set(quantizers)) == len(report.tensors)
    weighted = [node for node in model.proto.graph.node if node.op_type in ("Conv", "ConvTranspose", "MatMul")]
    counted = report.quantized_conv + report.quantized_conv_transpose + report.quantized_matmul
    left = [entry for entry in report.left_float if entry.op in ("Conv", "ConvTranspose", "MatMul")]
    assert counted + len(left) == len(weighted)


@settings(max_examples=40, deadline=None)
@given(quantizable())
def test_int8_round_trip_keeps_scales_integers_and_results(case: tuple[Model, ScaleTable]) -> None:
    model, table = case
    first, _ = insert(model, table, POLICY)
    plain, scales = extract(first)
    second, _ = insert(plain, scales, POLICY)
    old = {tensor.name: numpy_helper.to_array(tensor) for tensor in first.proto.graph.initializer}
    new = {tensor.name: numpy_helper.to_array(tensor) for tensor in second.proto.graph.initializer}
    assert set(old) == set(new)
    for name, values in old.items():
        if values.dtype == np.float32 and values.ndim == 1:  # a weight's scale, once more max|w| / 127: 1 ulp at most
            np.testing.assert_array_max_ulp(values, new[name], maxulp=1)
        else:
            np.testing.assert_array_equal(values, new[name])


def test_the_plain_model_computes_what_the_quantized_one_computes_on_the_grid() -> None:
    """With inputs on the quantization grid and one layer, taking Q/DQ out changes nothing."""
    model = Model(
        parse_model(
            '<ir_version: 8, opset_import: ["" : 17]> g (float[1,4,2,2] x) => (float[1,4,2,2] out) {out = Conv(x, w)}'
        )
    )
    weight = np.random.default_rng(1).normal(size=(4, 4, 1, 1)).astype(np.float32)
    model.proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    quantized, _ = insert(model, ScaleTable({"x": TensorRange(-127.0, 127.0, 1)}))
    plain, _ = extract(quantized)
    x = np.random.default_rng(2).integers(-127, 128, size=(1, 4, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(run(plain, x), run(quantized, x), rtol=1e-6, atol=1e-5)


CONV = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    out = Conv(d, w)
}"""
WEIGHT = numpy_helper.from_array(np.array([[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]], np.float32), "w")


def conv(body: str = CONV, **constants: np.ndarray) -> Model:
    proto = parse_model(body)
    proto.graph.initializer.append(WEIGHT)
    for name, values in constants.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    return Model(proto)


SCALE = np.float32(0.0123)


@pytest.mark.parametrize("rank", [(), (1,)])
@pytest.mark.parametrize("zero", [np.int8(0), np.uint8(128)])
def test_symmetric_spellings(rank: tuple[int, ...], zero: np.integer) -> None:
    plain, table = extract(conv(s=np.full(rank, SCALE), z=np.full(rank, zero)))
    assert table.ranges["x"].scale.tobytes() == SCALE.tobytes()
    assert table.notes == {}
    (node,) = plain.proto.graph.node
    assert list(node.input) == ["x", "w"]
    assert [tensor.name for tensor in plain.proto.graph.initializer] == ["w"]


def test_asymmetric_ranges_are_read_as_ranges_and_noted() -> None:
    _, table = extract(conv(s=np.float32(0.5), z=np.uint8(0)))
    assert table.ranges["x"] == TensorRange(0.0, 127.5, 0)
    assert table.notes[NOTE] == ["x"]
    _, table = extract(conv(s=np.float32(0.5), z=np.int8(-28)))
    assert table.ranges["x"] == TensorRange(-50.0, 77.5, 0)


def test_missing_zero_point_means_uint8() -> None:
    body = CONV.replace(", s, z)", ", s)")
    _, table = extract(conv(body, s=np.float32(0.5)))
    assert table.ranges["x"] == TensorRange(0.0, 127.5, 0)


def test_constant_nodes_hold_scales_too() -> None:
    model = conv()
    for name, value in (("s", SCALE), ("z", np.int8(0))):
        constant = helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.asarray(value), ""))
        model.proto.graph.node.insert(0, constant)
    plain, table = extract(model)
    assert table.ranges["x"].scale == SCALE
    assert [node.op_type for node in plain.proto.graph.node] == ["Conv"]


@pytest.mark.parametrize(
    "made",
    [
        "s = Constant<value_float = 0.0625>()",
        "s = Identity(k)",
        "j = Constant<value_floats = [0.0625]>() s = Identity(j)",
    ],
)
def test_scales_that_other_nodes_hold(made: str) -> None:
    """Exporters share equal constants by Identity nodes; nothing of them is left in the plain graph."""
    model = conv(CONV.replace("q = Quant", f"{made} q = Quant"), z=np.int8(0), k=np.float32(0.0625))
    plain, table = extract(model)
    assert table.ranges == {"x": TensorRange.from_scale(np.float32(0.0625))}
    assert [node.op_type for node in plain.proto.graph.node] == ["Conv"]
    assert [tensor.name for tensor in plain.proto.graph.initializer] == ["w"]


def test_weights_behind_an_identity_are_weights() -> None:
    body = CONV.replace(
        "out = Conv(d, w)", "u = Identity(w) p = QuantizeLinear(u, s, z) r = DequantizeLinear(p, s, z) out = Conv(d, r)"
    )
    found = take_apart(conv(body, s=SCALE, z=np.int8(0)))
    assert list(found.table.ranges) == ["x"] and [weight.tensor for weight in found.weights] == ["w"]


def test_graph_output_behind_a_pair_keeps_its_name() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) {
        pre = Conv(x, w)
        q = QuantizeLinear(pre, s, z)
        out = DequantizeLinear(q, s, z)
    }"""
    plain, table = extract(conv(body, s=SCALE, z=np.int8(0)))
    assert [list(node.output) for node in plain.proto.graph.node] == [["out"]]
    assert list(table.ranges) == ["out"]
    onnx.checker.check_model(plain.proto, full_check=True)


def test_graph_output_that_is_a_quantized_input_becomes_an_identity() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] d) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
    }"""
    plain, _ = extract(conv(body, s=SCALE, z=np.int8(0)))
    (node,) = plain.proto.graph.node
    assert (node.op_type, list(node.input), list(node.output)) == ("Identity", ["x"], ["d"])
    x = np.ones((1, 2, 3, 3), np.float32)
    np.testing.assert_array_equal(run(plain, x), x)


def test_a_pair_for_each_reader_is_fine_when_they_agree() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) {
        q1 = QuantizeLinear(x, s, z)
        d1 = DequantizeLinear(q1, s, z)
        q2 = QuantizeLinear(x, S2, z)
        d2 = DequantizeLinear(q2, S2, z)
        a = Conv(d1, w)
        b = Conv(d2, w)
        out = Add(a, b)
    }"""
    plain, table = extract(conv(body.replace("S2", "s"), s=SCALE, z=np.int8(0)))
    assert [node.input[0] for node in plain.proto.graph.node] == ["x", "x", "a"]
    assert list(table.ranges) == ["x"]
    disagreeing = conv(body.replace("S2", "t"), s=SCALE, t=np.float32(1), z=np.int8(0))
    with pytest.raises(QdqScalesDisagree, match="'x'") as caught:
        extract(disagreeing)
    assert "amax 127 at d2" in caught.value.why and "at d1" in caught.value.why
    found = take_apart(disagreeing, "widest")
    assert found.table.ranges["x"].scale == np.float32(1)
    assert [(conflict.tensor, conflict.nodes) for conflict in found.conflicts] == [("x", ("d2", "d1"))]


def test_captured_tensors_are_restored_inside_subgraphs() -> None:
    body = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x, bool flag) => (float[1,2,3,3] out) {
        q = QuantizeLinear(x, s, z)
        d = DequantizeLinear(q, s, z)
        out = If (flag) <then_branch = t () => (float[1,2,3,3] y) { y = Conv(d, w) },
                         else_branch = e () => (float[1,2,3,3] v) { v = Abs(d) }>
    }"""
    plain, _ = extract(conv(body, s=SCALE, z=np.int8(0)))
    onnx.checker.check_model(plain.proto, full_check=True)
    assert {inner.input[0] for a in plain.proto.graph.node[0].attribute for inner in a.g.node} == {"x"}


def onnxruntime_static(tmp_path: Path, **options: object) -> tuple[Model, Model]:
    """A small float model, and what onnxruntime's static quantizer makes of it."""
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

    body = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,5] out) {
        [c1] a = Conv(x, w1, b1)
        r = Relu(a)
        [c2] b = Conv(r, w2, b2)
        s = Add(b, r)
        f = Flatten(s)
        [fc] out = Gemm(f, w3, b3)
    }"""
    proto = parse_model(body)
    random = np.random.default_rng(5)
    shapes = {"w1": (2, 2, 1, 1), "b1": (2,), "w2": (2, 2, 1, 1), "b2": (2,), "w3": (18, 5), "b3": (5,)}
    for name, shape in shapes.items():
        proto.graph.initializer.append(numpy_helper.from_array(random.normal(size=shape).astype(np.float32), name))
    onnx.save(proto, tmp_path / "float.onnx")

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"x": random.normal(size=(1, 2, 3, 3)).astype(np.float32)} for _ in range(4)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self.left.pop() if self.left else None

    quantize_static(
        str(tmp_path / "float.onnx"),
        str(tmp_path / "int8.onnx"),
        Reader(),
        quant_format=QuantFormat.QDQ,
        weight_type=QuantType.QInt8,
        **options,
    )
    return Model(proto), Model(onnx.load(tmp_path / "int8.onnx"))


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("dedicated", [False, True])
def test_onnxruntime_models_are_read(tmp_path: Path, per_channel: bool, symmetric: bool, dedicated: bool) -> None:
    from onnxruntime.quantization import QuantType

    original, quantized = onnxruntime_static(
        tmp_path,
        per_channel=per_channel,
        activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
        extra_options={"ActivationSymmetric": symmetric, "DedicatedQDQPair": dedicated},
    )
    plain, table = extract(quantized)
    onnx.checker.check_model(plain.proto, full_check=True)
    # A pair of uint8 from 0 is a Relu itself: the quantizer drops the node, and here it is again.
    assert [n.op_type for n in plain.proto.graph.node] == [n.op_type for n in original.proto.graph.node]
    if symmetric:
        assert [n.output[0] for n in plain.proto.graph.node] == [n.output[0] for n in original.proto.graph.node]
    assert {t.name for t in plain.proto.graph.initializer} == {t.name for t in original.proto.graph.initializer}
    assert {"x", "r", "f"} <= set(table.ranges)
    assert bool(table.notes) is not symmetric
    floats = {t.name: numpy_helper.to_array(t) for t in original.proto.graph.initializer}
    for tensor in plain.proto.graph.initializer:  # weights and the int32 biases: within a step of the originals
        values = numpy_helper.to_array(tensor)
        assert values.dtype == np.float32
        assert np.abs(values - floats[tensor.name]).max() <= np.abs(floats[tensor.name]).max() / 127
    if symmetric:
        scales = {n.input[0]: n.input[1] for n in quantized.proto.graph.node if n.op_type == "QuantizeLinear"}
        stored = {t.name: numpy_helper.to_array(t) for t in quantized.proto.graph.initializer}
        assert table.ranges["x"].scale.tobytes() == stored[scales["x"]].reshape(()).astype(np.float32).tobytes()
    again, report = insert(plain, table)
    assert report.quantized_conv == 2 and report.quantized_gemm == 1
    assert extract(again)[1].ranges.keys() <= table.ranges.keys()


def test_weights_that_are_no_integers_are_refused() -> None:
    """Read as integers, eight-bit floats would all become zeros and ones."""
    body = """
    <ir_version: 9, opset_import: ["" : 19]>
    g (float[1, 4] x) => (float[1, 4] y) { v = DequantizeLinear(w, s) y = MatMul(x, v) }
    """
    proto = parse_model(body)
    proto.graph.initializer.append(numpy_helper.from_array(np.full((4, 4), 0.5, ml_dtypes.float8_e4m3fn), "w"))
    proto.graph.initializer.append(numpy_helper.from_array(np.asarray(2, np.float32), "s"))
    with pytest.raises(QdqNotPlain) as caught:
        extract(Model(proto))
    assert "float8_e4m3fn" in caught.value.why
