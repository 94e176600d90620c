"""Both accumulators give the labels of the float64 formula, and each other's bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trtforge.runtime.windows.accumulate import NumpyAccumulator, accumulator
from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.compiled import NUMPY_ONLY, native_module
from trtforge.runtime.windows.weights import Mode, WindowWeights
from trtforge.volumes.windows import WindowGrid

MODES: list[Mode] = ["mlperf", "monai", "constant"]
compiled = pytest.mark.skipif(native_module() is None, reason="trtforge was installed without a compiler")


def run(make: Callable[..., Any], grid: WindowGrid, mode: Mode, logits: dict, soft: bool = True) -> tuple:
    channels = next(iter(logits.values())).shape[0]
    labels = np.full(grid.shape, 77, np.uint8)
    probabilities = np.full((max(channels, 2), *grid.shape), 77, np.float32) if soft else None
    weights = WindowWeights.of(mode, grid.window)
    sums = make(Blocks.of(grid), weights, channels, labels=labels, probabilities=probabilities)
    for window in grid:
        sums.push(window, logits[window])
    return labels, probabilities, sums


@st.composite
def grids(draw: st.DrawFn) -> WindowGrid:
    window = tuple(draw(st.integers(1, 9)) for _ in range(3))
    shape = tuple(length + draw(st.integers(0, 14)) for length in window)
    grid = WindowGrid.of(shape, window, draw(st.sampled_from([0.0, 0.25, 0.5, 0.66, 0.8])))  # type: ignore[arg-type]
    assume(len(grid) <= 150)
    return grid


@settings(max_examples=80, deadline=None)
@given(grid=grids(), mode=st.sampled_from(MODES), channels=st.integers(1, 6), seed=st.integers(0, 2**32 - 1))
def test_labels_and_probabilities_are_those_of_the_formula(
    formula: SimpleNamespace, grid: WindowGrid, mode: Mode, channels: int, seed: int
) -> None:
    logits = formula.random_logits(grid, channels, seed)
    scores = formula.averaged(grid, WindowWeights.of(mode, grid.window), logits)
    expected = np.exp(scores - scores.max(axis=0))
    expected /= expected.sum(axis=0)
    makers = [NumpyAccumulator] if native_module() is None else [NumpyAccumulator, accumulator]
    found = [run(make, grid, mode, logits) for make in makers]
    for labels, probabilities, sums in found:
        assert (labels == scores.argmax(axis=0))[formula.gap(scores) > 1e-5].all()
        assert np.abs(probabilities - expected).max() < 1e-5
        assert not sums.met_nan
        assert sums.most_bytes <= Blocks.of(grid).most_alive * Blocks.of(grid).slot * max(channels - 1, 1) * 4
    assert all((labels == found[0][0]).all() for labels, _, _ in found)


@compiled
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("channels", [1, 2, 3, 4, 20])
def test_compiled_and_numpy_agree_to_the_bit(formula: SimpleNamespace, mode: Mode, channels: int) -> None:
    """Also where rows are longer than what the compiled loops take at once."""
    grid = WindowGrid.of((30, 41, 300), (16, 17, 150), 0.5)
    logits = formula.random_logits(grid, channels, 5)
    fast, slow = (run(make, grid, mode, logits, soft=False)[0] for make in (accumulator, NumpyAccumulator))
    assert (fast == slow).all()
    assert len(np.unique(fast)) == max(channels, 2)


@pytest.mark.parametrize("make", [NumpyAccumulator, pytest.param(accumulator, marks=compiled)])
def test_of_equal_classes_the_lower_wins(make: Callable[..., Any]) -> None:
    grid = WindowGrid.of((6, 4, 4), (4, 4, 4), 0.5)
    logits = {window: np.ones((4, *grid.window), np.float32) for window in grid}
    assert run(make, grid, "mlperf", logits)[0].max() == 0
    for part in logits.values():
        part[2:] = 3
    assert (run(make, grid, "mlperf", logits)[0] == 2).all()


@pytest.mark.parametrize("make", [NumpyAccumulator, pytest.param(accumulator, marks=compiled)])
@pytest.mark.parametrize("channels", [1, 3, 5])
def test_a_nan_is_noticed_wherever_it_is(formula: SimpleNamespace, make: Callable[..., Any], channels: int) -> None:
    grid = WindowGrid.of((6, 5, 70), (4, 5, 66), 0.5)
    for at in [(0, 0, 0), (3, 4, 65)]:
        logits = formula.random_logits(grid, channels, 1)
        list(logits.values())[-1][(channels - 1, *at)] = np.nan
        assert run(make, grid, "mlperf", logits, soft=False)[2].met_nan


@compiled
def test_the_compiled_one_refuses_what_does_not_fit() -> None:
    grid = WindowGrid.of((6, 4, 4), (4, 4, 4), 0.5)
    blocks, weights, labels = Blocks.of(grid), WindowWeights.of("mlperf", grid.window), np.zeros(grid.shape, np.uint8)
    with pytest.raises(ValueError, match="shape of the volume"):
        accumulator(blocks, weights, 3, labels=np.zeros((6, 4, 5), np.uint8))
    sums = accumulator(blocks, weights, 3, labels=labels)
    with pytest.raises(ValueError, match="shape of a window"):
        sums.push((0, 0, 0), np.zeros((3, 4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="shape of a window"):
        sums.push((0, 0, 0), np.zeros((2, 4, 4, 4), np.float32))
    with pytest.raises(IndexError):
        sums.push((2, 0, 0), np.zeros((3, 4, 4, 4), np.float32))
    with pytest.raises(TypeError):
        sums.push((0, 0, 0), np.zeros((3, 4, 4, 4), np.float64))  # type: ignore[arg-type]


@compiled
def test_windows_out_of_order_are_refused() -> None:
    grid = WindowGrid.of((12, 4, 4), (4, 4, 4), 0.5)
    labels = np.zeros(grid.shape, np.uint8)
    sums = accumulator(Blocks.of(grid), WindowWeights.of("mlperf", grid.window), 3, labels=labels)
    with pytest.raises(ValueError, match="order of the grid"):
        sums.push((4, 0, 0), np.zeros((3, 4, 4, 4), np.float32))


def test_it_can_be_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(NUMPY_ONLY, "1")
    grid = WindowGrid.of((4, 4, 4), (4, 4, 4), 0.5)
    made = accumulator(
        Blocks.of(grid), WindowWeights.of("mlperf", grid.window), 3, labels=np.zeros(grid.shape, np.uint8)
    )
    assert isinstance(made, NumpyAccumulator)
