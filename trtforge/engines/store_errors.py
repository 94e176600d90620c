"""What the operating system says about a store, told as errors that a person can act on."""

from __future__ import annotations

import difflib
import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import (
    EngineNotFound,
    StoreFull,
    StoreNotAFolder,
    StoreReadOnly,
    StoreUnreadable,
)
from trtforge.files import without_temporary_name
from trtforge.memory import human_bytes

_FULL = {errno.ENOSPC, errno.EDQUOT}
_READ_ONLY = {errno.EROFS, errno.EACCES, errno.EPERM}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR}


@contextmanager
def explained(root: Path, doing: str, *, needs: int = 0) -> Iterator[None]:
    """Turn an OSError of the block into ENG101..ENG104. ``doing`` completes "could not ..."; ``needs``: bytes."""
    try:
        yield
    except OSError as error:
        raise _translated(error, root, doing, needs) from error


def _translated(error: OSError, root: Path, doing: str, needs: int) -> TrtforgeError:
    where = without_temporary_name(str(error.filename or root))
    said = error.strerror or str(error)
    if error.errno in _FULL:
        return StoreFull(
            f"could not {doing}: the disk is full",
            where=where,
            why=f"{said}: {human_bytes(needs)} are needed, {human_bytes(_free(root))} are free" if needs else said,
            next="delete versions that are no longer served, or build with `--store PATH` on another disk",
        )
    if error.errno in _READ_ONLY and doing.startswith(("read", "look for", "list")):
        return StoreUnreadable(
            f"could not {doing}", where=where, why=said, next=f"make it readable for you: ls -l {where}"
        )
    if error.errno in _READ_ONLY:
        return StoreReadOnly(
            f"could not {doing}: the store cannot be written",
            where=where,
            why=said,
            next="build with `--store PATH` into a folder that you can write, or make this one writable",
        )
    if error.errno in _NOT_A_FOLDER:
        taken = _in_the_way(Path(where))
        return StoreNotAFolder(
            f"could not {doing}: {taken} is not a folder",
            where=where,
            why=said,
            next=f"move {taken} away, or name another store with `--store PATH`",
        )
    return StoreUnreadable(
        f"could not {doing}", where=where, why=said, next=f"check the file system that holds {root}, then run it again"
    )


def not_found(root: Path, wanted: str, present: Sequence[str]) -> EngineNotFound:
    """ENG106 with what is there and the nearest of it. ``present``: paths under ``root``, as `a100/resnet50/3`."""
    near = [str(root / name) for name in difflib.get_close_matches(wanted, present, n=3, cutoff=0.5)]
    shown = ", ".join(present[:12]) + (f" and {len(present) - 12} more" if len(present) > 12 else "")
    return EngineNotFound(
        f"no engine {wanted!r}",
        where=str(root),
        why=f"in {root} there {'is' if len(present) == 1 else 'are'}: {shown}"
        if present
        else f"no engine is in {root}",
        next=f"did you mean {' or '.join(near)}?" if near else "build one: `trtforge build RECIPE`",
    )


def _in_the_way(path: Path) -> Path:
    """The part of a path that exists and is no folder."""
    for part in (*reversed(path.parents), path):
        if part.exists() and not part.is_dir():
            return part
    return path


def _free(root: Path) -> int:
    while not root.exists() and root != root.parent:
        root = root.parent
    return shutil.disk_usage(root).free
