"""A scan in memory: its voxels as the file orders them, and where they lie in the patient."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:
    from trtforge.volumes.nifti import Template

Array = np.ndarray[Any, Any]
Shape = tuple[int, int, int]
Spacing = tuple[float, float, float]

GRID_TOLERANCE = 0.05
"""Of a voxel's shortest edge: how far a voxel of one grid may lie from its counterpart in an equal one."""


class Gridded(Protocol):
    """Something with voxels: how many along each axis, and the affine from their indices to RAS millimetres."""

    @property
    def shape(self) -> Shape: ...

    @property
    def affine(self) -> Array: ...


@dataclass(frozen=True, eq=False)
class Volume:
    """One scan.

    Attributes:
        voxels: [I, J, K] in the axis order of the file, its scaling applied. Integers of 8 and 16 bits stay what they
            are; everything else is float32. All are finite. The first axis is the fastest in memory.
        affine: float64 [4, 4], voxel indices to millimetres in RAS: towards right, anterior, superior.
        spacing: edges of a voxel in mm, an axis each, as the header has them.
        path: the file, or the folder of a DICOM series.
        template: for NIfTI, the header that results are written with.
        warnings: what the header leaves open and how it was taken, a sentence each.
    """

    voxels: Array
    affine: Array
    spacing: Spacing
    path: Path
    template: Template | None = None
    warnings: tuple[str, ...] = ()

    @property
    def shape(self) -> Shape:
        first, second, third = self.voxels.shape
        return first, second, third

    @property
    def name(self) -> str:
        """The file's name without its format: `imaging` for `case_00000/imaging.nii.gz`."""
        return stem(self.path)


def stem(path: Path) -> str:
    if path.is_dir():
        return path.resolve().name
    name = path.name[:-3] if path.name.lower().endswith(".gz") else path.name
    return Path(name).stem


def by(lengths: Iterable[float]) -> str:
    """Lengths along the axes, for a message: `5 x 0.8 x 0.8`."""
    return " x ".join(str(length) if isinstance(length, int) else f"{length:.4g}" for length in lengths)


def displacement(a: Gridded, b: Gridded) -> float:
    """The greatest distance in mm between voxels of equal index; for grids of one shape."""
    difference = a.affine - b.affine
    corners = product(*((0, length - 1) for length in a.shape))  # linear in the index: greatest at a corner
    return float(max(np.linalg.norm(difference[:3] @ (*corner, 1)) for corner in corners))


def same_grid(a: Gridded, b: Gridded) -> bool:
    """Equal shapes, and every voxel within ``GRID_TOLERANCE`` of its counterpart."""
    shortest = float(np.linalg.norm(a.affine[:3, :3], axis=0).min())
    return a.shape == b.shape and displacement(a, b) <= GRID_TOLERANCE * shortest
