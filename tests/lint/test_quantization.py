"""QNT rules: opsets and scale tables."""

from __future__ import annotations

from typing import Any

import pytest

BODY = "g (float[1, 4] x) => (float[1, 4] y) { y = Relu(x) }"
X = {"x": [1, 4]}


@pytest.mark.parametrize(
    ("opset", "more", "found"),
    [
        (9, {}, True),
        (11, {}, True),
        (12, {"backend": "onnxruntime"}, True),
        (13, {}, False),
        (9, {"surgery": ["upgrade-opset"]}, False),
        (9, {"precision": "fp16"}, False),
        (9, {"backend": "tensorrt", "tensorrt": "8.6"}, False),
        (9, {"backend": "tensorrt"}, False),
        (9, {"backend": "tensorrt", "tensorrt": "11.1"}, True),
    ],
)
def test_qnt101_opset_too_old_for_qdq(check: Any, opset: int, more: dict[str, Any], found: bool) -> None:
    findings = check("QNT101", BODY, X, opset=opset, **more)
    assert bool(findings) is found
    assert all("upgrade-opset" in finding.fix and finding.severity == "error" for finding in findings)


def test_qnt101_says_what_the_opset_lacks(check: Any) -> None:
    assert "Q/DQ nodes" in check("QNT101", BODY, X, opset=9)[0].message
    assert "per channel" in check("QNT101", BODY, X, opset=12)[0].message


def test_qnt102_unnamed_tensorrt_layers(check: Any) -> None:
    scales = ["x", "(Unnamed Layer* 3) [Shuffle]_output", "(Unnamed Layer* 12) [Scale]_output"]
    (finding,) = check("QNT102", BODY, X, scales=scales)
    assert "2 scales" in finding.message
    assert "(Unnamed Layer* 3)" in finding.where
    assert not check("QNT102", BODY, X, scales=["x", "y"])
    assert not check("QNT102", BODY, X)


def test_qnt103_scales_of_unknown_tensors(check: Any) -> None:
    scales = ["x", "input.4", "(Unnamed Layer* 3) [Shuffle]_output"]
    (finding,) = check("QNT103", BODY, X, scales=scales)
    assert "input.4" in finding.where
    assert "1 of 3" in finding.message
    assert not check("QNT103", BODY, X, scales=["x", "y"])


@pytest.mark.parametrize(
    ("verified", "precision", "found"),
    [("a.yaml", "int8", True), ("b.yaml", "int8", False), ("a.yaml", "fp16", False)],
)
def test_qnt104_verified_on_calibration_samples(check: Any, verified: str, precision: str, found: bool) -> None:
    findings = check(
        "QNT104",
        BODY,
        X,
        precision=precision,
        calibration={"set": "a.yaml"},
        verify={"set": verified, "at_least": 0.99},
    )
    assert bool(findings) is found
    assert all(finding.severity == "warning" and "a.yaml" in finding.message for finding in findings)
    assert not check("QNT104", BODY, X, calibration={"set": "a.yaml"})
