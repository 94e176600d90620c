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


CONV = """g (float[1, 3, 8, 8] x) => (float[1, 4, 6, 6] y) <float[4, 3, 3, 3] w>
    { r = Relu(x) [first] y = Conv(r, w) }"""
IMAGE = {"x": [1, 3, 8, 8]}


@pytest.mark.parametrize(
    ("more", "found"),
    [
        ({"target": "host"}, True),
        ({}, True),
        ({"backend": "tensorrt", "tensorrt": "8.6"}, False),  # its cache gives INT8 to other layers too
        ({"backend": "tensorrt", "tensorrt": "11.4.1"}, True),
        ({"precision": "fp32"}, False),
    ],
)
def test_qnt105_nothing_to_run_in_int8(check: Any, more: dict[str, Any], found: bool) -> None:
    findings = check("QNT105", BODY, X, **more)
    assert bool(findings) is found
    assert all(finding.fix.endswith("fp32" if more.get("target") == "host" else "fp16") for finding in findings)
    assert not check("QNT105", CONV, IMAGE, **more)


def test_qnt105_nothing_left_by_skip(check: Any) -> None:
    assert check("QNT105", CONV, IMAGE, quantize={"skip": ["first"]})


def test_qnt106_unknown_node_to_skip(check: Any) -> None:
    (finding,) = check("QNT106", CONV, IMAGE, quantize={"skip": ["firts", "r"]})
    assert (finding.where, finding.severity) == ("quantize.skip", "error")
    assert "`firts`" in finding.message
    assert "`first`" in finding.fix
    assert not check("QNT106", CONV, IMAGE, quantize={"skip": ["first", "r"]})


def test_qnt107_sample_sets_as_a_build_opens_them(check: Any, tmp_path: Any) -> None:
    (tmp_path / "three.yaml").write_text("samples: [a.npy, b.npy, c.npy]\n")
    for name in "abc":
        (tmp_path / f"{name}.npy").touch()
    given = {"calibration": {"set": "gone.yaml"}, "verify": {"set": "three.yaml", "at_least": 0.9, "samples": 1000}}
    first, second = check("QNT107", BODY, X, root=tmp_path, **given)
    assert first.where.startswith("calibration.set: ") and "gone.yaml" in first.where and "CAL101" in first.message
    assert second.where.startswith("verify.set: ") and "CAL113" in second.message and "3" in second.fix
    assert not check("QNT107", BODY, X, **given), "no folder, no look"
    usable = {"calibration": {"set": "three.yaml"}, "verify": {"set": "three.yaml", "at_least": 0.9}}
    assert not check("QNT107", BODY, X, root=tmp_path, **usable)
    (tmp_path / "b.npy").unlink()
    (finding,) = check("QNT107", BODY, X, root=tmp_path, **usable)
    assert "CAL103" in finding.message and "three.yaml:1" in finding.where


@pytest.mark.parametrize(
    ("target", "said", "found"),
    [
        ("orin-agx-64gb/gpu", None, True),
        ("orin-agx-64gb/gpu", ">=9,<10", True),
        ("orin-agx-64gb/gpu", ">=8.5,<11", False),
        ("orin-agx-64gb/gpu", "10.7", False),
        ("a30", None, True),
        ("a30", "10.3", False),
    ],
)
def test_qnt108_release_not_named(check: Any, target: str, said: str | None, found: bool) -> None:
    findings = check("QNT108", CONV, IMAGE, target=target, backend="tensorrt", tensorrt=said)
    assert bool(findings) is found
    assert all("tensorrt: " in finding.fix for finding in findings)
    assert not check("QNT108", CONV, IMAGE, target="a30", precision="fp16", backend="tensorrt", tensorrt=said)
