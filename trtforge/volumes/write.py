"""Labels and probabilities, onto the grid of the scan they were made from; files are whole or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trtforge.errors.environment import refusal
from trtforge.errors.volume import OutputUnsupported
from trtforge.files import atomic_open, check_place
from trtforge.volumes.nifti_write import write_nifti
from trtforge.volumes.volume import Array, Volume

ITK = (".nrrd", ".mha")
WRITABLE = (".nii", ".nii.gz", *ITK)
"""Suffixes, in lower case."""


def write_labels(path: Path, labels: Array, like: Volume, *, classes: Sequence[str] = ()) -> None:
    """Write uint8 [I, J, K] on the grid of ``like``; the header is its header, `.nii` or `.nii.gz` even to the bit.

    ``classes``: what labels 0, 1, ... are called; goes into the header. Equal labels give equal bytes.

    Raises as ``check_writable`` does; OSError; ValueError for another shape or type.
    """
    if labels.shape != like.shape or labels.dtype != np.uint8:
        raise ValueError(f"labels are {labels.dtype} {labels.shape}, the volume takes uint8 {like.shape}")
    _write(path, labels, like, tuple(classes))


def write_probabilities(path: Path, probabilities: Array, like: Volume) -> None:
    """Write float32 [C, I, J, K] on the grid of ``like``, as a 4-D NIfTI file with the class last.

    In `.nrrd` and `.mha` a voxel has C components. Raises as ``write_labels`` does.
    """
    if probabilities.shape[1:] != like.shape or probabilities.dtype != np.float32:
        raise ValueError(f"probabilities are {probabilities.dtype} {probabilities.shape}, the volume is {like.shape}")
    _write(path, np.moveaxis(probabilities, 0, -1), like, None)


def check_writable(path: Path) -> None:
    """Would a result of this name be written? To be asked before work begins; nothing is left behind.

    Raises: VOL301 suffix, ENV101 no SimpleITK, ENV102 the system refuses.
    """
    lower = path.name.lower()
    if not lower.endswith(WRITABLE):
        raise OutputUnsupported(
            f"`{path.name}` is of a kind that is not written",
            where=str(path),
            why=f"written are {', '.join(WRITABLE)}",
            next=f"name it {path.name.partition('.')[0] or 'labels'}.nii.gz",
        )
    if lower.endswith(ITK):
        from trtforge.volumes.itk import import_itk

        import_itk(path)
    try:
        check_place(path)
    except OSError as error:
        raise refusal(error) or error from error


def _write(path: Path, voxels: Array, like: Volume, classes: tuple[str, ...] | None) -> None:
    check_writable(path)
    lower = path.name.lower()
    with atomic_open(path) as stream:
        if lower.endswith(ITK):
            from trtforge.volumes.itk import write_itk

            write_itk(stream, path, voxels, like, classes=classes)
        else:
            write_nifti(stream, voxels, like, compress=lower.endswith(".gz"), classes=classes)
