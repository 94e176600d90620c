"""Q/DQ insertion: where pairs go, what they hold, and that the result computes what it says."""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.parser import parse_model

from trtforge.errors.calibration import (
    QdqNeedsOpset,
    QdqNothingToDo,
    QdqNotPlain,
    QdqUnknownSkip,
    QdqWeightsInvalid,
)
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.recipe.models import Quantize
from trtforge.scales.codecs.qdq import QdqReport, expected_int8_convolutions, insert
from trtforge.scales.table import ScaleTable, TensorRange


def noise(*shape: int, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weight(name: str, *shape: int) -> onnx.TensorProto:
    return numpy_helper.from_array(noise(*shape, seed=zlib.crc32(name.encode())), name)


def parsed(body: str, *weights: onnx.TensorProto, opset: int = 17) -> Model:
    """A model from the nodes of a graph in ONNX textual syntax, with these weights."""
    proto = parse_model(f'<ir_version: 8, opset_import: ["" : {opset}]> {body}')
    proto.graph.initializer.extend(weights)
    return Model(proto)


def ranges(model: Model, *, without: tuple[str, ...] = (), amax: float = 4.0) -> ScaleTable:
    """A range for every tensor that is not a weight, each a little different."""
    constants = {tensor.name for tensor in model.proto.graph.initializer}
    names = [value.name for value in model.proto.graph.input]
    names += [name for node in model.proto.graph.node for name in node.output]
    known = [name for name in names if name not in constants and name not in without]
    return ScaleTable({name: TensorRange(-amax - i, amax / 2, 1) for i, name in enumerate(known)})


def run(model: Model, **feeds: np.ndarray) -> list[np.ndarray]:
    """Outputs with every optimisation off: Q and DQ are computed as written."""
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(model.proto, model.folder, options).run(None, feeds)  # type: ignore[no-any-return]


def pairs(model: Model) -> dict[str, str]:
    """Float tensor -> output of its DQ node, of every activation; checks the shape of each pair on the way."""
    onnx.checker.check_model(model.proto, full_check=True)
    constants = {tensor.name: tensor for tensor in model.proto.graph.initializer}
    nodes = {node.output[0]: node for node in model.proto.graph.node}
    found: dict[str, str] = {}
    for node in model.proto.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] in constants:
            continue
        quantize = nodes[node.input[0]]
        assert quantize.op_type == "QuantizeLinear"
        assert list(quantize.input[1:]) == list(node.input[1:])
        if quantize.input[0] in constants:
            continue
        scale, zero = (constants[name] for name in node.input[1:])
        assert list(scale.dims) == [] and list(zero.dims) == []  # rank 0: see the module's docstring
        assert zero.data_type == onnx.TensorProto.INT8 and numpy_helper.to_array(zero) == 0
        assert quantize.input[0] not in found, "one pair a tensor"
        found[quantize.input[0]] = node.output[0]
    return found


def node(model: Model, name: str) -> onnx.NodeProto:
    return next(n for n in model.proto.graph.node if n.name == name or name in n.output)


def fake_quant(x: np.ndarray, scale: float) -> np.ndarray:
    steps = np.clip(np.rint(x / np.float32(scale)), -128, 127)
    return (steps * np.float32(scale)).astype(np.float32)


def fake_quant_weight(w: np.ndarray, axis: int) -> np.ndarray:
    others = tuple(i for i in range(w.ndim) if i != axis)
    scale = (np.abs(w).max(axis=others, keepdims=True) / np.float32(127)).astype(np.float32)
    return (np.clip(np.rint(w / scale), -127, 127) * scale).astype(np.float32)


def conv1x1(x: np.ndarray, w: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.einsum("nchw,kc->nkhw", x, w[:, :, 0, 0]) + b[None, :, None, None]


RESIDUAL = """g (float[1,4,5,5] x) => (float[1,4,5,5] out) {
    [first] a = Conv(x, w1, b1)
    [relu1] r = Relu(a)
    [second] c = Conv(r, w2, b2)
    [sum] s = Add(c, r)
    [relu2] t = Relu(s)
    [third] out = Conv(t, w3, b3)
}"""
RESIDUAL_WEIGHTS = [weight(f"w{i}", 4, 4, 1, 1) for i in (1, 2, 3)] + [weight(f"b{i}", 4) for i in (1, 2, 3)]


def residual() -> Model:
    return parsed(RESIDUAL, *RESIDUAL_WEIGHTS)


def test_a_residual_block_is_computed_as_numpy_computes_it() -> None:
    model = residual()
    table = ranges(model)
    quantized, report = insert(model, table)
    x = noise(1, 4, 5, 5) * 2
    w1, w2, w3, b1, b2, b3 = (numpy_helper.to_array(tensor) for tensor in RESIDUAL_WEIGHTS)
    scale = {name: seen.amax / 127 for name, seen in table.ranges.items()}
    relu = fake_quant(np.maximum(conv1x1(fake_quant(x, scale["x"]), fake_quant_weight(w1, 0), b1), 0), scale["r"])
    joined = np.maximum(conv1x1(relu, fake_quant_weight(w2, 0), b2) + relu, 0)
    expected = conv1x1(fake_quant(joined, scale["t"]), fake_quant_weight(w3, 0), b3)
    (got,) = run(quantized, x=x)
    # a value on the edge of a step may round to the other side: at most a step of one activation
    assert np.abs(got - expected).max() <= scale["t"] * np.abs(w3).sum(axis=1).max()
    assert np.mean(np.abs(got - expected) > 1e-4) < 0.05
    assert report.quantized_conv == expected_int8_convolutions(report) == 3


def test_residual_placement() -> None:
    model = residual()
    quantized, report = insert(model, ranges(model))
    found = pairs(quantized)
    assert set(found) == {"x", "r", "t"}
    assert list(node(quantized, "second").input) == [found["r"], "w2_DequantizeLinear_Output", "b2"]
    assert list(node(quantized, "sum").input) == ["c", found["r"]]  # the convolution fuses, the skip is shared
    assert node(quantized, "relu1").output[0] == "r"  # the float name survives
    assert report.residual_adds == ("sum",)
    assert report.left_float == ()
    assert [value.name for value in quantized.proto.graph.output] == ["out"]


def test_names_scales_and_weights() -> None:
    model = residual()
    table = ranges(model)
    quantized, _ = insert(model, table)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.proto.graph.initializer}
    assert constants["x_scale"] == table.ranges["x"].scale
    assert node(quantized, "x_QuantizeLinear").output[0] == "x_QuantizeLinear_Output"
    assert node(quantized, "x_DequantizeLinear").output[0] == "x_DequantizeLinear_Output"
    assert constants["w1_quantized"].dtype == np.int8
    assert constants["w1_scale"].shape == (4,) and constants["w1_zero_point"].tolist() == [0] * 4
    assert np.abs(constants["w1_quantized"].astype(int)).max(axis=(1, 2, 3)).tolist() == [127] * 4
    assert not {"w1", "w2", "w3"} & set(constants)  # the float weights are gone, the float biases stay
    assert {"b1", "b2", "b3"} <= set(constants)


def test_the_given_model_is_not_changed_and_the_result_is_deterministic() -> None:
    model = residual()
    before = model.proto.SerializeToString(deterministic=True)
    first, _ = insert(model, ranges(model))
    second, _ = insert(model, ranges(model))
    assert model.proto.SerializeToString(deterministic=True) == before
    assert first.proto.SerializeToString(deterministic=True) == second.proto.SerializeToString(deterministic=True)


def test_projection_shortcut_is_the_quantized_side() -> None:
    body = """g (float[1,4,5,5] x) => (float[1,4,5,5] out) {
        [main1] a = Conv(x, w1)
        [main2] c = Conv(a, w2)
        [shortcut] d = Conv(x, w3)
        [sum] out = Add(ORDER)
    }"""
    for order in ("c, d", "d, c"):
        model = parsed(body.replace("ORDER", order), *RESIDUAL_WEIGHTS[:3])
        quantized, _ = insert(model, ranges(model))
        assert set(pairs(quantized)) == {"x", "a", "d"}
        assert "c" in node(quantized, "sum").input


def test_skip_without_range_leaves_the_sum_float_and_says_so() -> None:
    model = parsed(
        """g (float[1,4,5,5] x, float[1,4,5,5] y) => (float[1,4,5,5] out) {
            [conv] c = Conv(x, w1)
            [sum] out = Add(y, c)
        }""",
        RESIDUAL_WEIGHTS[0],
    )
    quantized, report = insert(model, ranges(model, without=("y",)))
    assert set(pairs(quantized)) == {"x"}
    (left,) = report.left_float
    assert (left.node, left.op) == ("sum", "Add")
    assert "'y'" in left.reason and "floating point" in left.consequence


@pytest.mark.parametrize(
    "sums",
    ["[sum] out = Add(c, bias)", "[r] r = Relu(c) [sum] out = Add(r, x)", "[sum] out = Add(c, c)"],
    ids=["constant", "no fusable convolution", "twice the same"],
)
def test_sums_that_are_no_residual_get_no_pair(sums: str) -> None:
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { [conv] c = Conv(x, w1) " + sums + "}",
        RESIDUAL_WEIGHTS[0],
        weight("bias", 1, 4, 1, 1),
    )
    quantized, report = insert(model, ranges(model))
    assert report.residual_adds == ()
    assert set(pairs(quantized)) == {"x"}


def test_bias_and_norm_between_convolution_and_sum_still_fuse() -> None:
    model = parsed(
        """g (float[1,4,5,5] x, float[1,4,5,5] y) => (float[1,4,5,5] out) {
            [conv] c = Conv(x, w1)
            [shift] d = Add(c, bias)
            [sum] out = Add(y, d)
        }""",
        RESIDUAL_WEIGHTS[0],
        weight("bias", 1, 4, 1, 1),
    )
    quantized, report = insert(model, ranges(model))
    assert report.residual_adds == ("sum",)
    assert set(pairs(quantized)) == {"x", "y"}


@pytest.mark.parametrize("pool", ["GlobalAveragePool(r)", "AveragePool <kernel_shape=[5,5]> (r)"])
def test_average_pool_gets_pairs_on_both_sides(pool: str) -> None:
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,3] out) { [c] a = Conv(x, w1) [relu] r = Relu(a) [pool] p = "
        + pool
        + " [flat] f = Flatten(p) [fc] out = Gemm(f, w)}",
        RESIDUAL_WEIGHTS[0],
        weight("w", 4, 3),
    )
    quantized, report = insert(model, ranges(model))
    found = pairs(quantized)
    assert set(found) == {"x", "r", "p", "f"}
    assert node(quantized, "pool").input[0] == found["r"]
    assert node(quantized, "flat").input[0] == found["p"]
    assert report.pools == ("pool",)


def test_average_pool_in_a_float_part_or_at_the_end_stays_float() -> None:
    at_end = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,1,1] p) { [c] a = Conv(x, w1) [pool] p = GlobalAveragePool(a) }",
        RESIDUAL_WEIGHTS[0],
    )
    assert set(pairs(insert(at_end, ranges(at_end))[0])) == {"x"}
    in_front = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) "
        "{ [pool] p = AveragePool <kernel_shape=[1,1]> (x) [c] out = Conv(p, w1)}",
        RESIDUAL_WEIGHTS[0],
    )
    assert set(pairs(insert(in_front, ranges(in_front))[0])) == {"p"}


def test_max_pool_commutes_and_gets_no_pair_of_its_own() -> None:
    model = parsed(
        """g (float[1,4,5,5] x) => (float[1,4,5,5] out) {
            [c] a = Conv(x, w1)
            [pool] p = MaxPool <kernel_shape=[1,1]> (a)
            [d] out = Conv(p, w2)
        }""",
        *RESIDUAL_WEIGHTS[:2],
    )
    assert set(pairs(insert(model, ranges(model))[0])) == {"x", "p"}


@pytest.mark.parametrize(
    ("expression", "shape", "axis", "other"),
    [
        ("Gemm(x, w)", (6, 3), 1, "float[2,6]"),
        ("Gemm <transB=1> (x, w)", (3, 6), 0, "float[2,6]"),
        ("MatMul(x, w)", (6, 3), 1, "float[2,6]"),
        ("MatMul(x, w)", (2, 6, 3), 2, "float[2,2,6]"),
        ("MatMul(x, w)", (6,), None, "float[2,6]"),
        ("MatMul(w, x)", (3, 2), 0, "float[2,6]"),
        ("MatMul(w, x)", (4, 3, 2), 1, "float[4,2,6]"),
        ("Gemm(w, x)", (3, 2), 0, "float[2,6]"),
        ("Gemm <transA=1> (w, x)", (2, 3), 1, "float[2,6]"),
        ("Conv(x, w)", (5, 2, 1, 1), 0, "float[1,2,4,4]"),
        ("Conv <group=2> (x, w)", (4, 1, 3, 3), 0, "float[1,2,4,4]"),
        ("Conv(x, w)", (5, 2, 1, 1, 1), 0, "float[1,2,4,4,4]"),
        ("ConvTranspose(x, w)", (2, 5, 2, 2), 1, "float[1,2,4,4]"),
        ("ConvTranspose <group=2> (x, w)", (2, 5, 2, 2), 1, "float[1,2,4,4]"),
    ],
)
def test_weights_are_quantized_along_the_output_channels(
    expression: str, shape: tuple[int, ...], axis: int | None, other: str
) -> None:
    values = noise(*shape)
    model = parsed(f"g ({other} x) => (float[] out) {{ [n] out = {expression} }}", numpy_helper.from_array(values, "w"))
    model.proto.graph.output[0].type.tensor_type.ClearField("shape")
    model = Model(onnx.shape_inference.infer_shapes(model.proto))
    quantized, report = insert(model, ranges(model, amax=3.0), Quantize(conv_transpose=True))
    assert report.weights == ("w",) and report.left_float == ()
    pairs(quantized)
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.proto.graph.initializer}
    (dequantize,) = (n for n in quantized.proto.graph.node if n.input[0] == "w_quantized")
    stated = {a.name: a.i for a in dequantize.attribute}
    assert stated == ({} if axis is None else {"axis": axis})
    amax = np.abs(values).max(axis=None if axis is None else tuple(i for i in range(values.ndim) if i != axis))
    assert constants["w_scale"].shape == amax.shape
    np.testing.assert_array_equal(constants["w_scale"], (amax / np.float32(127)).astype(np.float32))
    # and it computes: within the rounding of weights and activations of the float product
    x = noise(*(d.dim_value for d in model.proto.graph.input[0].type.tensor_type.shape.dim), seed=3)
    x = np.clip(x, -2.9, 2.9)
    (got,), (want,) = run(quantized, x=x), run(model, x=x)
    assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want)


def test_product_of_two_activations_quantizes_both() -> None:
    model = parsed("g (float[2,3,4] q, float[2,4,3] k) => (float[2,3,3] out) { [qk] out = MatMul(q, k) }")
    quantized, report = insert(model, ranges(model))
    found = pairs(quantized)
    assert list(node(quantized, "qk").input) == [found["q"], found["k"]]
    assert report.matmul == ("qk",) and report.weights == ()


def test_conv_transpose_needs_the_policy() -> None:
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { [up] u = ConvTranspose(x, w1) [c] out = Conv(u, w2) }",
        *RESIDUAL_WEIGHTS[:2],
    )
    quantized, report = insert(model, ranges(model))
    assert report.quantized_conv_transpose == 0
    assert set(pairs(quantized)) == {"u"}
    assert [(left.node, left.op) for left in report.left_float] == [("up", "ConvTranspose")]
    quantized, report = insert(model, ranges(model), Quantize(conv_transpose=True))
    assert report.conv_transpose == ("up",) and expected_int8_convolutions(report) == 1
    assert set(pairs(quantized)) == {"x", "u"}


def test_skip_keeps_a_node_float_and_unknown_names_are_refused() -> None:
    model = residual()
    quantized, report = insert(model, ranges(model), Quantize(skip=("third", "sum")))
    assert set(pairs(quantized)) == {"x", "r"}
    assert list(node(quantized, "third").input) == ["t", "w3", "b3"]
    assert report.conv == ("first", "second") and report.residual_adds == ()
    assert "quantize.skip" in report.left_float[0].reason
    with pytest.raises(QdqUnknownSkip) as caught:
        insert(model, ranges(model), Quantize(skip=("thirt",)))
    assert caught.value.next.startswith("did you mean 'third'")  # a guess, not an order


def test_missing_range_leaves_its_consumers_float() -> None:
    model = residual()
    quantized, report = insert(model, ranges(model, without=("t",)))
    assert set(pairs(quantized)) == {"x", "r"}
    (left,) = report.left_float
    assert left.node == "third" and "'t'" in left.reason and left.consequence
    assert json.loads(json.dumps(report.to_json()))["left_float"][0]["node"] == "third"
    assert report.to_json()["quantized"]["conv"] == 2


def test_one_weight_with_two_readers_is_stored_once() -> None:
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { [a] y = Conv(x, w1) [b] out = Conv(y, w1) }",
        RESIDUAL_WEIGHTS[0],
    )
    quantized, report = insert(model, ranges(model))
    names = [tensor.name for tensor in quantized.proto.graph.initializer]
    assert names.count("w1_quantized") == 1 and report.weights == ("w1",)
    assert node(quantized, "a").input[1] == node(quantized, "b").input[1]


def test_weight_that_a_float_node_reads_too_stays() -> None:
    model = parsed(
        "g (float[2,6] x) => (float[2,3] y, float[6,3] z) { [fc] y = MatMul(x, w) [copy] z = Abs(w) }",
        weight("w", 6, 3),
    )
    quantized, _ = insert(model, ranges(model))
    assert node(quantized, "copy").input[0] == "w"
    run(quantized, x=np.ones((2, 6), np.float32))


def test_weight_of_a_constant_node() -> None:
    model = parsed("g (float[2,6] x) => (float[2,3] y) { [fc] y = MatMul(x, w) }")
    constant = helper.make_node("Constant", [], ["w"], value=weight("", 6, 3))
    model.proto.graph.node.insert(0, constant)
    quantized, report = insert(model, ranges(model))
    assert report.weights == ("w",)
    assert "Constant" not in [n.op_type for n in quantized.proto.graph.node]
    pairs(quantized)


def test_initializers_among_the_inputs_of_an_old_model_leave_with_their_weights() -> None:
    model = residual()
    model.proto.ir_version = 3
    for tensor in model.proto.graph.initializer:
        model.proto.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    quantized, _ = insert(model, ScaleTable(ranges(residual()).ranges))
    assert {value.name for value in quantized.proto.graph.input} == {"x", "b1", "b2", "b3"}


def test_zero_channels_and_zero_ranges_get_scale_one() -> None:
    values = noise(4, 4, 1, 1)
    values[2] = 0
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { [c] out = Conv(x, w1) }", numpy_helper.from_array(values, "w1")
    )
    quantized, report = insert(model, ScaleTable({"x": TensorRange(0.0, 0.0, 3)}))
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in quantized.proto.graph.initializer}
    assert constants["x_scale"] == 1 and constants["w1_scale"][2] == 1
    assert not constants["w1_quantized"][2].any()
    assert report.zero_range == ("x",)
    (got,) = run(quantized, x=np.zeros((1, 4, 5, 5), np.float32))
    assert not got.any()


def test_taken_names_are_avoided() -> None:
    model = parsed(
        "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { [c] x_scale = Conv(x, w1) [d] out = Conv(x_scale, w2) }",
        *RESIDUAL_WEIGHTS[:2],
    )
    pairs(insert(model, ranges(model))[0])


def test_captures_of_a_subgraph_stay_float() -> None:
    model = parsed(
        """g (float[1,4,5,5] x, bool flag) => (float[1,4,5,5] out) {
            [c] a = Conv(x, w1)
            [d] b = Conv(a, w2)
            [if] out = If (flag) <then_branch = t () => (float[1,4,5,5] y) { y = Add(a, b) },
                                  else_branch = e () => (float[1,4,5,5] z) { z = Abs(a) }>
        }""",
        *RESIDUAL_WEIGHTS[:2],
    )
    table = ScaleTable({name: TensorRange(-4.0, 4.0, 1) for name in "xab"})
    quantized, _ = insert(model, table)
    assert set(pairs(quantized)) == {"x", "a"}
    run(quantized, x=np.ones((1, 4, 5, 5), np.float32), flag=np.array(True))


def test_external_weights_are_read_from_their_file(tmp_path: Path) -> None:
    model = residual()
    onnx.save_model(
        onnx.ModelProto.FromString(model.proto.SerializeToString()),
        str(tmp_path / "m.onnx"),
        save_as_external_data=True,
        location="m.data",
        size_threshold=0,
    )
    external = io.load(tmp_path / "m.onnx")
    assert external.folder is not None
    quantized, _ = insert(external, ranges(model))
    inline, _ = insert(model, ranges(model))
    x = noise(1, 4, 5, 5)
    np.testing.assert_array_equal(run(quantized, x=x)[0], run(inline, x=x)[0])
    assert not any(tensor.name == "w1" for tensor in quantized.proto.graph.initializer)


def test_float_weight_form_computes_the_same() -> None:
    model = residual()
    stored, _ = insert(model, ranges(model))
    kept, _ = insert(model, ranges(model), weights="float")
    assert "w1" in [tensor.name for tensor in kept.proto.graph.initializer]
    x = noise(1, 4, 5, 5)
    np.testing.assert_array_equal(run(stored, x=x)[0], run(kept, x=x)[0])


def test_refusals() -> None:
    with pytest.raises(QdqNeedsOpset) as old:
        insert(parsed(RESIDUAL, *RESIDUAL_WEIGHTS, opset=12), ranges(residual()))
    assert "upgrade-opset" in old.value.next and "12" in old.value.why

    quantized, _ = insert(residual(), ranges(residual()))
    with pytest.raises(QdqNotPlain, match="already"):
        insert(quantized, ranges(residual()))

    with pytest.raises(QdqNothingToDo) as foreign:
        insert(residual(), ScaleTable({"other": TensorRange(0.0, 1.0, 1)}))
    assert "'x'" in foreign.value.why

    no_products = parsed("g (float[2] x) => (float[2] y) { y = Relu(x) }")
    with pytest.raises(QdqNothingToDo, match="no node can run") as empty:
        insert(no_products, ranges(no_products))
    assert empty.value.where == "graph 'g'"
    assert "fp32" in empty.value.next  # the host has no fp16

    for bad in (np.nan, np.inf):
        values = noise(4, 4, 1, 1)
        values[1, 2] = bad
        broken = parsed(
            "g (float[1,4,5,5] x) => (float[1,4,5,5] out) { out = Conv(x, w1) }", numpy_helper.from_array(values, "w1")
        )
        with pytest.raises(QdqWeightsInvalid, match="w1"):
            insert(broken, ranges(broken))


@pytest.mark.parametrize(
    ("body", "weights", "said"),
    [
        ("{ y = Conv(x, k) [c] out = Conv(y, x) }", [weight("k", 4, 4, 1, 1)], "computed in the graph"),
        ("{ y = Conv(x, k) [c] out = Conv(k, k) }", [weight("k", 4, 4, 1, 1)], "both its inputs are constants"),
        ("{ y = Conv(x, k) [c] out = Conv(k, y) }", [weight("k", 4, 4, 1, 1)], "convolves a constant"),
    ],
)
def test_reasons_for_staying_float(body: str, weights: list[onnx.TensorProto], said: str) -> None:
    model = parsed(f"g (float[4,4,1,1] x) => (float[4,4,1,1] out) {body}", *weights)
    _, report = insert(model, ranges(model))
    (left,) = report.left_float
    assert left.node == "c" and said in left.reason


def test_half_precision_weights_stay_as_they_are() -> None:
    half = numpy_helper.from_array(np.ones((4, 4, 1, 1), np.float16), "h")
    model = parsed(
        """g (float16[1,4,5,5] x, float[1,4,5,5] z) => (float16[1,4,5,5] out, float[1,4,5,5] y) {
            [half] out = Conv(x, h)
            [full] y = Conv(z, w1)
        }""",
        half,
        RESIDUAL_WEIGHTS[0],
    )
    _, report = insert(model, ranges(model))
    assert report.conv == ("full",)
    assert "float16" in report.left_float[0].reason


@pytest.mark.parametrize(("elem_type", "said"), [(10, "float16"), (11, "double")])
def test_activations_of_other_types_stay_as_they_are(elem_type: int, said: str) -> None:
    """A Q with a float32 scale on them would be no valid graph."""
    model = parsed(
        f"""g (float[1,4,4] x) => (float[1,4,4] out, float[1,4,4] full) {{
            d = Cast<to = {elem_type}>(x) t = Transpose<perm = [0, 2, 1]>(d) [product] q = MatMul(d, t)
            out = Cast<to = 1>(q)
            [plain] full = MatMul(x, x)
        }}"""
    )
    quantized, report = insert(infer_shapes(model), ranges(model))
    assert report.matmul == ("plain",)
    assert said in report.left_float[0].reason
    assert report.left_float[0].node == "product"
    run(quantized, x=noise(1, 4, 4))


def test_an_empty_report_is_json() -> None:
    assert QdqReport().to_json()["quantized"]["conv"] == 0
