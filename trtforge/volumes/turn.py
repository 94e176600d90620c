"""Axes in another order and direction, as views: nothing is copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from trtforge.volumes.volume import Array, Shape

_T = TypeVar("_T")


@dataclass(frozen=True)
class Turn:
    """Axis n of the turned array is axis ``axes[n]`` of the file, run backwards where ``flipped[n]``."""

    axes: Shape
    flipped: tuple[bool, bool, bool]

    @classmethod
    def to(cls, orientation: str | None, affine: Array) -> Turn:
        """The turn that makes the axes run to these directions, each file axis to the closest; None: no turn.

        ``orientation``: three of L/R, A/P, S/I, e.g. IPL: to inferior, posterior, left.
        """
        if orientation is None:
            return cls((0, 1, 2), (False, False, False))
        from nibabel import orientations

        nibabel: Any = orientations  # which has no types
        have, want = nibabel.io_orientation(affine), nibabel.axcodes2ornt(tuple(orientation))
        change = nibabel.ornt_transform(have, want)  # row i: what becomes of the file's axis i
        first, second, third = (int(axis) for axis in np.argsort(change[:, 0]))
        backwards = [bool(direction < 0) for direction in change[:, 1]]
        return cls((first, second, third), (backwards[first], backwards[second], backwards[third]))

    def order(self, values: Sequence[_T]) -> tuple[_T, _T, _T]:
        """One value an axis of the file, in the order of the turned axes."""
        first, second, third = (values[axis] for axis in self.axes)
        return first, second, third

    def forward(self, voxels: Array) -> Array:
        """A view of [I, J, K] with its axes turned."""
        return voxels.transpose(self.axes)[self._flips]

    def back(self, voxels: Array) -> Array:
        """A view of [..., D, H, W] with the file's axes."""
        leading = voxels.ndim - 3
        undo = np.argsort(self.axes)
        return voxels[(..., *self._flips)].transpose(*range(leading), *(leading + undo))

    @property
    def _flips(self) -> tuple[slice, slice, slice]:
        first, second, third = (slice(None, None, -1 if flip else 1) for flip in self.flipped)
        return first, second, third


def orientation_of(affine: Array) -> str:
    """Where the axes of a file run to, each to the closest: `IPL` is to inferior, posterior, left."""
    from nibabel import orientations

    nibabel: Any = orientations
    return "".join(nibabel.aff2axcodes(affine))
