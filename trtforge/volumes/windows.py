"""Where the windows of a volume lie: the grid that the loop runs and that calibration draws from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from math import prod

Shape = tuple[int, int, int]


def starts(size: int, window: int, overlap: float) -> tuple[int, ...]:
    """First voxels of the windows along one axis: multiples of the stride, and the last one shifted in to the end.

    The stride is int(window * (1 - overlap)), at least 1, as MLPerf and MONAI have it. ``size`` >= ``window``.
    """
    if size < window:
        raise ValueError(f"an axis of {size} voxels has no window of {window}")
    stride = max(1, int(window * (1 - overlap)))
    last = size - window
    return (*range(0, last, stride), last)


@dataclass(frozen=True)
class WindowGrid:
    """The windows of one volume: the Cartesian product of the starts along its axes.

    Windows have three indices, one an axis, each counted from 0; ``order`` is the axes from the slowest to the
    fastest in which the loop runs through them: the axis with the most windows first, so that the fewest blocks of
    the accumulator are alive at once.
    """

    shape: Shape
    window: Shape
    starts: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]

    @classmethod
    def of(cls, shape: Shape, window: Shape, overlap: float) -> WindowGrid:
        """Raises ValueError for a volume smaller than the window."""
        z, y, x = (starts(size, length, overlap) for size, length in zip(shape, window, strict=True))
        return cls(shape, window, (z, y, x))

    def __len__(self) -> int:
        return prod(len(axis) for axis in self.starts)

    @cached_property
    def order(self) -> Shape:
        first, second, third = sorted(range(3), key=lambda axis: (-len(self.starts[axis]), axis))
        return first, second, third

    def __iter__(self) -> Iterator[Shape]:
        """Window indices (along D, H, W) in the order of the loop."""
        counts = [len(self.starts[axis]) for axis in self.order]
        index = [0, 0, 0]
        for slow in range(counts[0]):
            for middle in range(counts[1]):
                for fast in range(counts[2]):
                    index[self.order[0]], index[self.order[1]], index[self.order[2]] = slow, middle, fast
                    yield index[0], index[1], index[2]

    def slices(self, index: Shape) -> tuple[slice, slice, slice]:
        """The voxels of a window."""
        z, y, x = (
            slice(self.starts[axis][at], self.starts[axis][at] + self.window[axis]) for axis, at in enumerate(index)
        )
        return z, y, x
