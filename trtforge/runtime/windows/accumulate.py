"""Windows of logits in, labels or probabilities of the volume out: one algorithm, compiled and in NumPy.

Per voxel and class c > 0 the accumulator sums weight * (logit_c - logit_0) over the windows; the label is the class
with the largest sum, with 0 for the first class and the lower of equals. That needs no normalisation: a voxel's sums
would all be divided by the same positive number. Probabilities are the softmax of the sums over that number.

A block (see `blocks`) is allocated by the first window over it and written out by the last. Both implementations
compute in float32 in the same order and give the same labels, bit for bit.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.compiled import native_module
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import Shape

Floats = np.ndarray[Any, np.dtype[np.float32]]
Labels = np.ndarray[Any, np.dtype[np.uint8]]


class Accumulator(Protocol):
    def push(self, window: Shape, logits: Floats) -> None:
        """Add one window: its index along D, H and W, and float32 [channels, *window], C-contiguous.

        Windows come in the order of the grid, each once; after the last one the outputs are complete.
        """

    @property
    def met_nan(self) -> bool:
        """Whether a class's sum was NaN where a label was written: the label means nothing then."""

    @property
    def most_bytes(self) -> int:
        """Memory that blocks have taken so far, outputs not counted."""


def accumulator(
    blocks: Blocks,
    weights: WindowWeights,
    channels: int,
    *,
    labels: Labels,
    probabilities: Floats | None = None,
) -> Accumulator:
    """The compiled accumulator where it is installed, NumPy's otherwise.

    Args:
        channels: classes of the network; 1: one logit, positive for class 1 and negative for class 0.
        labels: uint8 [D, H, W] of the grid's shape, filled in.
        probabilities: float32 [max(channels, 2), D, H, W], filled in.
    """
    native = native_module()
    if native is None:
        return NumpyAccumulator(blocks, weights, channels, labels=labels, probabilities=probabilities)
    norms = blocks.norm_axes(weights.axes)
    axes = [
        native.Axis(
            list(starts),
            list(axis.cuts),
            list(axis.first),
            list(axis.last),
            [begin for begin, _ in axis.span],
            [end for _, end in axis.span],
            weight.tolist(),
            norm.tolist(),
        )
        for starts, axis, weight, norm in zip(blocks.grid.starts, blocks.axes, weights.axes, norms, strict=True)
    ]
    built: Accumulator = native.Accumulator(axes, channels, weights.floor, labels, probabilities)
    return built


class NumpyAccumulator:
    """The accumulator where there is no compiler: the same labels, five to ten times the time."""

    def __init__(
        self,
        blocks: Blocks,
        weights: WindowWeights,
        channels: int,
        *,
        labels: Labels,
        probabilities: Floats | None = None,
    ) -> None:
        self._blocks, self._weights, self._single = blocks, weights, channels == 1
        self._labels, self._probabilities = labels, probabilities
        self._dense = weights.dense()
        self._norms = blocks.norm_axes(weights.axes)
        self._sums: dict[Shape, Floats] = {}
        self._bytes = self._most = 0
        self.met_nan = False

    @property
    def most_bytes(self) -> int:
        return self._most

    def push(self, window: Shape, logits: Floats) -> None:
        starts = [axis[at] for axis, at in zip(self._blocks.grid.starts, window, strict=True)]
        for block, voxels, first, last in self._over(window):
            inside = tuple(slice(at.start - start, at.stop - start) for at, start in zip(voxels, starts, strict=True))
            part = logits[(slice(None), *inside)]
            sums = self._dense[inside] * (part if self._single else part[1:] - part[:1])
            if not first:
                sums = self._take(block) + sums
            if last:
                self._finish(voxels, sums)
            else:
                self._keep(block, sums)

    def _over(self, window: Shape) -> Iterator[tuple[Shape, tuple[slice, slice, slice], bool, bool]]:
        """The blocks under a window: segment indices, voxels, and whether this is the first and last window."""
        z, y, x = axes = self._blocks.axes
        spans = [range(*axis.span[at]) for axis, at in zip(axes, window, strict=True)]
        for block in itertools.product(*spans):
            pairs = list(zip(axes, block, window, strict=True))
            first = all(axis.first[at] == k for axis, at, k in pairs)
            last = all(axis.last[at] == k for axis, at, k in pairs)
            a, b, c = block
            voxels = slice(*z.cuts[a : a + 2]), slice(*y.cuts[b : b + 2]), slice(*x.cuts[c : c + 2])
            yield (a, b, c), voxels, first, last

    def _keep(self, block: Shape, sums: Floats) -> None:
        self._sums[block] = sums
        self._bytes += sums.nbytes
        self._most = max(self._most, self._bytes)

    def _take(self, block: Shape) -> Floats:
        sums = self._sums.pop(block)
        self._bytes -= sums.nbytes
        return sums

    def _finish(self, voxels: tuple[slice, slice, slice], sums: Floats) -> None:
        nothing = np.zeros((1, *sums.shape[1:]), np.float32)
        self._labels[voxels] = np.concatenate([nothing, sums]).argmax(axis=0)
        self.met_nan = self.met_nan or bool(np.isnan(sums).any())
        if self._probabilities is not None:
            scores = np.concatenate([nothing, sums / self._norm(voxels)])
            scores = np.exp(scores - scores.max(axis=0))
            self._probabilities[(slice(None), *voxels)] = scores / scores.sum(axis=0)

    def _norm(self, voxels: tuple[slice, slice, slice]) -> Floats:
        """The sum of the weights of all windows over each voxel of a block."""
        if self._weights.floor == 0:
            z, y, x = (norm[at] for norm, at in zip(self._norms, voxels, strict=True))
            product: Floats = (z[:, None, None] * y[None, :, None]) * x[None, None, :]
            return product
        shape = tuple(at.stop - at.start for at in voxels)
        total = np.zeros(shape, np.float32)
        grid = self._blocks.grid
        for window in grid:
            windows = grid.slices(window)
            if all(over.start <= at.start and at.stop <= over.stop for over, at in zip(windows, voxels, strict=True)):
                inside = (slice(a.start - o.start, a.stop - o.start) for a, o in zip(voxels, windows, strict=True))
                total += self._dense[tuple(inside)]
        return total
