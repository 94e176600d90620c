"""A folder for the files of one build, which does not outlive it, however it ends."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from trtforge.cache import cache_dir

OWNER = ".owner"
"""Locked by the build whose folder it is; the operating system unlocks it when that process ends."""


@contextmanager
def workdir() -> Iterator[Path]:
    """An empty folder beside the cache (a plan can be larger than /tmp). Also removes what killed builds left."""
    root = cache_dir() / "work"
    root.mkdir(parents=True, exist_ok=True)
    with FileLock(root / ".lock"):
        _remove_abandoned(root)
        folder = Path(tempfile.mkdtemp(prefix="build-", dir=root))
        owner = FileLock(folder / OWNER)
        owner.acquire()
    try:
        yield folder
    finally:
        owner.release()
        shutil.rmtree(folder, ignore_errors=True)


def _remove_abandoned(root: Path) -> None:
    for folder in root.glob("build-*"):
        owner = FileLock(folder / OWNER)
        try:
            owner.acquire(timeout=0)
        except (Timeout, FileNotFoundError):
            continue  # its build is running, or removes it at this moment
        try:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            owner.release()
