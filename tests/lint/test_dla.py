"""DLA rules."""

from __future__ import annotations

from typing import Any

import pytest

ORIN = "orin-agx-64gb/dla"
CONV = """g (float[n, 3, 32, 32] x) => (float[n, 8, 32, 32] y)
<float[8, 3, 3, 3] w> { [c1] t = Conv<pads = [1, 1, 1, 1]>(x, w) [r1] y = Relu(t) }"""
X = {"x": [1, 3, 32, 32]}
NO_FALLBACK = {"dla": {"gpu_fallback": False}}


def convolution(attributes: str, weights: str = "8, 3, 3, 3") -> str:
    graph = "g (float[1, 3, 32, 32] x) => (float[1, m, h, v] y)"
    return f"{graph} <float[{weights}] w> {{ [c] y = Conv<{attributes}>(x, w) }}"


@pytest.mark.parametrize(
    ("target", "tensorrt", "jetpack", "severities"),
    [
        (ORIN, "8.6", None, []),
        (ORIN, "10.3", "6.2.1", []),
        (ORIN, "10.9", None, ["error"]),
        (ORIN, "11.4.1", "7.2", ["error"]),
        (ORIN, "11.4.1", "7.2.2", []),
        (ORIN, None, None, ["hint"]),
        (ORIN, None, "6.0", []),
        (ORIN, ">=10.3,<11", None, ["hint"]),
        ("orin-agx-64gb/gpu", "10.9", None, []),
        ("host", None, None, []),
    ],
)
def test_dla101_unavailable(
    check: Any, target: str, tensorrt: str | None, jetpack: str | None, severities: list[str]
) -> None:
    findings = check("DLA101", CONV, X, target=target, tensorrt=tensorrt, jetpack=jetpack)
    assert [finding.severity for finding in findings] == severities


def test_dla102_open_batch_becomes_fixed(check: Any) -> None:
    (finding,) = check("DLA102", CONV, {"x": [8, 3, 32, 32]}, target=ORIN)
    assert finding.severity == "hint"
    assert "`n` is fixed to 8" in finding.message
    assert not check("DLA102", CONV.replace("float[n,", "float[8,"), {"x": [8, 3, 32, 32]}, target=ORIN)
    assert not check("DLA102", CONV, {"x": [8, 3, 32, 32]}, target="orin-agx-64gb/gpu")


def test_dla102_batches_must_agree(check: Any) -> None:
    body = "g (float[2, 3, 8, 8] a, float[1, 3, 8, 8] b) => (float[2, 3, 8, 8] y) { y = Add(a, b) }"
    inputs = {"a": [2, 3, 8, 8], "b": [1, 3, 8, 8]}
    (finding,) = check("DLA102", body, inputs, target=ORIN)
    assert finding.severity == "warning", "they go into loadables of their own"
    assert "a: 2, b: 1" in finding.message
    (finding,) = check("DLA102", body, inputs, target=ORIN, **NO_FALLBACK)
    assert finding.severity == "error"


def test_dla102_a_vector_has_no_batch(check: Any) -> None:
    body = "g (float[1, 8, 4, 4] x, float[8] s) => (float[1, 8, 4, 4] y) { y = BatchNormalization(x, s, s, s, s) }"
    assert not check("DLA102", body, {"x": [1, 8, 4, 4], "s": [8]}, target=ORIN)


def test_dla102_a_batch_is_all_that_is_left_of_the_image(check: Any) -> None:
    body = "g (float[2, 3, 4, 8, 8] a, float[6, 4, 8, 8] b) => (float[6, 4, 8, 8] y) { y = Relu(b) }"
    assert not check("DLA102", body, {"a": [2, 3, 4, 8, 8], "b": [6, 4, 8, 8]}, target=ORIN)


@pytest.mark.parametrize(
    ("shape", "found"),
    [([4096, 3, 8, 8], 0), ([4097, 3, 8, 8], 1), ([64, 65, 3, 8, 8], 1), ([1, 3, 8193, 8], 1), ([1, 3, 8192, 8], 0)],
)
def test_dla102_limits(check: Any, shape: list[int], found: int) -> None:
    stated = ", ".join(map(str, shape))
    body = f"g (float[{stated}] x) => (float[{stated}] y) {{ y = Relu(x) }}"
    findings = check("DLA102", body, {"x": shape}, target=ORIN)
    assert [finding.severity for finding in findings] == ["warning"] * found, "the GPU takes it"
    findings = check("DLA102", body, {"x": shape}, target=ORIN, **NO_FALLBACK)
    assert [finding.severity for finding in findings] == ["error"] * found


VOLUME = """g (float[1, 1, 8, 8, 8] x) => (float[1, 2, 3, 3, 3] y)
<float[2, 1, 3, 3, 3] w> { [c] t = Conv(x, w) [p] y = MaxPool<kernel_shape = [2, 2, 2], strides = [2, 2, 2]>(t) }"""


def test_dla103_three_dimensions(check: Any) -> None:
    inputs = {"x": [1, 1, 8, 8, 8]}
    (finding,) = check("DLA103", VOLUME, inputs, target=ORIN)
    assert finding.severity == "warning"
    assert finding.where == "Conv `c`, MaxPool `p`"
    assert "orin-agx-64gb/gpu" in finding.fix
    (finding,) = check("DLA103", VOLUME, inputs, target=ORIN, **NO_FALLBACK)
    assert finding.severity == "error"
    assert not check("DLA103", VOLUME, inputs, target="orin-agx-64gb/gpu")
    assert not check("DLA103", CONV, X, target=ORIN)


TAIL = """g (float[1, 8, 7, 7] x) => (float[1, 8] y)
{ [gap] t = GlobalAveragePool(x) [flat] y = Flatten(t) }"""


def test_dla104_tail_of_a_classifier(check: Any) -> None:
    findings = check("DLA104", TAIL, {"x": [1, 8, 7, 7]}, target=ORIN, tensorrt="8.6")
    assert [finding.where for finding in findings] == ["GlobalAveragePool `gap`"], "a closing Flatten moves no data"
    assert all(finding.severity == "hint" and "goes to the GPU" in finding.message for finding in findings)
    assert "observed" in findings[0].message
    assert "global-average-pool" in findings[0].fix
    findings = check("DLA104", TAIL, {"x": [1, 8, 7, 7]}, target=ORIN, tensorrt="8.6", **NO_FALLBACK)
    assert all(finding.severity == "error" and "fails the build" in finding.message for finding in findings)
    assert all("dla: {gpu_fallback: true}" in finding.fix for finding in findings)
    assert not check("DLA104", TAIL, {"x": [1, 8, 7, 7]}, target="orin-agx-64gb/gpu")
    assert not check("DLA104", CONV, X, target=ORIN)


def test_dla104_many_of_one_kind_are_one_finding(check: Any) -> None:
    body = "g (float[1, 4, 4, 4] x) => (float[1, 4, 4, 4] y) { a = Exp(x) b = Exp(a) c = Exp(b) d = Exp(c) y = Exp(d) }"
    (finding,) = check("DLA104", body, {"x": [1, 4, 4, 4]}, target=ORIN)
    assert finding.where == "Exp `a`, Exp `b`, Exp `c` and 2 more"
    assert finding.places == ("Exp `a`", "Exp `b`", "Exp `c`", "Exp `d`", "Exp `y`")


def test_dla104_softmax_needs_orin(check: Any) -> None:
    body = "g (float[1, 8, 1, 1] x) => (float[1, 8, 1, 1] y) { y = Softmax<axis = 1>(x) }"
    assert not check("DLA104", body, {"x": [1, 8, 1, 1]}, target=ORIN, tensorrt="8.5")
    (finding,) = check("DLA104", body, {"x": [1, 8, 1, 1]}, target="xavier-agx/dla", tensorrt="8.5")
    assert "only Orin's" in finding.message


def test_dla104_rows_hold_from_a_version_on(check: Any) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 1, 1] s> { y = PRelu(x, s) }"
    (finding,) = check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN, tensorrt="8.4.1")
    assert "from TensorRT 8.5" in finding.message
    for version in ("8.5", "8.5.2", "8", "10.3", None):
        assert not check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN, tensorrt=version), version


def test_dla104_quantized_graphs_are_not_for_the_dla_through_10_7(check: Any) -> None:
    body = """g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float s = {0.5}>
    { q = QuantizeLinear(x, s) d = DequantizeLinear(q, s) y = Relu(d) }"""
    findings = check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN, tensorrt="10.7.0")
    assert [finding.where.split()[0] for finding in findings] == ["QuantizeLinear", "DequantizeLinear"]
    assert "calibration cache" in findings[0].fix
    assert not check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN, tensorrt="11.4.1")


def test_dla104_unknown_and_custom_operators(check: Any) -> None:
    body = "g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) { [m] y = Mish(x) }"
    (finding,) = check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN, opset=18)
    assert "not in the DLA's table" in finding.message


def test_dla104_what_folds_is_not_reported(check: Any) -> None:
    body = """g (float[1, 8, 4, 4] x) => (float[1, 8, 4, 4] y) <float[8, 1, 1] w>
    { e = Exp(w) s = Shape(x) i = Cast<to = 1>(s) k = ReduceSum<keepdims = 0>(i) f = Mul(e, k) y = Mul(x, f) }"""
    assert not check("DLA104", body, {"x": [1, 8, 4, 4]}, target=ORIN)


@pytest.mark.parametrize(
    ("attributes", "weights", "says"),
    [
        ("pads = [1, 1, 1, 1]", "8, 3, 3, 3", None),
        ("strides = [8, 8]", "8, 3, 3, 3", None),
        ("strides = [9, 9]", "8, 3, 3, 3", "stride 9 is not in the DLA's range (1 to 8"),
        ("dilations = [33, 1], pads = [31, 1, 31, 1]", "8, 3, 2, 2", "dilation 33"),
        ("pads = [32, 0, 32, 0]", "8, 3, 3, 3", "pad 32"),
        ('auto_pad = "SAME_UPPER"', "8, 3, 3, 3", None),
        ("pads = [8, 8, 8, 8]", "8, 3, 33, 33", "kernel 33"),
        ("pads = [0, 0, 0, 0]", "8193, 3, 1, 1", "outputs 8193"),
    ],
)
def test_dla105_convolution(check: Any, attributes: str, weights: str, says: str | None) -> None:
    findings = check("DLA105", convolution(attributes, weights), X, target=ORIN)
    assert bool(findings) == (says is not None), findings
    assert says is None or any(says in finding.message for finding in findings)


def test_dla105_deconvolution_takes_no_padding(check: Any) -> None:
    body = """g (float[1, 4, 8, 8] x) => (float[1, 2, 16, 16] y) <float[4, 2, 4, 4] w>
    { [up] y = ConvTranspose<strides = [2, 2], pads = [1, 1, 1, 1]>(x, w) }"""
    (finding,) = check("DLA105", body, {"x": [1, 4, 8, 8]}, target=ORIN)
    assert finding.where == "ConvTranspose `up`"
    assert "pad 1 is not in the DLA's range (0)" in finding.message
    assert "without padding" in finding.fix
    assert not check("DLA105", body, {"x": [1, 4, 8, 8]}, target="orin-agx-64gb/gpu")


def test_dla105_pooling_window(check: Any) -> None:
    body = "g (float[1, 4, 16, 16] x) => (float[1, 4, 8, 8] y) { [p] y = AveragePool<kernel_shape = [9, 9]>(x) }"
    (finding,) = check("DLA105", body, {"x": [1, 4, 16, 16]}, target=ORIN)
    assert "kernel 9" in finding.message
    assert "two smaller poolings" in finding.fix


def test_dla105_concat_along_channels_only(check: Any) -> None:
    body = "g (float[1, 4, 8, 8] x) => (float[1, p, q, 8] y) { [cat] y = Concat<axis = AXIS>(x, x) }"
    for axis, found in ((1, 0), (-3, 0), (2, 1), (-1, 1)):
        stated = body.replace("AXIS", str(axis)).replace("[1, p, q, 8]", "[a, b, c, d]")
        assert len(check("DLA105", stated, {"x": [1, 4, 8, 8]}, target=ORIN)) == found, axis


def test_dla105_matrix_product_of_two_activations(check: Any) -> None:
    body = "g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) { a = Relu(x) [mm] y = MatMul(x, a) }"
    (finding,) = check("DLA105", body, {"x": [1, 1, 4, 4]}, target=ORIN)
    assert "two activations" in finding.message
    constant = "g (float[1, 1, 4, 4] x) => (float[1, 1, 4, 4] y) <float[4, 4] w> { y = MatMul(x, w) }"
    assert not check("DLA105", constant, {"x": [1, 1, 4, 4]}, target=ORIN)


def test_dla106_missing_scale(check: Any) -> None:
    (finding,) = check("DLA106", CONV, X, target=ORIN, scales=["x", "y"])
    assert finding.where == "`t`"
    assert finding.severity == "warning"
    assert not check("DLA106", CONV, X, target=ORIN, scales=["x", "t", "y"])
    assert not check("DLA106", CONV, X, target=ORIN), "not calibrated yet"
    nameless = "g (float[1, 3, 32, 32] x) => (float[1, 8, 32, 32] y) <float[8, 3, 1, 1] w> { y = Conv(x, w) }"
    assert check("DLA106", nameless, X, target=ORIN, scales=["x"])
    assert not check("DLA106", nameless, X, target=ORIN, scales=["x"], quantize={"skip": ["y"]})
    assert not check("DLA106", CONV, X, target=ORIN, scales=["x", "y"], precision="fp16")
    assert not check("DLA106", CONV, X, target="orin-agx-64gb/gpu", scales=["x", "y"])
    assert not check("DLA106", CONV, X, target=ORIN, scales=["x", "t", "y"], quantize={"skip": ["c1"]})


def test_dla106_only_float_activations_need_one(check: Any) -> None:
    body = """g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) <int64[4] s = {1, 4, 8, 8}>
    { t = Reshape(x, s) y = Relu(t) }"""
    (finding,) = check("DLA106", body, {"x": [1, 4, 8, 8]}, target=ORIN, scales=["x", "y"])
    assert finding.where == "`t`"


def test_dla107_fp16_convolution(check: Any) -> None:
    (finding,) = check("DLA107", CONV, X, target=ORIN, precision="fp16")
    assert (finding.severity, finding.where) == ("warning", "Conv `c1`")
    assert not check("DLA107", CONV, X, target="xavier-agx/dla", precision="fp16")
    assert not check("DLA107", CONV, X, target="orin-agx-64gb/gpu", precision="fp16")
    assert not check("DLA107", CONV, X, target=ORIN, scales=["x", "t", "y"])


def test_dla107_convolutions_that_int8_does_not_reach(check: Any) -> None:
    assert check("DLA107", CONV, X, target=ORIN, quantize={"skip": ["c1"]})
    assert check("DLA107", CONV, X, target=ORIN, scales=["x", "y"]), "its output has no scale"
    assert not check("DLA107", CONV, X, target=ORIN, scales=["x", "t"]), "only the Relu lacks one"
