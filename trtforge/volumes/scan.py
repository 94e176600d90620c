"""A file whose header was read and found good, its voxels still to come; what every format must show for that."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.errors.volume import (
    AffineSingular,
    NotAVolume,
    SpacingContradicted,
    SpacingImpossible,
    VoxelsUnsupported,
)
from trtforge.volumes.volume import Array, Shape, Spacing, by

if TYPE_CHECKING:
    from trtforge.volumes.nifti import Template

SPACING_TOLERANCE = 0.01
"""Relative difference between spacing and affine that rounding explains."""

_PARALLEL = 1e-3  # volume of the cell that the axes' unit vectors span; 1 when they are perpendicular


@dataclass(frozen=True, eq=False)
class Scan:
    """``chunks()`` reads the voxels: 1-D arrays that follow each other, the file's first axis fastest, scaled.

    ``dtype`` is theirs, ``affine`` maps indices to RAS mm, ``spacing`` is in mm; see ``Volume``.
    """

    path: Path
    shape: Shape
    dtype: np.dtype[Any]
    affine: Array
    spacing: Spacing
    chunks: Callable[[], Iterator[Array]]
    template: Template | None = None
    warnings: tuple[str, ...] = ()

    @property
    def kept_dtype(self) -> np.dtype[Any]:
        """The type of ``Volume.voxels``: integers of 8 and 16 bits as they are, float32 for the rest."""
        small = self.dtype.kind in "iu" and self.dtype.itemsize <= 2
        return self.dtype.newbyteorder("=") if small else np.dtype(np.float32)

    def index(self, position: int) -> list[int]:
        """The voxel at a position of the chunks put together."""
        return [int(axis) for axis in np.unravel_index(position, self.shape, order="F")]


def check_shape(lengths: Sequence[int], path: Path) -> Shape:
    """The three axes; further ones must have length 1. Raises VOL104."""
    shape = tuple(int(length) for length in lengths)
    if len(shape) >= 3 and min(shape) > 0 and set(shape[3:]) <= {1}:
        return shape[0], shape[1], shape[2]
    frames = len(shape) == 4 and min(shape) > 0
    raise NotAVolume(
        "the file is not one three-dimensional image",
        where=str(path),
        why=f"its axes are {by(shape) or 'missing'}" + (f", which is {shape[3]} volumes" if frames else ""),
        next=f"take one of them: nib-roi -t 0:1 {path} FRAME.nii.gz" if frames else "name the file that holds the scan",
    )


def check_dtype(dtype: np.dtype[Any], path: Path) -> None:
    """Raises VOL105 unless a voxel is one real number."""
    if dtype.kind not in "iuf":
        kind = {"c": "complex numbers", "V": "colours"}.get(dtype.kind, "no numbers")
        raise VoxelsUnsupported(
            f"the voxels are {kind}",
            where=str(path),
            why=f"their type is {dtype.name if dtype.names is None else ', '.join(dtype.names)}; "
            "the network takes one real number a voxel",
            next="save the magnitude, or one component, as a file of its own",
        )


def check_spacing(spacing: Sequence[float], path: Path) -> Spacing:
    """Raises VOL107 for an edge that is not a positive number."""
    first, second, third = (float(edge) for edge in spacing)
    if all(0 < edge < np.inf for edge in (first, second, third)):
        return first, second, third
    raise SpacingImpossible(
        "a voxel has no size",
        where=str(path),
        why=f"its edges are {by(spacing)} mm by the header",
        next="take them from the original scan: nibabel's image.header.set_zooms((x, y, z)), and the affine with it",
    )


def check_affine(affine: Array, spacing: Spacing, path: Path) -> None:
    """Raises VOL110 for an affine without an inverse, VOL108 for one whose voxels have other edges than ``spacing``."""
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if not np.isfinite(affine).all() or not edges.all() or abs(np.linalg.det(affine[:3, :3] / edges)) < _PARALLEL:
        raise AffineSingular(
            "the affine has no inverse",
            where=str(path),
            why=f"its rows are {', '.join(str([float(f'{value:.4g}') for value in row]) for row in affine[:3])}",
            next="restore the affine from the original scan",
        )
    if (abs(edges - spacing) > SPACING_TOLERANCE * np.asarray(spacing)).any():
        raise SpacingContradicted(
            "the header gives two sizes for a voxel",
            where=str(path),
            why=f"the spacing says {by(spacing)} mm, the affine {by(edges)} mm",
            next="find out which is right, and write both: nibabel.Nifti1Image(voxels, affine)",
        )
