"""Arrays and volumes to network inputs: `.npy`, `.npz`, NIfTI. Shape and type are checked before data is read."""

from __future__ import annotations

import zipfile
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.errors.calibration import (
    SampleDtype,
    SampleInputs,
    SampleShape,
    SampleUnreadable,
    SampleUnsupported,
)
from trtforge.volumes.decode import DECODE_ERRORS
from trtforge.volumes.nifti import NiftiFile

if TYPE_CHECKING:
    from trtforge.recipe.models import InputSpec

Array = np.ndarray[Any, Any]

NIFTI = (".nii", ".nii.gz")
ARRAYS = (".npy", ".npz", *NIFTI)


def load_array(path: Path, where: str, name: str, spec: InputSpec) -> Array:
    """The array for input ``name``, as [1, *shape of the input without its batch axis], in the input's dtype.

    `.npz` archives are read by input name. Voxels of a NIfTI volume are taken in the file's axis order, with its
    scaling applied, and converted to the input's floating-point type. Nothing is ever unpickled.

    Raises: CAL105 unsupported kind, CAL106 undecodable, CAL108 shape, CAL109 type, CAL111 no such array.
    """
    lower = path.name.lower()
    try:
        if lower.endswith(".npy"):
            with path.open("rb") as stream:
                return _read_npy(stream, where, spec)
        if lower.endswith(".npz"):
            return _read_npz(path, where, name, spec)
        if lower.endswith(NIFTI):
            return _read_nifti(path, where, spec)
    except DECODE_ERRORS as error:
        raise _unreadable(path, where, error) from error
    raise SampleUnsupported(
        "this is no array",
        where=where,
        why=f"input `{name}` has `preprocess: {{kind: array}}`, which reads {', '.join(ARRAYS)}",
        next="convert the file, or give the input `preprocess: {kind: image, ...}`",
    )


def _read_npy(stream: Any, where: str, spec: InputSpec) -> Array:
    """Header first: a file that claims a petabyte, or holds objects, is refused before anything is allocated."""
    shape, dtype = _npy_header(stream)
    if dtype.hasobject:
        raise ValueError("the array holds Python objects, and unpickling them would run code from the file")
    _check_dtype(dtype, where, spec)
    full = _full_shape(shape, where, spec)
    stream.seek(0)
    array = np.lib.format.read_array(stream, allow_pickle=False)
    return np.ascontiguousarray(array, dtype=spec.dtype).reshape(full)


def _npy_header(stream: Any) -> tuple[tuple[int, ...], np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    if version == (1, 0):
        shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    elif version == (2, 0):
        shape, _, dtype = np.lib.format.read_array_header_2_0(stream)
    else:
        raise ValueError(f"npy format version {version} is for structured arrays")
    return shape, dtype


def _read_npz(path: Path, where: str, name: str, spec: InputSpec) -> Array:
    with zipfile.ZipFile(path) as archive:
        member = f"{name}.npy"
        if member not in archive.namelist():
            held = [entry.removesuffix(".npy") for entry in archive.namelist()]
            raise SampleInputs(
                f"the archive has no array `{name}`",
                where=where,
                why=f"it holds {', '.join(f'`{entry}`' for entry in held) or 'nothing'}",
                next="save it with the input names: np.savez(path, **{name: array, ...})",
            )
        with archive.open(member) as stream:
            return _read_npy(stream, f"{where}[{name}]", spec)


def _read_nifti(path: Path, where: str, spec: InputSpec) -> Array:
    from nibabel.spatialimages import HeaderDataError

    try:
        file = NiftiFile.open(path)
        full = _full_shape(file.shape, where, spec)
        if not spec.dtype.startswith("float"):
            _check_dtype(file.dtype, where, spec)
        values = np.empty(prod(full), spec.dtype)
        position = 0
        with np.errstate(all="ignore"):  # what becomes infinite is refused as such
            for chunk in file.chunks():
                values[position : position + len(chunk)] = chunk
                position += len(chunk)
    except HeaderDataError as error:
        raise _unreadable(path, where, error) from error
    return np.ascontiguousarray(values.reshape(file.shape, order="F")).reshape(full)


def _full_shape(shape: tuple[int, ...], where: str, spec: InputSpec) -> tuple[int, ...]:
    """[1, *rest of the input's shape], if ``shape`` is that up to leading axes of length 1."""
    wanted = (1, *spec.shape[1:])
    if _without_leading_ones(shape) == _without_leading_ones(wanted):
        return wanted
    raise SampleShape(
        "the array has another shape than the input",
        where=where,
        why=f"it is {list(shape)}, the input takes {list(spec.shape[1:])} for each sample",
        next="save one sample a file, in the layout of the input",
    )


def _without_leading_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    first = next((axis for axis, length in enumerate(shape) if length != 1), len(shape))
    return tuple(shape[first:])


def _check_dtype(dtype: np.dtype[Any], where: str, spec: InputSpec) -> None:
    if dtype.newbyteorder("=") != np.dtype(spec.dtype):
        raise SampleDtype(
            "the array has another type than the input",
            where=where,
            why=f"it is {dtype.name}, the input is {spec.dtype}",
            next=f"np.save(path, array.astype(np.{spec.dtype if spec.dtype != 'bool' else 'bool_'}))",
        )


def _unreadable(path: Path, where: str, error: Exception) -> SampleUnreadable:
    return SampleUnreadable(
        "the array cannot be read",
        where=where,
        why=f"{str(error).replace(str(path), path.name) or type(error).__name__} (file of {path.stat().st_size} bytes)",
        next="write the file again, or take it out of the set",
    )
