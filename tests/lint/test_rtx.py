"""RTX rules: what the ahead-of-time compiler cannot do."""

from __future__ import annotations

from typing import Any

import pytest

UP = """g (float[1, 4, 8, 8] x) => (float[1, 2, 16, 16] y)
<float[4, 2, 2, 2] w> { [up] y = ConvTranspose<strides = [2, 2]>(x, w) }"""
UP_X = {"x": [1, 4, 8, 8]}

GEMM = "g (float[1, 4] x) => (float[1, 2] y) <float[4, 2] w> { [fc] y = MatMul(x, w) }"
VOLUME = "g (float[1, 1, 8, 8, 8] x) => (float[1, 2, 6, 6, 6] y) <float[2, 1, 3, 3, 3] w> { [vol] y = Conv(x, w) }"
IMAGE = "g (float[1, 1, 8, 8] x) => (float[1, 2, 6, 6] y) <float[2, 1, 3, 3] w> { [img] y = Conv(x, w) }"
NMS = """g (float[1, 9, 4] boxes, float[1, 1, 9] scores) => (int64[n, 3] y)
{ [nms] y = NonMaxSuppression(boxes, scores) }"""
ATTENTION = """g (float[1, 2, 8, 4] q, float[1, 2, 8, 4] k, float[1, 2, 8, 4] v) => (float[1, 2, 8, 4] y)
{ q2 = Relu(q) [att] y = Attention(q2, k, v) }"""
QKV = {"q": [1, 2, 8, 4], "k": [1, 2, 8, 4], "v": [1, 2, 8, 4]}


def test_rtx101_conv_transpose_stays_float(check: Any) -> None:
    (finding,) = check("RTX101", UP, UP_X)
    assert (finding.severity, finding.where) == ("hint", "ConvTranspose `up`")


def test_rtx101_is_a_warning_when_it_was_to_be_quantized(check: Any) -> None:
    (finding,) = check("RTX101", UP, UP_X, quantize={"conv_transpose": True})
    assert finding.severity == "warning"
    (finding,) = check("RTX101", UP, UP_X, quantize={"conv_transpose": True, "skip": ["up"]})
    assert finding.severity == "hint"
    nameless = UP.replace("[up] ", "")
    (finding,) = check("RTX101", nameless, UP_X, quantize={"conv_transpose": True, "skip": ["y"]})
    assert finding.severity == "hint", "a node without a name goes by its first output"


@pytest.mark.parametrize(
    "more", [{"precision": "fp16"}, {"backend": "onnxruntime"}, {"tensorrt": "8.6"}, {"target": "host"}]
)
def test_rtx101_silent(check: Any, more: dict[str, Any]) -> None:
    assert not check("RTX101", UP, UP_X, **more)


@pytest.mark.parametrize(
    ("body", "inputs", "where"), [(GEMM, {"x": [1, 4]}, "`fc`"), (VOLUME, {"x": [1, 1, 8, 8, 8]}, "`vol`")]
)
def test_rtx102_fp32_on_turing(check: Any, body: str, inputs: dict[str, list[int]], where: str) -> None:
    (finding,) = check("RTX102", body, inputs, target="t4", precision="fp32")
    assert finding.severity == "error"
    assert where in finding.where
    assert not check("RTX102", body, inputs, target="t4", precision="fp16")
    assert not check("RTX102", body, inputs, target="a30", precision="fp32")
    assert not check("RTX102", body, inputs, target="t4", precision="fp32", backend="tensorrt")


def test_rtx102_int8_on_turing_is_float(check: Any) -> None:
    (finding,) = check("RTX102", IMAGE, {"x": [1, 1, 8, 8]}, target="t4")
    assert finding.severity == "warning"
    assert "floating point" in finding.message
    assert not check("RTX102", IMAGE, {"x": [1, 1, 8, 8]}, target="t4", precision="fp32")


def test_rtx102_three_dimensions_are_seen_without_a_constant_weight(check: Any) -> None:
    body = VOLUME.replace(" <float[2, 1, 3, 3, 3] w>", "").replace("x) =>", "x, float[2, 1, 3, 3, 3] w) =>")
    inputs = {"x": [1, 1, 8, 8, 8], "w": [2, 1, 3, 3, 3]}
    assert check("RTX102", body, inputs, target="t4", precision="fp32")


def test_rtx103_not_ahead_of_time(check: Any) -> None:
    inputs = {"boxes": [1, 9, 4], "scores": [1, 1, 9]}
    (finding,) = check("RTX103", NMS, inputs)
    assert (finding.severity, finding.where) == ("error", "NonMaxSuppression `nms`")
    assert not check("RTX103", NMS, inputs, backend="tensorrt")
    assert not check("RTX103", NMS, inputs, target="host")
    assert not check("RTX103", GEMM, {"x": [1, 4]})


def test_rtx103_sees_into_bodies_of_control_flow(check: Any) -> None:
    body = """g (bool c, float[1, 9, 4] boxes, float[1, 1, 9] scores) => (int64[n, 3] y) {
        y = If(c) <
            then_branch = t () => (int64[n, 3] a) { [inner] a = NonMaxSuppression(boxes, scores) },
            else_branch = e () => (int64[n, 3] b) { [other] b = NonMaxSuppression(boxes, scores) }
        >
    }"""
    (finding,) = check("RTX103", body, {"c": [1], "boxes": [1, 9, 4], "scores": [1, 1, 9]})
    assert sorted(finding.places) == ["NonMaxSuppression `inner`", "NonMaxSuppression `other`"]


def test_rtx104_fp32_attention(check: Any) -> None:
    (finding,) = check("RTX104", ATTENTION, QKV, opset=23, precision="fp32")
    assert (finding.severity, finding.where) == ("error", "Attention `att`")
    assert check("RTX104", ATTENTION, QKV, opset=23, precision="int8")
    assert not check("RTX104", ATTENTION, QKV, opset=23, precision="fp16")
    assert not check("RTX104", ATTENTION.replace("float", "float16"), QKV, opset=23, precision="fp32")
    assert not check("RTX104", ATTENTION, QKV, opset=23, precision="fp32", target="host")
