"""Where windows lie: as MLPerf and MONAI place them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.pipeline.protocol import CASES
from trtforge.volumes.windows import WindowGrid, starts


def test_mlperf_has_no_partial_windows() -> None:
    assert starts(320, 128, 0.5) == (0, 64, 128, 192)
    assert starts(128, 128, 0.5) == (0,)


def test_the_last_window_is_shifted_in() -> None:
    assert starts(150, 128, 0.5) == (0, 22)
    assert starts(330, 128, 0.5) == (0, 64, 128, 192, 202)


@given(size=st.integers(1, 400), window=st.integers(1, 130), overlap=st.floats(0, 0.99))
def test_every_voxel_is_covered(size: int, window: int, overlap: float) -> None:
    size = max(size, window)
    begins = starts(size, window, overlap)
    covered = {voxel for begin in begins for voxel in range(begin, begin + window)}
    assert covered == set(range(size))
    assert list(begins) == sorted(set(begins))


@given(size=st.integers(1, 400), window=st.integers(1, 130), overlap=st.sampled_from([0.25, 0.5, 0.625, 0.75]))
def test_the_starts_are_monais(size: int, window: int, overlap: float) -> None:
    """Its rule in other words: as many strides as reach the end, each clamped to the last place a window fits."""
    size = max(size, window)
    stride = max(1, int(window * (1 - overlap)))
    reached = next(count for count in range(size + 1) if count * stride + window >= size)
    assert starts(size, window, overlap) == tuple(
        dict.fromkeys(min(k * stride, size - window) for k in range(reached + 1))
    )


def test_an_axis_shorter_than_the_window_is_refused() -> None:
    with pytest.raises(ValueError, match="no window of 128"):
        starts(127, 128, 0.5)


def test_the_axis_with_the_most_windows_is_the_slowest() -> None:
    grid = WindowGrid.of((128, 192, 320), (128, 128, 128), 0.5)
    assert grid.order == (2, 1, 0)
    assert list(grid) == [(0, y, x) for x in range(4) for y in range(2)]
    assert len(grid) == 8


def test_windows_of_the_kits19_cases() -> None:
    """Of the 43 cases of MLPerf v2.1, 2761 windows in all; 42 of v2.0: 2636."""
    table = json.loads((Path(__file__).parent / "golden" / "kits19_shapes.json").read_text())
    counts = {name: len(WindowGrid.of(tuple(case["network"]), (128, 128, 128), 0.5)) for name, case in table.items()}
    assert counts == {name: case["windows"] for name, case in table.items()}
    assert sum(counts[name] for name in CASES["infer"]) == 2761
    assert sum(counts[name] for name in CASES["calibration"]) == 1119
