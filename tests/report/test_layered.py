"""Rows and columns of a drawn graph."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from trtforge.report.layered import draw


def test_a_chain_is_a_straight_line() -> None:
    drawing = draw(4, [(0, 1), (1, 2), (2, 3)], [100.0] * 4)
    assert drawing.row == (0, 1, 2, 3)
    assert len(set(drawing.x)) == 1
    assert (drawing.width, drawing.rows) == (100.0, 4)


def test_a_long_edge_has_a_lane_beside_the_boxes_it_passes() -> None:
    drawing = draw(4, [(0, 1), (1, 2), (2, 3), (0, 3)], [100.0] * 4)
    way = drawing.routes[3]
    assert [row for _, row in way] == [0, 1, 2, 3]
    for x, row in way[1:-1]:
        assert abs(x - drawing.x[row]) > 50


def test_what_reads_nothing_stands_above_its_reader() -> None:
    assert draw(5, [(0, 1), (1, 2), (2, 4), (3, 4)], [10.0] * 5).row == (0, 1, 2, 2, 3)


def test_nothing_to_draw() -> None:
    assert draw(0, [], []).rows == 0


@given(st.data())
def test_boxes_never_overlap_and_edges_lead_down(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 16))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] < pair[1])
    edges = data.draw(st.lists(pairs, unique=True, max_size=30)) if count > 1 else []
    drawing = draw(count, edges, [100.0] * count)
    for source, target in edges:
        assert drawing.row[source] < drawing.row[target]
    for row in range(drawing.rows):
        places = sorted(x for x, at in zip(drawing.x, drawing.row, strict=True) if at == row)
        assert all(right - left >= 100 + 24 - 1e-6 for left, right in pairwise(places))
    assert all(50 - 1e-6 <= x <= drawing.width - 50 + 1e-6 for x in drawing.x)
    for route, (source, target) in zip(drawing.routes, edges, strict=True):
        assert [row for _, row in route] == list(range(drawing.row[source], drawing.row[target] + 1))
