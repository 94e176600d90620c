"""GRF111 and GRF112: layers that are not ONNX, or contradict their weights; weights that are no numbers."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings

from tests.lint.conftest import engine, model
from tests.lint.dla.networks import INPUT, Network, networks
from trtforge.graph.model import Model
from trtforge.graph.weights import is_external
from trtforge.lint.rule import Finding
from trtforge.lint.run import lint
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.targets.load import get

IMAGE = [1, 4, 8, 8]
CASES = [
    ("Conv(x, w)", "float[6, 4, 3, 3] w", ""),
    ("Conv<group = 2, kernel_shape = [3, 3]>(x, w, b)", "float[6, 2, 3, 3] w, float[6] b", ""),
    ("Conv<group = 0>(x, w)", "float[6, 4, 3, 3] w", "group is 0"),
    ("Conv<group = 3>(x, w)", "float[6, 2, 3, 3] w", "its weights take 6 channels, and its input has 4"),
    ("Conv<group = 2>(x, w)", "float[5, 2, 3, 3] w", "group is 2, and does not divide the 5 channels"),
    ("Conv<kernel_shape = [5, 5]>(x, w)", "float[6, 4, 3, 3] w", "kernel_shape is [5, 5]"),
    ("Conv(x, w)", "float[6, 3, 3, 3] w", "its weights take 3 channels, and its input has 4"),
    ("Conv(x, w, b)", "float[6, 4, 3, 3] w, float[5] b", "its bias is [5], and it gives 6 channels"),
    ("Conv<strides = [9, 9]>(x, w)", "float[6, 4, 9, 9] w", "its window of [9, 9] is larger than its input of [8, 8]"),
    ("Conv<strides = [9, 9], dilations = [4, 4]>(x, w)", "float[6, 4, 3, 3] w", "its window of [9, 9]"),
    ("Conv<strides = [9, 9], pads = [1, 0, 0, 1]>(x, w)", "float[6, 4, 9, 9] w", ""),
    ("Conv<auto_pad = \"SAME_UPPER\">(x, w)", "float[6, 4, 9, 9] w", ""),
    ("ConvTranspose(x, w, b)", "float[4, 6, 2, 2] w, float[6] b", ""),
    ("ConvTranspose<group = 2>(x, w, b)", "float[4, 3, 2, 2] w, float[6] b", ""),
    ("ConvTranspose(x, w)", "float[6, 4, 2, 2] w", "its weights take 6 channels, and its input has 4"),
    ("ConvTranspose(x, w, b)", "float[4, 6, 2, 2] w, float[4] b", "its bias is [4], and it gives 6 channels"),
    ("ConvTranspose<strides = [2, 2], output_padding = [1, 1]>(x, w)", "float[4, 6, 2, 2] w", ""),
    ("ConvTranspose<output_padding = [1, 1]>(x, w)", "float[4, 6, 2, 2] w", "its output_padding is [1, 1]"),
    ("MaxPool<kernel_shape = [9, 9], strides = [9, 9]>(x)", "", ""),
    ("InstanceNormalization(x, s, s)", "float[4] s", ""),
    ("InstanceNormalization(x, s, s)", "float[6] s", "its scale is [6], and its input has 4 channels"),
    ("Relu<alpha = 0.1>(x)", "", "Unrecognized attribute: alpha"),
    ("LeakyRelu<alpha = \"a\">(x)", "", "Mismatched attribute type"),
]  # fmt: skip


def found(code: str, given_model: Model, shape: list[int], **more: Any) -> list[Finding]:
    findings = lint(given_model, engine({"x": shape}, "fp32", **more), get("host"))
    return [finding for finding in findings if finding.code == code]


def refused(given_model: Model, shape: list[int]) -> bool:
    """Whether onnxruntime does not load or not run it. Cheap bodies only."""
    fail = import_onnxruntime().capi.onnxruntime_pybind11_state
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        open_session(given_model.proto, None, options).run(None, {"x": np.ones(shape, np.float32)})
    except (fail.Fail, fail.InvalidArgument, fail.InvalidGraph, fail.RuntimeException):
        return True
    return False


@pytest.mark.parametrize(("node", "weights", "says"), CASES)
def test_what_is_said_of_a_layer_is_what_onnxruntime_does(node: str, weights: str, says: str) -> None:
    layer = model(f"g (float[1, 4, 8, 8] x) => (float[n, c, h, w] y) <{weights}> {{ [a] y = {node} }}")
    findings = found("GRF111", layer, IMAGE)
    assert [says in finding.message for finding in findings] == ([True] if says else []), findings
    assert refused(layer, IMAGE) == bool(says)
    for finding in findings:
        assert (finding.severity, finding.where) == ("error", f"{re.split('[<(]', node, maxsplit=1)[0]} `a`")


@pytest.mark.parametrize(
    ("node", "weights", "says"),
    [
        ("Gemm(x, w, b)", "float[8, 5] w, float[5] b", ""),
        ("Gemm<transB = 1>(x, w, b)", "float[5, 8] w, float[4, 1] b", ""),
        ("Gemm<transA = 1>(x, w, b)", "float[4, 5] w, float[8, 1] b", ""),
        ("Gemm(x, w, b)", "float[8, 5] w, float[4] b", "its bias is [4], and the product [4, 5]"),
    ],
)
def test_products(node: str, weights: str, says: str) -> None:
    layer = model(f"g (float[4, 8] x) => (float[n, m] y) <{weights}> {{ [a] y = {node} }}")
    findings = found("GRF111", layer, [4, 8])
    assert [says in finding.message for finding in findings] == ([True] if says else []), findings
    assert refused(layer, [4, 8]) == bool(says)


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(net=networks())
def test_networks_that_are_refused_are_those_with_a_finding(net: Network) -> None:
    whole = net.model(net.ends())
    said = found("GRF111", whole, INPUT)
    assert bool(said) == refused(whole, INPUT), (said, onnx.printer.to_text(whole.proto))


def test_the_long_name_of_the_domain_is_no_fault() -> None:
    for attributes, faulty in (("", False), ("<alpha = 0.1>", True)):
        net = model(f"g (float[4] x) => (float[4] y) {{ [a] y = Relu{attributes}(x) }}")
        net.proto.graph.node[0].domain = net.proto.opset_import[0].domain = "ai.onnx"
        assert bool(found("GRF111", net, [4])) == faulty == refused(net, [4])


def test_nodes_of_one_name_are_named_once() -> None:
    twins = model("g (float[4] x) => (float[4] y) { [a] t = Relu(x) [a] s = Relu(t) [] r = Relu(s) [] y = Relu(r) }")
    (finding,) = found("GRF111", twins, [4])
    assert (finding.severity, finding.where) == ("error", "`a`")
    assert refused(twins, [4])


def test_a_compiler_alone_does_not_mind_an_attribute_it_does_not_know(check: Any) -> None:
    body = "g (float[4] x) => (float[4] y) { [a] y = Relu<alpha = 0.1>(x) }"
    verify = {"verify": {"set": "v.yaml", "metric": "cosine", "at_least": 0.9}}
    for more, severity in (({}, "warning"), (verify, "error")):
        (finding,) = check("GRF111", body, {"x": [4]}, target="a30", precision="fp16", **more)
        assert finding.severity == severity


def test_weights_that_are_no_numbers_are_named_with_the_layer() -> None:
    body = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <float[4, 4, 1, 1] w, float[4] s, float[1] mask>
    { [a] t = Conv(x, w) [b] u = Conv(t, w) [n] v = BatchNormalization(u, s, s, s, s) [m] y = Add(v, mask) }"""
    net = model(body)
    assert found("GRF112", net, IMAGE) == []
    for tensor in net.proto.graph.initializer:
        values = onnx.numpy_helper.to_array(tensor).copy()
        values.flat[0] = -np.inf if tensor.name == "mask" else np.nan
        tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    (finding,) = found("GRF112", net, IMAGE)
    assert finding.severity == "error"
    assert finding.places == ("Conv `a`", "Conv `b`", "BatchNormalization `n`"), "a mask may be infinite"
    assert "1 of 16 values of `w`" in finding.message


def test_weights_in_files_are_not_read() -> None:
    net = model("g (float[1, 4, 8, 8] x) => (float[1, 4, 6, 6] y) <float[4, 4, 3, 3] w> { [a] y = Conv(x, w) }")
    (weight,) = net.proto.graph.initializer
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="nowhere.data")
    assert is_external(weight)
    assert found("GRF112", net, IMAGE) == []


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [1.0, np.nan, np.inf])
def test_half_and_double_are_read_too(kind: Any, value: float) -> None:
    name = onnx.TensorProto.DataType.Name(onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind))).lower()
    net = model(f"g ({name}[2, 4] x) => ({name}[2, 3] y) {{ [a] y = MatMul(x, w) }}")
    net.proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((4, 3), value, kind), "w"))
    severities = [finding.severity for finding in found("GRF112", net, [2, 4])]
    assert severities == ([] if np.isfinite(value) else ["error" if np.isnan(value) else "warning"])
