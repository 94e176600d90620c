"""Blocks partition the volume, and each is written out once all its windows have come."""

from __future__ import annotations

from itertools import product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.runtime.windows.blocks import Blocks, Segments
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid, starts

overlaps = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9])


@given(size=st.integers(1, 60), window=st.integers(1, 20), overlap=overlaps)
def test_a_segment_is_covered_by_a_window_wholly_or_not_at_all(size: int, window: int, overlap: float) -> None:
    size = max(size, window)
    begins = starts(size, window, overlap)
    axis = Segments.of(begins, window)
    assert axis.cuts[0] == 0 and axis.cuts[-1] == size
    for at, (begin, end) in enumerate(zip(axis.cuts, axis.cuts[1:], strict=False)):
        covering = [k for k, start in enumerate(begins) if start < end and begin < start + window]
        assert covering and all(begins[k] <= begin and end <= begins[k] + window for k in covering)
        assert (axis.first[at], axis.last[at]) == (covering[0], covering[-1])
        assert all(axis.span[k][0] <= at < axis.span[k][1] for k in covering)


@settings(max_examples=60, deadline=None)
@given(sizes=st.tuples(*[st.integers(4, 11)] * 3), window=st.integers(3, 4), overlap=st.sampled_from([0.0, 0.3, 0.5]))
def test_the_most_blocks_alive(sizes: tuple[int, int, int], window: int, overlap: float) -> None:
    """Counted voxel by voxel: one that was reached by a window and waits for another is alive."""
    grid = WindowGrid.of(sizes, (window,) * 3, overlap)
    blocks = Blocks.of(grid)
    z, y, x = blocks.axes
    corners = list(product(z.cuts[:-1], y.cuts[:-1], x.cuts[:-1]))
    covers = {
        corner: [
            k
            for k in grid
            if all(begin.start <= at < begin.stop for begin, at in zip(grid.slices(k), corner, strict=True))
        ]
        for corner in corners
    }
    assert all(covers.values())
    order = {window: turn for turn, window in enumerate(grid)}
    spans = [(order[windows[0]], order[windows[-1]]) for windows in covers.values() if len(windows) > 1]
    most = max((sum(begin <= turn <= end for begin, end in spans) for turn in range(len(grid))), default=0)
    assert blocks.most_alive == most


def test_memory_follows_the_plane_and_not_the_volume() -> None:
    def alive(depth: int) -> int:
        return Blocks.of(WindowGrid.of((depth, 448, 448), (128, 128, 128), 0.5)).most_alive

    assert alive(640) == alive(1280)
    largest = Blocks.of(WindowGrid.of((320, 448, 448), (128, 128, 128), 0.5))
    assert largest.slot == 64**3
    assert largest.most_alive * largest.slot * 2 * 4 == 42 * 64**3 * 8  # 84 MiB, three classes


@settings(max_examples=40, deadline=None)
@given(sizes=st.tuples(*[st.integers(5, 12)] * 3), overlap=st.sampled_from([0.0, 0.3, 0.5]))
def test_norms_are_products_of_three_sums(sizes: tuple[int, int, int], overlap: float) -> None:
    grid = WindowGrid.of(sizes, (5, 4, 3), overlap)
    weights = WindowWeights.of("mlperf", grid.window)
    expected = np.zeros(grid.shape)
    for window in grid:
        expected[grid.slices(window)] += weights.dense()
    z, y, x = Blocks.of(grid).norm_axes(weights.axes)
    assert np.allclose(z[:, None, None] * y[:, None] * x, expected, rtol=1e-5)
