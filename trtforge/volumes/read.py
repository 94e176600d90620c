"""Scans and their true labels, from files."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np

from trtforge.errors.volume import (
    LabelsGrid,
    LabelsInvalid,
    LabelsShape,
    VolumeMissing,
    VolumeUnsupported,
    VoxelsNotFinite,
)
from trtforge.volumes.decode import decoding
from trtforge.volumes.nifti import open_nifti
from trtforge.volumes.scan import Scan
from trtforge.volumes.volume import GRID_TOLERANCE, Array, Volume, by, displacement, same_grid

NIFTI = (".nii", ".nii.gz")
ITK = (".nrrd", ".nhdr", ".mha", ".mhd")
DETACHED = (".nhdr", ".mhd")
"""Of these, the kinds that are a header only: the voxels are in another file."""
READABLE = (*NIFTI, *ITK)
"""Suffixes, in lower case; a folder is read as a DICOM series."""


def open_scan(path: Path) -> Scan:
    """The header of a scan, checked; its voxels are still to come. Raises: VOL101-105, VOL107-111, ENV101."""
    with decoding(path):
        return _opened(path)


def read_volume(path: Path) -> Volume:
    """The scan in a file, or in a folder of DICOM slices. Raises what ``open_scan`` and ``load`` raise."""
    return load(open_scan(path))


def load(scan: Scan) -> Volume:
    """The voxels of a scan. In memory at once: these, and some MiB; read by SimpleITK (all but NIfTI), twice.

    Raises: VOL103 damaged, VOL106 not finite, ENV103 they do not fit into memory.
    """
    with decoding(scan.path):
        voxels = np.empty(prod(scan.shape), scan.kept_dtype)
        position = 0
        for values in scan.chunks():
            block = voxels[position : position + len(values)]
            block[:] = values
            if block.dtype.kind == "f" and not np.isfinite(block).all():
                raise _not_finite(scan, position, values, block)
            position += len(values)
    return Volume(
        voxels=voxels.reshape(scan.shape, order="F"),
        affine=scan.affine,
        spacing=scan.spacing,
        path=scan.path,
        template=scan.template,
        warnings=scan.warnings,
    )


def read_labels(path: Path, like: Volume) -> Array:
    """The labels of ``like``, as uint8 [I, J, K] in its axis order; they may be stored as any real type.

    Raises: VOL101-105, VOL107-111 as ``read_volume`` does; VOL201-203, ENV101.
    """
    with decoding(path):
        scan = _opened(path)
        _check_grid(scan, like)
        labels = np.empty(prod(scan.shape), np.uint8)
        position = 0
        for values in scan.chunks():
            bad = (values < 0) | (values > 255)
            if values.dtype.kind == "f":
                bad |= values != np.rint(values)  # NaN too: it differs from itself
            if bad.any():
                raise _no_label(scan, position, values, bad)
            labels[position : position + len(values)] = values
            position += len(values)
    return labels.reshape(scan.shape, order="F")


def _opened(path: Path) -> Scan:
    lower = path.name.lower()
    if path.is_dir():
        from trtforge.volumes.itk import open_series

        return open_series(path)
    if not path.exists():
        raise VolumeMissing("there is no such file or folder", where=str(path), next=f"look for it: ls {path.parent}")
    if lower.endswith(NIFTI):
        return open_nifti(path)
    if lower.endswith(ITK):
        from trtforge.volumes.itk import open_file

        return open_file(path)
    slices = lower.endswith((".dcm", ".ima"))
    raise VolumeUnsupported(
        "this kind of file is not read as a volume",
        where=str(path),
        why=f"read are {', '.join(READABLE)} and folders with a DICOM series",
        next=f"name the folder: {path.parent}" if slices else "convert it to .nii.gz",
    )


def _check_grid(scan: Scan, like: Volume) -> None:
    if scan.shape != like.shape:
        raise LabelsShape(
            "the labels have another shape than the volume",
            where=str(scan.path),
            why=f"they are {by(scan.shape)}, the volume {like.path} is {by(like.shape)}",
            next="export the labels again, on the grid of the volume",
        )
    if not same_grid(like, scan):
        raise LabelsGrid(
            "the labels lie elsewhere than the volume",
            where=str(scan.path),
            why=f"a voxel of theirs is {displacement(scan, like):.3g} mm from the same one of {like.path}, whose "
            f"voxels are {by(like.spacing)} mm; {GRID_TOLERANCE:.0%} of a voxel are allowed",
            next="name the labels of this scan; if they are, copy its affine into their header",
        )


def _not_finite(scan: Scan, position: int, values: Array, block: Array) -> VoxelsNotFinite:
    first = int(np.argmin(np.isfinite(block)))
    return VoxelsNotFinite(
        f"the volume holds {values[first]:.6g}",
        where=str(scan.path),
        why=f"first at index {scan.index(position + first)} of {list(scan.shape)}",
        next="replace such voxels by a real value (air is -1024 in CT), or write the volume again",
    )


def _no_label(scan: Scan, position: int, values: Array, bad: Array) -> LabelsInvalid:
    first = int(np.argmax(bad))
    return LabelsInvalid(
        f"{values[first]:.6g} is no label",
        where=str(scan.path),
        why=f"first at index {scan.index(position + first)} of {list(scan.shape)}; labels are whole numbers "
        "from 0 to 255",
        next="resample labels by nearest neighbour, and give every region a class from 0 to 255",
    )
