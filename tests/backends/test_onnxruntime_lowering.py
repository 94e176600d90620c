"""The rewrite for onnxruntime's integer kernels: it means the same, it fuses, and it cannot saturate."""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.onnxruntime_ import biases
from trtforge.backends.onnxruntime_.checkpoints import exposing
from trtforge.backends.onnxruntime_.forms import EXACT
from trtforge.backends.onnxruntime_.lowering import lower
from trtforge.backends.onnxruntime_.products import NARROW_LIMIT, Products
from trtforge.backends.onnxruntime_.session import configured
from trtforge.backends.onnxruntime_.signs import nonnegative
from trtforge.backends.sqnr import Sqnr
from trtforge.graph.index import Index
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.graph.weights import read_tensor
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.recipe.models import Quantize
from trtforge.samples.base import Sample
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.weights import channel_scales, quantize
from trtforge.scales.table import ScaleTable, TensorRange


def prepared(net):
    floating = freeze_inputs(net.model, {"x": net.shape})
    return floating, insert(floating, net.table, Quantize())[0]


def run(model, sample, names=None, config=None):
    session = open_session(exposing(model.proto, names or []), None, configured(config or {}))
    names = names or [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(sample.inputs)), strict=True))


def optimized_ops(model, tmp_path) -> Counter:
    options = configured({})
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    open_session(model.proto, None, options)
    return Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)


def test_every_convolution_and_sum_runs_in_integers(residual, tmp_path):
    floating, quantized = prepared(residual)
    before = optimized_ops(quantized, tmp_path)
    lowered, report = lower(quantized, floating, residual.table, slack=math.inf, signed_weights="int8")
    after = optimized_ops(lowered, tmp_path)
    assert before["QLinearConv"] < 9  # what the rewrite is for
    assert after["QLinearConv"] == 9
    assert after["QLinearAdd"] == 2
    assert after["QLinearConcat"] == 1
    assert after["QGemm"] == 1
    assert after["Conv"] == after["FusedConv"] == after["Add"] == 0
    assert report.integer_biases == 9  # eight convolutions have one, and the Gemm


def test_relu6_and_the_bias_behind_a_matmul_are_taken_in(relu6, tmp_path):
    floating, quantized = prepared(relu6)
    lowered, report = lower(quantized, floating, relu6.table, slack=math.inf, signed_weights="int8")
    ops = optimized_ops(lowered, tmp_path)
    assert ops["QLinearConv"] == 7
    assert ops["QLinearAdd"] == 1
    assert ops["QGemm"] == 1
    assert ops["FusedConv"] == ops["Gemm"] == 0
    assert ops["Clip"] == 4  # of integers, behind the tensors that cannot be negative
    assert report.integer_biases == 8


@pytest.mark.parametrize("name", ["residual", "relu6"])
def test_integers_end_where_those_of_the_quantized_graph_do(name, request, monkeypatch):
    """Also for values that calibration did not see: beyond amax, uint8 has room and symmetric INT8 has none."""
    monkeypatch.setattr(Products, "_integer_bias", lambda self, *nodes: [])  # it moves an integer here and there
    net = request.getfixturevalue(name)
    loud = replace(net, samples=[replace(net.samples[0], inputs={"x": net.samples[0].inputs["x"] * 4})])
    floating, quantized = prepared(net)
    lowered, report = lower(quantized, floating, net.table, slack=0.0, signed_weights="int8")
    assert report.unsigned > 0
    assert max(difference.max() for difference in integer_differences(loud, quantized, lowered)) == 0


@pytest.mark.parametrize("form", ["int8", "narrow", "uint8"])
def test_a_relu_with_the_range_of_a_relu6_is_that_relu6(relu6, form):
    """What `relu6-to-relu` relies on: the end of the range is the end of the ReLU6, to the bit."""
    floating, _ = prepared(relu6)
    plain = copy.deepcopy(floating)
    for node in plain.proto.graph.node:
        if node.op_type == "Clip":
            node.op_type = "Relu"
            del node.input[1:]
    six = {name: TensorRange(0, 6, 1) for name in relu6.table.ranges if name.endswith("_6")}
    table = ScaleTable(relu6.table.ranges | six)
    results = []
    for model in (floating, plain):
        lowered, _ = lower(insert(model, table, Quantize())[0], model, table, slack=0.0, signed_weights=form)
        loud = [{"x": sample.inputs["x"] * 3} for sample in relu6.samples[:2]]
        results += [run(lowered, replace(relu6.samples[0], inputs=each)) for each in loud]
    for first, second in zip(results[:2], results[2:], strict=True):
        for name, values in first.items():
            np.testing.assert_array_equal(values, second[name])


def test_given_models_are_not_changed(residual):
    floating, quantized = prepared(residual)
    before = floating.proto.SerializeToString(deterministic=True), quantized.proto.SerializeToString(deterministic=True)
    lower(quantized, floating, residual.table, slack=math.inf, signed_weights="narrow")
    after = floating.proto.SerializeToString(deterministic=True), quantized.proto.SerializeToString(deterministic=True)
    assert before == after


def integer_differences(net, quantized, lowered):
    """|integer of the lowered graph - zero point - TensorRT's integer| of every quantized tensor, in graph order."""
    quantizers = [node for node in quantized.proto.graph.node if node.op_type == "QuantizeLinear"]
    names = [node.output[0] for node in quantizers]
    expected = run(quantized, net.samples[0], names, EXACT.config)
    found = run(lowered, net.samples[0], names, EXACT.config)
    index = Index(lowered.proto.graph)
    zeros = {name: numpy_helper.to_array(index.initializers[zero_point(index, name)]) for name in names}
    assert {int(zero) for zero in zeros.values()} == {0, 128}
    return [np.abs(found[name].astype(int) - zeros[name].astype(int) - expected[name].astype(int)) for name in names]


def zero_point(index, name):
    """That of the Q behind an integer tensor, a Clip of integers between them or not."""
    node = index.producers[name]
    return (index.producers[node.input[0]] if node.op_type == "Clip" else node).input[2]


def test_integers_are_those_of_the_quantized_graph(residual, monkeypatch):
    """But for the biases: rounding those to the accumulator's unit moves an integer by one here and there."""
    floating, quantized = prepared(residual)
    lowered, report = lower(quantized, floating, residual.table, slack=0.0, signed_weights="int8")
    assert set(report.extra_pairs) <= {"left", "right", "r0"}  # only pairs that change nothing
    early = integer_differences(residual, quantized, lowered)[:4]
    assert max(difference.max() for difference in early) <= 1
    assert max(difference.mean() for difference in early) < 0.02
    monkeypatch.setattr(Products, "_integer_bias", lambda self, *nodes: [])
    lowered, _ = lower(quantized, floating, residual.table, slack=0.0, signed_weights="int8")
    assert max(difference.max() for difference in integer_differences(residual, quantized, lowered)) == 0


def test_u8_weights_give_the_very_same_results(residual, signed, relu6):
    for net in (residual, signed, relu6):
        floating, quantized = prepared(net)
        int8, _ = lower(quantized, floating, net.table, slack=math.inf, signed_weights="int8")
        uint8, report = lower(quantized, floating, net.table, slack=math.inf, signed_weights="uint8")
        assert report.adapted_weights
        for sample in net.samples[:2]:
            first, second = run(int8, sample, config=EXACT.config), run(uint8, sample, config=EXACT.config)
            for name, values in first.items():
                np.testing.assert_array_equal(values, second[name])


def test_the_larger_the_slack_the_more_pairs(residual):
    floating, quantized = prepared(residual)
    counts = [
        len(lower(quantized, floating, residual.table, slack=slack, signed_weights="int8")[1].extra_pairs)
        for slack in (0.0, 0.3, 1.0, math.inf)
    ]
    assert counts == sorted(counts)
    assert counts[0] < counts[-1]


@pytest.mark.parametrize("form", ["narrow", "uint8", "int8"])
def test_saturating_kernels_are_out_of_reach(signed, residual, relu6, form):
    """The largest sum of two neighbouring products, whatever activations up to amax come: below 2^15, or no s8 at all.

    With plain int8 weights on signed activations it is not, which is why those forms need VNNI.
    """
    for net in (signed, residual, relu6):
        floating, quantized = prepared(net)
        lowered, _ = lower(quantized, floating, net.table, slack=math.inf, signed_weights=form)
        largest = max(largest_pair_sum(lowered))
        assert (largest < 2**15) == (form != "int8"), (form, largest)


def largest_pair_sum(model):
    """max |u1 w1 + u2 w2| of every convolution: u up to 255, or up to 127 where the zero point is 0."""
    index = Index(model.proto.graph)
    for node in model.proto.graph.node:
        if node.op_type != "Conv":
            continue
        dequantizer = index.producers[node.input[1]]
        weight = read_tensor(model, index.initializers[dequantizer.input[0]])
        if weight.dtype == np.uint8:
            yield 0  # u8 x u8 kernels widen to 16 bits before they multiply
            continue
        integers, _, zero = index.producers[node.input[0]].input
        full = int(numpy_helper.to_array(index.initializers[zero])) == 128
        assert full or index.producers[integers].op_type == "Clip"
        yield int(np.abs(weight.astype(int)).max()) * 2 * (255 if full else 127)


def test_narrow_weights_are_quantized_from_float(signed):
    floating, quantized = prepared(signed)
    lowered, report = lower(quantized, floating, signed.table, slack=math.inf, signed_weights="narrow")
    assert set(report.adapted_weights) == {"s0_w", "s1_w", "y_w"}
    index, originals = Index(lowered.proto.graph), Index(floating.proto.graph).initializers
    for name in report.adapted_weights:
        integers = numpy_helper.to_array(index.initializers[f"{name}_quantized_narrow"])
        scales = numpy_helper.to_array(index.initializers[f"{name}_scale_narrow"]).reshape(-1, 1, 1, 1)
        assert np.abs(integers.astype(int)).max() == NARROW_LIMIT
        error = np.abs(integers * scales - numpy_helper.to_array(originals[name]))
        assert (error <= scales * 0.5001).all()


def test_a_tensor_the_caller_reads_stays_float(signed):
    floating, quantized = prepared(signed)
    lowered, report = lower(quantized, floating, signed.table, slack=math.inf, signed_weights="int8")
    assert "y" not in report.extra_pairs
    assert lowered.proto.graph.output[0].type.tensor_type.elem_type == TensorProto.FLOAT


def test_a_bias_beyond_int32_gets_room_or_stays_float(make_net):
    net = make_net("signed", seed=3)
    floating, quantized = prepared(net)
    for proto in (floating.proto, quantized.proto):
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "s1_b")
        bias.CopyFrom(numpy_helper.from_array(np.full(16, 1e9, np.float32), "s1_b"))
    lowered, report = lower(quantized, floating, net.table, slack=math.inf, signed_weights="int8")
    assert report.integer_biases == 3
    tensors = {tensor.name: numpy_helper.to_array(tensor) for tensor in lowered.proto.graph.initializer}
    assert tensors["s1_b_int32"].max() <= 2**30
    np.testing.assert_allclose(tensors["s1_b_int32"] * tensors["s1_b_scale"].astype(float), 1e9)
    # a factor that is no weight has one scale, and no room to give
    assert biases.as_integers(np.float32([1e9]), np.float32([1e-3])) is None


OPS = ("Relu", "Sigmoid", "Abs", "Exp", "Neg", "Tanh", "MaxPool", "Transpose", "Identity", "Clip0", "Clip-1")


@settings(max_examples=60, deadline=None)
@given(
    ops=st.lists(st.tuples(st.sampled_from((*OPS, "Add", "Mul", "Sub", "Max")), st.integers(0, 99)), max_size=8),
    seed=st.integers(0, 2**16),
)
def test_what_is_proven_nonnegative_is(ops, seed):
    nodes, names = [], ["x"]
    for number, (op, pick) in enumerate(ops):
        first, second, out = names[pick % len(names)], names[(pick * 7 + 1) % len(names)], f"t{number}"
        nodes.append(_node(op, first, second, out))
        names.append(out)
    constants = [numpy_helper.from_array(np.asarray(v, np.float32), n) for n, v in (("zero", 0.0), ("minus", -1.0))]
    kind = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 2, 4, 4])
    outputs = [helper.make_empty_tensor_value_info(name) for name in names[1:]]
    graph = helper.make_graph(nodes, "g", [kind], outputs, constants)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    proven = nonnegative(Index(proto.graph))
    assert "x" not in proven
    if not nodes:
        return
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    x = np.random.default_rng(seed).normal(0, 2, (1, 2, 4, 4)).astype(np.float32)
    values = dict(zip(names[1:], open_session(proto, None, options).run(None, {"x": x}), strict=True))
    for name in proven:
        finite = values[name][np.isfinite(values[name])]
        assert (finite >= 0).all(), (name, proven)


def _node(op, first, second, out):
    if op.startswith("Clip"):
        return helper.make_node("Clip", [first, "zero" if op == "Clip0" else "minus"], [out])
    if op == "MaxPool":
        return helper.make_node(op, [first], [out], kernel_shape=[1, 1])
    if op == "Transpose":
        return helper.make_node(op, [first], [out], perm=[0, 1, 2, 3])
    if op in ("Add", "Mul", "Sub", "Max"):
        return helper.make_node(op, [first, second], [out])
    return helper.make_node(op, [first], [out])


def test_signs_of_the_common_chain():
    graph = onnx.parser.parse_graph(
        """
        g (float[1,4,8,8] x) => (float[1,4,8,8] y) {
            a = Relu (x)
            b = MaxPool <kernel_shape=[1,1]> (a)
            c = Neg (b)
            d = Add (a, b)
            e = Add (a, c)
            f = Sigmoid (e)
            y = Mul (d, f)
        }
        """
    )
    assert nonnegative(Index(graph)) == {"a", "b", "d", "f", "y"}


def small_net(nodes, inputs, outputs, weights):
    """A frozen net whose table holds the ranges of one sample of normal noise, that sample, and its Q/DQ form."""
    rng = np.random.default_rng(5)
    tensors = [numpy_helper.from_array(np.asarray(values, np.float32), name) for name, values in weights.items()]
    given_ = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()]
    asked = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "g", given_, asked, tensors)
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    floating = freeze_inputs(Model(proto), {name: tuple(shape) for name, shape in inputs.items()})
    sample = Sample(
        "s", "0" * 64, {name: rng.normal(0, 50, shape).astype(np.float32) for name, shape in inputs.items()}
    )
    names = [name for node in nodes for name in node.output]
    seen = run(floating, sample, names) | dict(sample.inputs)
    table = ScaleTable({name: TensorRange(float(v.min()), float(v.max()), 1) for name, v in seen.items()})
    return floating, table, sample, insert(floating, table, Quantize())[0]


def conv(source, weight, output, bias=""):
    return helper.make_node("Conv", [source, weight, *([bias] if bias else [])], [output], name=output, pads=[1] * 4)


def loss_db(floating, table, sample, quantized, form, output, slack=math.inf):
    lowered, _ = lower(quantized, floating, table, slack=slack, signed_weights=form)
    totals = {"exact": Sqnr(), "lowered": Sqnr()}
    wanted = run(floating, sample)[output]
    totals["exact"].add(wanted, run(quantized, sample, config=EXACT.config)[output])
    totals["lowered"].add(wanted, run(lowered, sample)[output])
    return totals["exact"].db - totals["lowered"].db


@pytest.mark.parametrize("form", ["int8", "uint8"])
@pytest.mark.parametrize("scale", [0.0, 1e-12, 1e-40], ids=["zero", "tiny", "subnormal"])
def test_dead_filters_keep_their_bias(form, scale, tmp_path):
    """Weights of zero say nothing about the unit their bias is rounded to; tiny ones ask for one it does not fit."""
    rng = np.random.default_rng(1)
    weight = rng.normal(0, 0.005, (16, 3, 3, 3))
    weight[:6] *= scale
    weights = {"w": weight, "b": rng.normal(0, 0.3, 16), "w2": rng.normal(0, 0.1, (16, 16, 3, 3))}
    nodes = [conv("x", "w", "c", "b"), helper.make_node("Relu", ["c"], ["r"]), conv("r", "w2", "d")]
    nodes.append(helper.make_node("Relu", ["d"], ["y"]))
    net = small_net(nodes, {"x": [1, 3, 32, 32]}, ["y"], weights)
    assert loss_db(*net, form, "y") < 0.5
    floating, table, _, quantized = net
    lowered, report = lower(quantized, floating, table, slack=math.inf, signed_weights=form)
    assert report.integer_biases == 1
    assert optimized_ops(lowered, tmp_path)["QLinearConv"] >= 1


@pytest.mark.parametrize("form", ["int8", "narrow", "uint8"])
def test_a_shared_weight_and_its_biases_have_one_scale(form, tmp_path):
    """The convolution of what cannot be negative is met before the one for whose sake the weight is rewritten."""
    rng = np.random.default_rng(2)
    weights = {"w": rng.normal(0, 0.1, (8, 8, 3, 3)), "b": rng.normal(0, 9, 8), "w2": rng.normal(0, 0.1, (8, 8, 3, 3))}
    nodes = [helper.make_node("Relu", ["x"], ["p"]), conv("p", "w", "c0", "b"), conv("x", "w", "c1", "b")]
    nodes += [helper.make_node("Relu", [f"c{number}"], [f"r{number}"]) for number in (0, 1)]
    nodes += [conv(f"r{number}", "w2", f"y{number}") for number in (0, 1)]
    floating, table, _, quantized = small_net(nodes, {"x": [1, 8, 16, 16]}, ["y0", "y1"], weights)
    lowered, report = lower(quantized, floating, table, slack=math.inf, signed_weights=form)
    assert report.integer_biases == 2
    index = Index(lowered.proto.graph)
    for node in lowered.proto.graph.node:
        if node.op_type == "Conv" and len(node.input) > 2:
            activation, weight, bias = (
                numpy_helper.to_array(index.initializers[index.producers[name].input[1]]) for name in node.input
            )
            np.testing.assert_array_equal(bias, activation * weight)
    assert optimized_ops(lowered, tmp_path)["QLinearConv"] >= 2


def test_a_concat_that_is_also_read_in_float_is_not_rounded():
    rng = np.random.default_rng(3)
    weights = {"w": rng.normal(0, 0.1, (4, 3, 3, 3)), "v": rng.normal(0, 0.001, (4, 3, 3, 3))}
    weights["u"] = rng.normal(0, 0.1, (4, 8, 3, 3))
    nodes = [conv("x", "w", "a"), conv("x", "v", "b"), helper.make_node("Concat", ["a", "b"], ["k"], axis=1)]
    nodes += [conv("k", "u", "y"), helper.make_node("Sigmoid", ["k"], ["s"])]
    for outputs in (["y", "k"], ["y", "s"]):
        floating, table, sample, quantized = small_net(nodes, {"x": [1, 3, 8, 8]}, outputs, weights)
        lowered, report = lower(quantized, floating, table, slack=0.0, signed_weights="int8")
        assert report.extra_pairs == []
        expected, found = run(quantized, sample, config=EXACT.config), run(lowered, sample, config=EXACT.config)
        np.testing.assert_array_equal(found[outputs[1]], expected[outputs[1]])


@given(
    seed=st.integers(0, 2**16),
    axis=st.integers(0, 1),
    exponents=st.lists(st.integers(-44, 3), min_size=6, max_size=6),
    unsigned=st.booleans(),
)
def test_room_for_a_bias_costs_the_weight_nothing_that_shows(seed, axis, exponents, unsigned):
    rng = np.random.default_rng(seed)
    weight = np.moveaxis(rng.normal(0, 1, (6, 5)) * np.power(10.0, exponents)[:, None], 0, axis).astype(np.float32)
    weight[(slice(0, 1), slice(None))[:: 1 - 2 * axis]] = 0  # one dead channel
    bias, activation = rng.normal(0, 1, 6).astype(np.float32), np.float32(0.04)
    scale = channel_scales(weight, axis)
    integers, zero = quantize(weight, scale, axis), np.zeros(6, np.int8)
    if unsigned:
        integers, zero = (integers.astype(np.int16) + 128).astype(np.uint8), np.full(6, 128, np.uint8)
    least = biases.least_weight_scale(bias, np.asarray(activation))
    found = biases.with_room(integers, zero, scale, least, axis)
    assert found is not None  # for the dead channel
    unit = biases.units(np.asarray(activation), found[1])
    in_units = biases.as_integers(bias, unit)
    assert in_units is not None
    np.testing.assert_allclose(in_units * unit.astype(np.float64), bias, rtol=0, atol=unit.max())
    assert (np.abs(in_units * unit.astype(np.float64) - bias) <= np.maximum(unit, np.abs(bias) * 1e-7)).all()
    shape = [-1 if position == axis else 1 for position in (0, 1)]

    def values(q, s):
        return (q.astype(int) - zero.astype(int).reshape(shape)) * s.astype(np.float64).reshape(shape)

    # 127 steps of the activation cannot make a weight's change as large as a 24-bit float of the bias notices
    change = np.abs(values(*found) - values(integers, scale)).max(axis=1 - axis) * 127 * activation
    assert (change <= np.abs(bias) * 2**-22).all()
