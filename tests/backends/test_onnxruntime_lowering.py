"""The rewrite for onnxruntime's integer kernels: it means the same, it fuses, and it cannot saturate."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from trtforge.backends.onnxruntime_ import lowering
from trtforge.backends.onnxruntime_.checkpoints import exposing
from trtforge.backends.onnxruntime_.forms import EXACT
from trtforge.backends.onnxruntime_.lowering import NARROW_LIMIT, lower
from trtforge.backends.onnxruntime_.session import configured
from trtforge.backends.onnxruntime_.signs import nonnegative
from trtforge.graph.index import Index
from trtforge.graph.shapes import freeze_inputs
from trtforge.graph.weights import read_tensor
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.recipe.models import Quantize
from trtforge.scales.codecs.qdq import insert


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
    assert ops["Clip"] == ops["FusedConv"] == ops["Gemm"] == 0
    assert report.finer == 4
    assert report.integer_biases == 8


def test_finer_scales_stay_inside_their_clip(relu6):
    floating, quantized = prepared(relu6)
    lowered, _ = lower(quantized, floating, relu6.table, slack=0.0, signed_weights="int8")
    scales = [tensor for tensor in lowered.proto.graph.initializer if tensor.name.endswith("_6_scale_u8")]
    assert len(scales) == 4
    for tensor in scales:
        top = np.float32(255) * numpy_helper.to_array(tensor)
        amax = relu6.table.ranges[tensor.name.removesuffix("_scale_u8")].amax
        assert amax * (1 - 1e-6) < top <= 6.0


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
    zeros = {name: numpy_helper.to_array(index.initializers[index.producers[name].input[2]]) for name in names}
    assert {int(zero) for zero in zeros.values()} == {0, 128}
    return [np.abs(found[name].astype(int) - zeros[name].astype(int) - expected[name].astype(int)) for name in names]


def test_integers_are_those_of_the_quantized_graph(residual, monkeypatch):
    """But for the biases: rounding those to the accumulator's unit moves an integer by one here and there."""
    floating, quantized = prepared(residual)
    lowered, report = lower(quantized, floating, residual.table, slack=0.0, signed_weights="int8")
    assert set(report.extra_pairs) <= {"left", "right", "r0"}  # only pairs that change nothing
    early = integer_differences(residual, quantized, lowered)[:4]
    assert max(difference.max() for difference in early) <= 1
    assert max(difference.mean() for difference in early) < 0.02
    monkeypatch.setattr(lowering._Lowering, "_integer_bias", lambda self, *nodes: [])
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
    """max |u1 w1 + u2 w2| of every convolution: u up to 255, or up to 127 where the zero point is 0 and amax is 127."""
    index = Index(model.proto.graph)
    for node in model.proto.graph.node:
        if node.op_type != "Conv":
            continue
        dequantizer = index.producers[node.input[1]]
        weight = read_tensor(model, index.initializers[dequantizer.input[0]])
        if weight.dtype == np.uint8:
            yield 0  # u8 x u8 kernels widen to 16 bits before they multiply
            continue
        _, scale, zero = index.producers[node.input[0]].input
        full = int(numpy_helper.to_array(index.initializers[zero])) == 128 or scale.endswith("_scale_u8")
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


def test_a_bias_beyond_int32_stays_float(make_net):
    net = make_net("signed", seed=3)
    floating, quantized = prepared(net)
    for proto in (floating.proto, quantized.proto):
        bias = next(tensor for tensor in proto.graph.initializer if tensor.name == "s1_b")
        bias.CopyFrom(numpy_helper.from_array(np.full(16, 1e9, np.float32), "s1_b"))
    _, report = lower(quantized, floating, net.table, slack=math.inf, signed_weights="int8")
    assert report.integer_biases == 2


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
