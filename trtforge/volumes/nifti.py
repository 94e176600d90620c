"""NIfTI-1 and NIfTI-2 in one file, plain or gzipped: what its header says, and its voxels piece by piece.

Voxels are read here rather than through nibabel's proxies for two reasons: a damaged `.gz` is found by its checksum,
which only who reads to the end gets to see, and a float64 file never lies in memory as float64.
"""

from __future__ import annotations

import gzip
import logging
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np

from trtforge.errors.volume import UnitUnsupported
from trtforge.volumes.scan import Scan, check_affine, check_dtype, check_shape, check_spacing
from trtforge.volumes.volume import Array, Shape, by

_CHUNK = 1 << 20  # voxels

_ANGLE, _SHIFT = 1.0, 0.5  # degrees, voxels: between sform and qform, no more than tools make of each other's

_UNITS = {0: "unknown", 1: "metre", 2: "mm", 3: "micrometre"}


@dataclass(frozen=True, eq=False)
class Template:
    """What a file holds before its voxels, as stored: the header, and the bytes of its extensions.

    ``extensions`` begins with the four bytes that say whether there are any.
    """

    header: Any
    extensions: bytes


@dataclass(frozen=True, eq=False)
class NiftiFile:
    """A file of which everything before the voxels was read. ``header`` is nibabel's, small faults put right.

    To be made and used within ``decoding`` or the like: everything may raise ValueError, EOFError, OSError, zlib.error
    or nibabel's errors on a damaged file.
    """

    path: Path
    template: Template
    header: Any
    voxels_at: int

    @classmethod
    def open(cls, path: Path) -> NiftiFile:
        with _opened(path) as stream:
            stored = _stored_header(stream.read(540))
            size = int(stored["sizeof_hdr"])
            start = max(int(stored["vox_offset"]), size + 4)
            stream.seek(size)
            extensions = stream.read(start - size)
        if len(extensions) < start - size:
            raise EOFError(f"it ends before its voxels, which begin at byte {start}")
        header = stored.copy()
        header.check_fix(logging.Logger("quiet", logging.CRITICAL + 1), error_level=40)
        opened = cls(path, Template(stored, extensions), header, start)
        opened._check_size()
        return opened

    def _check_size(self) -> None:
        """A file that is not packed must have the voxels it claims, before memory is taken for them."""
        stored, count = self.header.get_data_dtype(), prod(self.shape)
        there = (self.path.stat().st_size - self.voxels_at) // max(stored.itemsize, 1)
        if there < count and not _packed(self.path):
            raise EOFError(f"it ends after {max(there, 0)} of {count} voxels")

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(int(length) for length in self.header.get_data_shape())

    @property
    def scaling(self) -> tuple[float, float] | None:
        """Slope and intercept, where they change anything."""
        slope, inter = self.header.get_slope_inter()
        return None if slope in (None, 1.0) and inter in (None, 0.0) else (slope, inter)

    @property
    def dtype(self) -> np.dtype[Any]:
        """The type of the values: as stored, byte order included, or float64 when they are scaled."""
        stored: np.dtype[Any] = self.header.get_data_dtype()
        return stored if self.scaling is None else np.dtype(np.float64)

    def chunks(self) -> Iterator[Array]:
        """The values in the order of the file, first axis fastest, as 1-D arrays of some MiB."""
        stored, scaling, count = self.header.get_data_dtype(), self.scaling, prod(self.shape)
        with _opened(self.path) as stream:
            stream.seek(self.voxels_at)
            for start in range(0, count, _CHUNK):
                wanted = min(_CHUNK, count - start)
                data = stream.read(wanted * stored.itemsize)
                if len(data) < wanted * stored.itemsize:
                    raise EOFError(f"it ends after {start + len(data) // stored.itemsize} of {count} voxels")
                values = np.frombuffer(data, stored)
                yield values if scaling is None else values.astype(np.float64) * scaling[0] + scaling[1]
            while isinstance(stream, gzip.GzipFile) and stream.read(1 << 20):  # the checksum comes last
                pass


def open_nifti(path: Path) -> Scan:
    """A scan, its header checked; within ``decoding``. Raises: VOL104, VOL105, VOL107-110."""
    file = NiftiFile.open(path)
    shape = check_shape(file.shape, path)
    check_dtype(file.header.get_data_dtype(), path)
    spacing = check_spacing(file.template.header["pixdim"][1:4], path)  # nibabel would mend it
    affine = np.asarray(file.header.get_best_affine(), dtype=np.float64)
    check_affine(affine, spacing, path)
    return Scan(
        path=path,
        shape=shape,
        dtype=file.dtype,
        affine=affine,
        spacing=spacing,
        chunks=file.chunks,
        template=file.template,
        warnings=(*_unit_warning(file.header, path), *_orientation_warning(file.header, shape)),
    )


def _opened(path: Path) -> BinaryIO:
    """The contents decide whether it is gzipped: a `.nii` that is, or a `.nii.gz` that is not, is read all the same."""
    return cast(BinaryIO, gzip.open(path)) if _packed(path) else path.open("rb")


def _packed(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == b"\x1f\x8b"


def _stored_header(data: bytes) -> Any:
    import nibabel

    kinds: dict[int, Any] = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}
    for size, kind in kinds.items():
        for endianness in "<>":
            if data[:4] == struct.pack(endianness + "i", size) and len(data) >= size:
                header = kind(data[:size], endianness, check=False)
                if header["magic"].item().startswith((b"n+1", b"n+2")):
                    return header
                raise ValueError("it is no NIfTI in one file: the header lacks its mark n+1 or n+2")
    raise ValueError("it does not begin with a header of NIfTI-1 or NIfTI-2")


def _unit_warning(header: Any, path: Path) -> list[str]:
    """Raises VOL109."""
    unit = int(header["xyzt_units"]) & 0b111
    if _UNITS.get(unit) == "mm":
        return []
    if _UNITS.get(unit) == "unknown":
        return ["the header names no unit of length; it was taken as mm"]
    raise UnitUnsupported(
        "the header does not measure in millimetres",
        where=str(path),
        why=f"xyzt_units says {_UNITS.get(unit, f'{unit}, which is no unit')}; the spacing is "
        f"{by(header['pixdim'][1:4])}",
        next="if those numbers are mm, set the unit: image.header.set_xyzt_units('mm') in nibabel; "
        "else scale spacing and affine too",
    )


def _orientation_warning(header: Any, shape: Shape) -> list[str]:
    stated = int(header["sform_code"]) > 0, int(header["qform_code"]) > 0
    if all(stated):
        return _disagreement(header, shape)
    if any(stated):
        return []
    return ["the header states no orientation (sform_code and qform_code are 0); axes were taken to run to L, A, S"]


def _disagreement(header: Any, shape: Shape) -> list[str]:
    """Both forms of the affine are stated, and put the scan in two places: said, for other tools may take the other."""
    from nibabel.spatialimages import HeaderDataError

    used = "labels and directions go by the sform"
    sform = np.asarray(header.get_sform(), np.float64)
    try:
        qform = np.asarray(header.get_qform(), np.float64)
    except (ValueError, HeaderDataError):  # its quaternion is no rotation
        return [f"the header's qform cannot be read; {used}"]
    edges = np.linalg.norm(sform[:3, :3], axis=0)
    cosines = (sform[:3, :3] * qform[:3, :3]).sum(axis=0) / (edges * np.linalg.norm(qform[:3, :3], axis=0))
    angle = float(np.degrees(np.arccos(np.clip(cosines, -1, 1))).max())
    middle = [(length - 1) / 2 for length in shape]
    shift = float(np.linalg.norm((sform - qform)[:3] @ (*middle, 1)))
    if angle <= _ANGLE and shift <= _SHIFT * edges.min():
        return []
    return [f"sform and qform disagree, by {angle:.3g} degrees and {shift:.3g} mm at the middle of the scan; {used}"]
