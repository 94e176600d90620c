"""From the file's grid to the network's, one axis at a time: how long it gets, and which voxel is which.

Three grids follow each other along an axis. *Raw* voxels are the file's, once its axes are turned. *Resampled* ones
have the network's spacing; resampled voxel j lies at raw coordinate j * (raw - 1) / (resampled - 1), so that the
first and the last of both coincide. *Network* voxels are those after padding and cropping; network voxel k is
resampled voxel k + first.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes.volume import Array, Shape, Spacing


@dataclass(frozen=True)
class AxisFit:
    """Lengths of one axis, and what becomes of its ends.

    Attributes:
        raw, resampled, size: voxels in the file, after resampling, and on the network's grid.
        first: the resampled voxel that is network voxel 0; negative where padding comes before it.
        kept: network voxels [start, stop) that are resampled ones.
        filled: network voxels [start, stop) that are resampled ones or repeat the outermost of them; the padding
            value is beyond.
    """

    raw: int
    resampled: int
    size: int
    first: int
    kept: slice
    filled: slice

    @property
    def step(self) -> float:
        """Raw voxels a resampled voxel."""
        return (self.raw - 1) / (self.resampled - 1) if self.resampled > 1 else 1.0

    def nearest_network(self) -> tuple[slice, Array]:
        """The raw voxels that the network saw, and the network voxel nearest to each of them; halves go up.

        Raw voxel i lies at resampled coordinate i * (resampled - 1) / (raw - 1). The network saw it when the nearest
        resampled voxel was not cropped away.
        """
        whole, rest, gaps = self._coordinates()
        nearest = whole + (2 * rest >= gaps) - self.first
        seen = np.flatnonzero((nearest >= self.kept.start) & (nearest < self.kept.stop))
        inside = slice(int(seen[0]), int(seen[-1]) + 1) if len(seen) else slice(0, 0)
        return inside, nearest[inside]

    def between_network(self) -> tuple[slice, Array, Array, Array]:
        """The raw voxels that the network saw, the network voxels below and above each, and the weight of the upper.

        Weights are float32 in [0, 1). Beyond the outermost voxel that was kept, it counts alone.
        """
        inside, _ = self.nearest_network()
        whole, rest, gaps = self._coordinates()
        last = self.kept.stop - 1
        lower = whole[inside] - self.first
        weight = np.where((lower >= self.kept.start) & (lower < last), rest[inside] / gaps, 0)
        lower = np.clip(lower, self.kept.start, last)
        return inside, lower, np.minimum(lower + 1, last), weight.astype(np.float32)

    def nearest_raw(self) -> tuple[Array, Array]:
        """For each network voxel in ``filled`` the nearest raw voxel as scipy rounds it; and whether scipy finds it.

        Rounding may put the last resampled voxel beyond the last raw one, and scipy takes that for outside.
        """
        resampled = np.clip(np.arange(self.filled.start, self.filled.stop) + self.first, 0, self.resampled - 1)
        coordinates = resampled * self.step
        nearest = np.floor(coordinates + 0.5).astype(np.intp)
        return np.minimum(nearest, self.raw - 1), coordinates <= self.raw - 1

    def _coordinates(self) -> tuple[Array, Array, int]:
        """The resampled coordinate of every raw voxel, exactly: the whole part, and the rest in parts of the last."""
        gaps = max(self.raw - 1, 1)
        whole, rest = np.divmod(np.arange(self.raw, dtype=np.int64) * (self.resampled - 1), gaps)
        return whole, rest, gaps


def fit_axes(shape: Shape, spacing: Spacing, spec: VolumePreprocess, roi: Shape) -> tuple[AxisFit, AxisFit, AxisFit]:
    """How a scan comes to the network's grid; ``shape``, ``spacing`` [mm] and ``roi`` in the order of its axes."""
    targets = spec.spacing or spacing
    first, second, third = (
        _fit(raw, _resampled(raw, edge, target), window, spec.multiple or 1)
        for raw, edge, target, window in zip(shape, spacing, targets, roi, strict=True)
    )
    return first, second, third


def network_shape(shape: Shape, spacing: Spacing, spec: VolumePreprocess, roi: Shape) -> Shape:
    """[D, H, W] of a scan on the network's grid, from its header alone; arguments as for ``fit_axes``."""
    first, second, third = (axis.size for axis in fit_axes(shape, spacing, spec, roi))
    return first, second, third


def _resampled(raw: int, edge: float, target: float) -> int:
    """As scipy's zoom rounds it, halves to even; but a scan thinner than half a voxel of the network keeps one."""
    return max(1, round(raw * (edge / target)))


def _fit(raw: int, resampled: int, window: int, multiple: int) -> AxisFit:
    """Bring one axis to at least the window, then to a multiple: the remainder goes or is filled up, half each side.

    A remainder below half a multiple is cropped, unless that would leave less than the window.
    """
    extended = max(resampled, window)
    before = (extended - resampled) // 2  # repeated voxels
    over = extended % multiple
    missing = (multiple - over) % multiple
    if over < multiple // 2 and extended - over >= window:
        size, shift = extended - over, -(over // 2)
    else:
        size, shift = extended + missing, missing // 2
    return AxisFit(
        raw=raw,
        resampled=resampled,
        size=size,
        first=-(before + shift),
        kept=_within(before + shift, resampled, size),
        filled=_within(shift, extended, size),
    )


def _within(start: int, length: int, size: int) -> slice:
    return slice(max(0, start), min(size, start + length))
