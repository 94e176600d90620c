"""Files that are either whole or absent: writes go to a temporary neighbour, are synced, then renamed."""

from __future__ import annotations

import errno
import glob
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO


@contextmanager
def atomic_open(path: Path) -> Iterator[BinaryIO]:
    """Open a binary file that appears at ``path`` only when the block ends without an error.

    What is no file, `/dev/stdout` or a pipe, is written to and never replaced: root would take it from everybody.
    Raises OSError, which names ``path`` where the system named no file: it does not for a write.
    """
    if path.parent in (Path("/dev"), Path("/dev/fd")) or not (path.is_file() or path.is_dir() or not path.exists()):
        with path.open("wb") as stream:
            yield stream
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.chmod(0o666 & ~_umask())  # mkstemp makes 0600; a result is an ordinary file
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def check_place(path: Path) -> None:
    """Could a file be written here? To be asked before long work; nothing is left behind. Raises OSError."""
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    folder = next(parent for parent in path.absolute().parents if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def without_temporary_name(path: str) -> str:
    """What a message calls a file: the temporary neighbour of `scales.json` is `scales.json`."""
    return re.sub(r"(^|/)\.([^/]+)\.[a-z0-9_]{8}\.tmp$", r"\1\2", path)


def remove_leftovers(path: Path) -> None:
    """Remove the temporary neighbours of ``path`` that killed processes left; only where nobody else writes it."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    with atomic_open(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Indented JSON with sorted keys and a closing newline; NaN is refused (ValueError)."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, allow_nan=False, ensure_ascii=False) + "\n")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
