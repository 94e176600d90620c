"""Labels and probabilities as NIfTI, in the header of the scan they belong to."""

from __future__ import annotations

import gzip
import struct
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any, BinaryIO

import numpy as np

from trtforge.volumes.nifti import Template
from trtforge.volumes.volume import Array, Volume

_CHUNK = 1 << 20  # voxels
_LABEL_INTENT = 1002  # NIFTI_INTENT_LABEL: voxels are indices into a set of labels
_COMMENT = 6  # extension code of plain text


def write_nifti(
    stream: BinaryIO, voxels: Array, like: Volume, *, compress: bool, classes: Sequence[str] | None = None
) -> None:
    """Write [I, J, K] or [I, J, K, C] on the grid of ``like``; as labels when ``classes`` is given, even if empty.

    The header is that of ``like`` bit for bit, extensions included, except for what describes voxel values: type,
    scaling, display range, intent. Names of classes become an extension of plain text. Equal input gives equal bytes.
    """
    template = like.template or _default_template(like)
    header = template.header.copy()
    pixdim = header["pixdim"].copy()
    header.set_data_shape(voxels.shape)
    header["pixdim"] = pixdim  # set_data_shape resets what lies behind the last axis
    header.set_data_dtype(voxels.dtype)
    header["scl_slope"], header["scl_inter"] = 1, 0
    header["cal_max"], header["cal_min"] = 0, 0
    header["intent_code"] = 0 if classes is None else _LABEL_INTENT
    for parameter in ("intent_p1", "intent_p2", "intent_p3"):
        header[parameter] = 0
    extensions = _with_comment(template.extensions, classes, header.endianness) if classes else template.extensions
    header["vox_offset"] = int(header["sizeof_hdr"]) + len(extensions)

    level = 6 if voxels.dtype == np.uint8 else 1  # floats take ten times as long for little
    packed = gzip.GzipFile("", "wb", compresslevel=level, fileobj=stream, mtime=0) if compress else nullcontext(stream)
    with packed as target:
        target.write(header.binaryblock + extensions)
        for values in _in_file_order(voxels):
            target.write(values.astype(header.get_data_dtype(), copy=False).tobytes(order="F"))


def _in_file_order(voxels: Array) -> Iterator[Array]:
    """Parts of a few planes, the last axis the slowest."""
    if voxels.ndim == 4:
        for component in range(voxels.shape[3]):
            yield from _in_file_order(voxels[..., component])
        return
    planes = max(1, _CHUNK // (voxels.shape[0] * voxels.shape[1]))
    for first in range(0, voxels.shape[2], planes):
        yield voxels[..., first : first + planes]


def _default_template(like: Volume) -> Template:
    """For a scan that was no NIfTI file: both forms of the affine, as scanner coordinates."""
    import nibabel

    large = max(like.shape) > np.iinfo(np.int16).max
    kind: Any = nibabel.Nifti2Header if large else nibabel.Nifti1Header
    header = kind()
    header.set_data_shape(like.shape)
    header.set_xyzt_units("mm")
    header.set_qform(like.affine, code="scanner")
    header.set_sform(like.affine, code="scanner")
    header["pixdim"][1:4] = like.spacing
    return Template(header, bytes(4))


def _with_comment(extensions: bytes, classes: Sequence[str], endianness: str) -> bytes:
    """The extensions and one more, which says what the labels mean."""
    end = 4
    if extensions[:1] != b"\0":
        while end + 8 <= len(extensions):
            (size,) = struct.unpack_from(endianness + "i", extensions, end)
            if size < 16 or size % 16 or end + size > len(extensions):
                break  # padding, or not an extension
            end += size
    text = legend(classes).encode()
    size = -(-(8 + len(text)) // 16) * 16
    comment = struct.pack(endianness + "ii", size, _COMMENT) + text.ljust(size - 8, b"\0")
    return b"\1\0\0\0" + extensions[4:end] + comment


def legend(classes: Sequence[str]) -> str:
    """`labels: 0 background, 1 kidney`."""
    return "labels: " + ", ".join(f"{label} {name}" for label, name in enumerate(classes))
