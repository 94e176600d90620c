"""A drawing of an acyclic graph in rows: every edge leads down, long ones get a lane of their own between the boxes.

Sugiyama's method: rows by the longest way from the top, order within a row by the mean of the neighbours' places, and
columns that bring each box as near to its neighbours as the order allows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SWEEPS = 12
LANE = 14.0
"""Room that a passing edge takes in a row."""


@dataclass(frozen=True)
class Drawing:
    """``x``: middles of the boxes; ``row``: from 0. ``routes``: for each edge the middles it passes, row by row."""

    x: tuple[float, ...]
    row: tuple[int, ...]
    routes: tuple[tuple[tuple[float, int], ...], ...]
    width: float
    rows: int


def draw(count: int, edges: Sequence[tuple[int, int]], widths: Sequence[float], gap: float = 24.0) -> Drawing:
    """Place ``count`` boxes, numbered in topological order; an edge leads from a lower number to a higher one."""
    rows = _rows(count, edges)
    lanes = _Lanes(count, rows)
    chains = [lanes.between(source, target) for source, target in edges]
    sizes = [*widths, *[LANE] * (len(lanes.row) - count)]
    layers: list[list[int]] = [[] for _ in range(max(lanes.row, default=-1) + 1)]
    for place, row in enumerate(lanes.row):
        layers[row].append(place)
    above: list[list[int]] = [[] for _ in lanes.row]
    below: list[list[int]] = [[] for _ in lanes.row]
    for upper, lower in dict.fromkeys(pair for chain in chains for pair in pairwise(chain)):
        above[lower].append(upper)
        below[upper].append(lower)
    _order(layers, above, below)
    x = _columns(layers, above, below, sizes, gap)
    left = min((x[place] - sizes[place] / 2 for place in range(len(x))), default=0.0)
    right = max((x[place] + sizes[place] / 2 for place in range(len(x))), default=0.0)
    moved = [value - left for value in x]
    routes = tuple(tuple((moved[place], lanes.row[place]) for place in chain) for chain in chains)
    return Drawing(tuple(moved[:count]), tuple(rows), routes, right - left, len(layers))


def _rows(count: int, edges: Sequence[tuple[int, int]]) -> list[int]:
    """The longest way from the top; boxes that read nothing stand right above their first reader."""
    readers: list[list[int]] = [[] for _ in range(count)]
    rows = [0] * count
    reads = [False] * count
    for source, target in edges:
        readers[source].append(target)
        reads[target] = True
    for source in range(count):
        for target in readers[source]:
            rows[target] = max(rows[target], rows[source] + 1)
    for source in range(count):
        if not reads[source] and readers[source]:
            rows[source] = min(rows[target] for target in readers[source]) - 1
    return rows


class _Lanes:
    """Places of rows: the boxes, and one for each row that the edges of a box pass. Edges of one box share them."""

    def __init__(self, count: int, rows: Sequence[int]) -> None:
        self.row = list(rows)
        self._passing: dict[tuple[int, int], int] = {}

    def between(self, source: int, target: int) -> list[int]:
        chain = [source]
        for row in range(self.row[source] + 1, self.row[target]):
            if (source, row) not in self._passing:
                self._passing[source, row] = len(self.row)
                self.row.append(row)
            chain.append(self._passing[source, row])
        return [*chain, target]


def _order(layers: list[list[int]], above: Sequence[Sequence[int]], below: Sequence[Sequence[int]]) -> None:
    """Sort every row by the mean place of its neighbours, downwards and upwards in turn."""
    place = {one: float(at) for layer in layers for at, one in enumerate(layer)}
    for sweep in range(SWEEPS):
        neighbours = above if sweep % 2 == 0 else below
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            wanted = {one: _mean([place[other] for other in neighbours[one]], place[one]) for one in layer}
            layer.sort(key=wanted.__getitem__)
            place.update({one: at - (len(layer) - 1) / 2 for at, one in enumerate(layer)})


def _columns(
    layers: Sequence[Sequence[int]],
    above: Sequence[Sequence[int]],
    below: Sequence[Sequence[int]],
    sizes: Sequence[float],
    gap: float,
) -> list[float]:
    x = [0.0] * len(sizes)
    for layer in layers:
        for one, at in zip(layer, _packed([0.0] * len(layer), layer, sizes, gap), strict=True):
            x[one] = at
    for sweep in range(SWEEPS):
        for layer in layers if sweep % 2 == 0 else reversed(layers):
            neighbours = above if sweep % 2 == 0 else below
            wanted = [_mean([x[other] for other in neighbours[one]], x[one]) for one in layer]
            for one, at in zip(layer, _packed(wanted, layer, sizes, gap), strict=True):
                x[one] = at
    return x


def _packed(wanted: Sequence[float], layer: Sequence[int], sizes: Sequence[float], gap: float) -> list[float]:
    """The places nearest to those wanted, in least squares, that keep the order and the distances."""
    offsets, offset = [], 0.0
    for at, one in enumerate(layer):
        if at:
            offset += (sizes[layer[at - 1]] + sizes[one]) / 2 + gap
        offsets.append(offset)
    blocks: list[tuple[float, int]] = []  # sum and number of those that have to stand as close as they may
    for want, shift in zip(wanted, offsets, strict=True):
        total, members = want - shift, 1
        while blocks and blocks[-1][0] / blocks[-1][1] > total / members:
            previous, more = blocks.pop()
            total, members = total + previous, members + more
        blocks.append((total, members))
    flat = [total / members for total, members in blocks for _ in range(members)]
    return [value + shift for value, shift in zip(flat, offsets, strict=True)]


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
