"""GRF rules: the recipe's inputs against the model's."""

from __future__ import annotations

from typing import Any

import pytest

CLOSED = "g (float[1, 3, 8, 8] x) => (float[1, 3, 8, 8] y) { y = Relu(x) }"
OPEN = "g (float[n, 3, h, 8] x) => (float[n, 3, h, 8] y) { y = Relu(x) }"
TWO = "g (float[1, 4] x, float[1, 4] weights) => (float[1, 4] y) { y = Add(x, weights) }"


def test_grf101_recipe_input_not_in_the_model(check: Any) -> None:
    (finding,) = check("GRF101", TWO, {"x": [1, 4], "wieghts": [1, 4]})
    assert finding.severity == "error"
    assert finding.where == "inputs.wieghts"
    assert "`weights`" in finding.fix
    assert not check("GRF101", TWO, {"x": [1, 4], "weights": [1, 4]})


def test_grf102_model_input_not_in_the_recipe(check: Any) -> None:
    (finding,) = check("GRF102", TWO, {"x": [1, 4]})
    assert "weights" in finding.where
    assert '"weights": {shape: [1, 4], dtype: float32}' in finding.fix
    assert not check("GRF102", TWO, {"x": [1, 4], "weights": [1, 4]})


def test_grf102_initializers_listed_as_inputs_are_not_inputs(check: Any) -> None:
    body = "g (float[1, 4] x, float[4] w) => (float[1, 4] y) <float[4] w = {1.0, 2.0, 3.0, 4.0}> { y = Add(x, w) }"
    assert not check("GRF102", body, {"x": [1, 4]})


def test_grf103_open_dimensions_without_a_shape(check: Any) -> None:
    (finding,) = check("GRF103", OPEN, {"other": [1]})
    assert "[n, 3, h, 8]" in finding.message
    assert "[?, 3, ?, 8]" in finding.fix
    assert not check("GRF102", OPEN, {"other": [1]}), "one missing input is one finding"
    assert not check("GRF103", OPEN, {"x": [2, 3, 16, 8]})
    assert not check("GRF103", CLOSED, {"other": [1]})


def test_grf104_shape_contradicts_the_model(check: Any) -> None:
    (finding,) = check("GRF104", OPEN, {"x": [2, 16, 8, 3]})
    assert "[2, 16, 8, 3]" in finding.message
    assert "[n, 3, h, 8]" in finding.message
    assert check("GRF104", OPEN, {"x": [2, 3, 16]}), "a rank too low"
    assert check("GRF104", CLOSED, {"x": [8, 3, 8, 8]}), "a batch the export has fixed"
    assert not check("GRF104", OPEN, {"x": [2, 3, 16, 8]})
    assert not check("GRF104", OPEN, {"nothing": [1]})


@pytest.mark.parametrize(
    ("declared", "given", "backend", "found"),
    [
        ("int64", "float32", "onnxruntime", True),
        ("int64", "int64", "onnxruntime", False),
        ("float", "float16", "tensorrt_rtx", True),
        ("float", "int8", "tensorrt", False),  # the DLA takes int8 in place of the graph's float32
        ("int64", "int32", "tensorrt", True),
    ],
)
def test_grf105_type_contradicts_the_model(check: Any, declared: str, given: str, backend: str, found: bool) -> None:
    body = f"g ({declared}[1, 4] x) => ({declared}[1, 4] y) {{ y = Identity(x) }}"
    findings = check("GRF105", body, {"x": {"shape": [1, 4], "dtype": given}}, backend=backend)
    assert bool(findings) is found
    for finding in findings:
        numpy_name = {"float": "float32"}.get(declared, declared)
        assert (finding.where, finding.severity) == ("inputs.x.dtype", "error")
        assert finding.fix == f"write dtype: {numpy_name}"


@pytest.mark.parametrize(
    ("wanted", "batch", "found"),
    [
        ([1, 2, 2], 8, True),
        ([1, 2, 2], 1, False),
        ([-1, 2, 2], 8, False),
        ([0, 2, 2], 8, False),
        ([1, -1], 8, False),
    ],
)
def test_grf106_a_batch_baked_into_a_reshape(check: Any, wanted: list[int], batch: int, found: bool) -> None:
    listed = ", ".join(map(str, wanted))
    body = f"""g (float[n, 4] x) => (float[a, b, c] y)
        <int64[{len(wanted)}] shape = {{{listed}}}> {{ r = Relu(x) y = Reshape(r, shape) }}"""
    findings = check("GRF106", body, {"x": [batch, 4]})
    assert bool(findings) is found
    for finding in findings:
        assert "Reshape" in finding.where
        assert f"it makes {wanted} of [{batch}, 4], which has {batch * 4} elements" in finding.message


def test_grf107_one_symbol_two_sizes(check: Any) -> None:
    body = "g (float[n, s] x, float[n, s] mask) => (float[n, s] y, float[n, s] z) { y = Relu(x) z = Relu(mask) }"
    (finding,) = check("GRF107", body, {"x": [1, 128], "mask": [1, 64]})
    assert (finding.where, finding.severity) == ("inputs.mask.shape", "warning")
    assert "`s`" in finding.message and "128" in finding.message and "64" in finding.message
    assert not check("GRF107", body, {"x": [1, 64], "mask": [1, 64]})
    assert not check("GRF107", body, {"x": [1, 64]})
