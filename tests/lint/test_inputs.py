"""GRF rules: the recipe's inputs against the model's."""

from __future__ import annotations

from typing import Any

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
