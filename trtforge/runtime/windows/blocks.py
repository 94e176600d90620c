"""The blocks that overlapping windows cut a volume into, and when each is first and last written.

Along an axis every start and every end of a window is a cut; a block is a product of three segments, so each window
covers a block wholly or not at all. Windows come in the order of the grid, a product order, so the first window over a
block is the one with the first index along every axis, and the last likewise.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from trtforge.runtime.windows.weights import Vector
from trtforge.volumes.windows import Shape, WindowGrid


@dataclass(frozen=True)
class Segments:
    """One axis. ``cuts``: n + 1 bounds of n segments. ``first``, ``last``: first and last window over each segment.

    ``span``: for each window, the range of segments it covers.
    """

    cuts: tuple[int, ...]
    first: tuple[int, ...]
    last: tuple[int, ...]
    span: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, starts: tuple[int, ...], window: int) -> Segments:
        cuts = tuple(sorted({*starts, *(start + window for start in starts)}))
        span = tuple((bisect_left(cuts, start), bisect_left(cuts, start + window)) for start in starts)
        over = [
            [index for index, (begin, end) in enumerate(span) if begin <= segment < end]
            for segment in range(len(cuts) - 1)
        ]
        return cls(cuts, tuple(indices[0] for indices in over), tuple(indices[-1] for indices in over), span)

    @property
    def longest(self) -> int:
        return max(end - begin for begin, end in zip(self.cuts, self.cuts[1:], strict=False))


@dataclass(frozen=True)
class Blocks:
    """The blocks of a grid. ``axes``: the segments along D, H and W."""

    grid: WindowGrid
    axes: tuple[Segments, Segments, Segments]

    @classmethod
    def of(cls, grid: WindowGrid) -> Blocks:
        z, y, x = (Segments.of(starts, length) for starts, length in zip(grid.starts, grid.window, strict=True))
        return cls(grid, (z, y, x))

    @property
    def slot(self) -> int:
        """Voxels of the largest block: what one block of the accumulator takes."""
        z, y, x = (axis.longest for axis in self.axes)
        return z * y * x

    @cached_property
    def most_alive(self) -> int:
        """Most blocks that hold values at one moment. What only one window covers is never stored."""
        alive = most = 0
        for window in self.grid:
            only = self._count(window, first=True, last=True)
            alive += self._count(window, first=True) - only
            most = max(most, alive)
            alive -= self._count(window, last=True) - only
        return most

    def _count(self, window: Shape, *, first: bool = False, last: bool = False) -> int:
        """Blocks that this window is the first over, the last over, or both: a product, as blocks are."""
        return prod(
            sum((not first or axis.first[at] == k) and (not last or axis.last[at] == k) for at in range(*axis.span[k]))
            for axis, k in zip(self.axes, window, strict=True)
        )

    def norm_axes(self, weights: tuple[Vector, Vector, Vector]) -> list[Vector]:
        """Sum of the weights over the windows along each axis, float32: their product is the norm of a voxel."""
        sums = []
        for starts, size, weight in zip(self.grid.starts, self.grid.shape, weights, strict=True):
            total = np.zeros(size, np.float64)
            for start in starts:
                total[start : start + len(weight)] += weight
            sums.append(total.astype(np.float32))
        return sums
