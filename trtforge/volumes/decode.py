"""What decoders raise on damaged files, in one place, so that a person is told about the file instead."""

from __future__ import annotations

import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from trtforge.errors.volume import VolumeUnreadable
from trtforge.errors.windows import NotEnoughMemory

DECODE_ERRORS = (  # what numpy, zipfile, gzip, nibabel and SimpleITK raise on damaged files, found by fuzzing
    OSError,
    ValueError,
    EOFError,
    KeyError,
    IndexError,
    TypeError,
    OverflowError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    SyntaxError,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


@contextmanager
def decoding(path: Path) -> Iterator[None]:
    """Whatever a decoder raises within becomes an error about the file. Raises VOL103; ENV103 without memory for it."""
    from nibabel.spatialimages import HeaderDataError

    try:
        with np.errstate(all="ignore"):  # absurd values are found by what comes of them
            yield
    except MemoryError as error:
        raise NotEnoughMemory(
            "the scan does not fit into memory",
            where=str(path),
            why=str(error) or "an array of its voxels was refused",
            next="free memory, or run it on a larger machine; if it is no large scan, its header is damaged",
        ) from error
    except (*DECODE_ERRORS, HeaderDataError) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        size = f" (file of {path.stat().st_size} bytes)" if path.is_file() else ""
        raise VolumeUnreadable(
            "the volume cannot be read",
            where=str(path),
            why=reason.replace(str(path), path.name) + size,
            next="fetch it again, or write it again"
            + (f"; gzip -t {path} says whether a copy is whole" if path.suffix.lower() == ".gz" else ""),
        ) from error
