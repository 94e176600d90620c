"""GRF110: operators of domains that the compiler, or onnxruntime, does not know."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnxruntime.capi.onnxruntime_pybind11_state import Fail

from tests.lint.conftest import engine, model
from trtforge.lint.run import lint
from trtforge.ort import open_session, session_options
from trtforge.targets.load import get

X = {"x": [1, 4, 8, 8]}
SET = {"calibration": {"set": "s.yaml"}}
VERIFY = {"verify": {"set": "v.yaml", "metric": "cosine", "at_least": 0.9}}


def body(operator: str) -> str:
    return f"g (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {{ [a] t = Relu(x) [foo] y = {operator}(t) }}"


@pytest.mark.parametrize("target", ["a30", "orin-agx-64gb/gpu", "orin-agx-64gb/dla", "host"])
def test_what_nobody_knows_is_an_error_with_node_and_domain(check: Any, target: str) -> None:
    (finding,) = check("GRF110", body("com.acme.Foo"), X, target=target)
    assert (finding.severity, finding.where) == ("error", "Foo `foo`")
    assert finding.message.startswith("`com.acme::Foo` is no operator of ONNX")
    assert "plugin" in finding.fix
    assert check("GRF110", body("Foo"), X, target=target), "in ONNX's own domain neither"


def test_repeats_are_one_finding(check: Any) -> None:
    twice = "g (float[4] x) => (float[4] y) { [a] t = com.acme.Foo(x) [b] y = com.acme.Foo(t) }"
    (finding,) = check("GRF110", twice, {"x": [4]})
    assert finding.places == ("Foo `a`", "Foo `b`")


@pytest.mark.parametrize(
    ("operator", "options", "says"),
    [
        ("com.microsoft.FastGelu", {"target": "host"}, None),
        ("com.microsoft.FastGelu", {}, "no plugin of that name"),
        ("com.microsoft.Gelu", {}, None),
        ("com.microsoft.Gelu", {"precision": "fp16"}, "float16"),
        ("com.acme.Tanh", {}, "is built as ONNX's Tanh"),
        ("com.acme.Tanh", SET, "is not run by onnxruntime"),
        ("trtforge.Foo", {}, "no plugin of that name"),
        ("ai.onnx.ml.Scaler", {}, "is of ONNX's ai.onnx.ml, and compilers read its default domain alone"),
        ("ai.onnx.ml.Scaler", {"target": "host"}, None),
        ("EfficientNMS_TRT", {"target": "orin-agx-64gb/gpu", "tensorrt": "10.3"}, None),
        ("EfficientNMS_TRT", {"target": "orin-agx-64gb/gpu", "tensorrt": ">=10,<11"}, None),
        ("EfficientNMS_TRT", {"target": "orin-agx-64gb/gpu", "tensorrt": "10.3", **SET}, "gathers the INT8 ranges"),
        ("EfficientNMS_TRT", {"target": "orin-agx-64gb/gpu", "tensorrt": "10.3", **VERIFY}, "answers to verify"),
        ("EfficientNMS_TRT", {}, "TensorRT-RTX has no plugin of that name"),
        ("BatchedNMS_TRT", {"target": "orin-agx-64gb/gpu", "tensorrt": "10.3"}, "unless the device's TensorRT"),
        (
            "mmcv.ModulatedDeformConv2d",
            {"target": "orin-agx-64gb/gpu", "tensorrt": "8.6"},
            "unless the device's TensorRT",
        ),
        ("com.acme.Foo", {"target": "orin-agx-64gb/gpu", "tensorrt": "10.3"}, "the build fails on the device"),
    ],
)
def test_who_knows_what(check: Any, operator: str, options: dict[str, Any], says: str | None) -> None:
    found = check("GRF110", body(operator), X, **options)
    assert [says in finding.message for finding in found] == ([] if says is None else [True]), found


def test_a_function_of_the_model_is_known() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17, "com.acme" : 1]>
    g (float[4] x) => (float[4] y) { y = com.acme.Foo(x) }
    <domain: "com.acme", opset_import: ["" : 17]> Foo (a) => (b) { b = Relu(a) }"""
    proto = onnx.parser.parse_model(text)
    whole = model("g (float[4] x) => (float[4] y) { y = Relu(x) }")
    whole.proto.CopyFrom(proto)
    found = [one.code for one in lint(whole, engine({"x": [4]}, "fp32"), get("a30"))]
    assert "GRF110" not in found
    del whole.proto.functions[:]
    assert "GRF110" in [one.code for one in lint(whole, engine({"x": [4]}, "fp32"), get("a30"))]


@pytest.mark.parametrize(("operator", "runs"), [("com.microsoft.FastGelu", True), ("com.microsoft.Foo", False)])
def test_onnxruntime_agrees(check: Any, operator: str, runs: bool) -> None:
    """What the finding says of the host is what onnxruntime does with such a model."""
    proto = model(body(operator)).proto
    try:
        open_session(proto, None, session_options())
        loaded = True
    except Fail:
        loaded = False
    assert loaded == runs
    assert (not check("GRF110", body(operator), X, target="host", precision="fp32")) == runs
