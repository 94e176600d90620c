"""The kernel times that the lock pins for engines of native TensorRT: which file they are, and what a build used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.backends.tensorrt_.backend import TIMING_FILE, timing_folder
from trtforge.digest import sha256_file
from trtforge.errors.engine import LockMissing, ManifestChanged, ManifestUnreadable, TimingCacheGone

if TYPE_CHECKING:
    from trtforge.engines.lock import Pins
    from trtforge.pipeline.job import Job


def pinned(job: Job, locked: Pins, lock: Path, *, compiles: bool) -> Path | None:
    """The file of the digest that the lock has, whole; None for an engine that no times decide.

    ``compiles``: the engine is compiled now. A kit that a device finishes by hand has the pinned times where there are
    some; the lock never learns what the device measured else.

    Raises LockMissing (ENG121), TimingCacheGone (ENG124).
    """
    if job.backend.name != "tensorrt" or not job.engine.builder.timing_cache:
        return None
    digest = locked.timing
    if digest is None and not compiles:
        return None
    if digest is None:
        raise LockMissing(
            f"no timing cache is locked for {job.name!r}",
            where=str(lock),
            why="TensorRT would measure kernels, and what it finds decides the engine",
            next=f"build once without --locked, then commit {lock.name}; or write `builder: {{timing_cache: false}}`",
        )
    folder, store = timing_folder(), job.store.root / job.name
    for path in _candidates(job):
        if path.is_file() and sha256_file(path) == digest:
            return path
    raise TimingCacheGone(
        f"the timing cache that is locked for {job.name!r} is not on this machine",
        where=str(lock),
        why=f"no {TIMING_FILE} in {store} and no *.cache in {folder} has the digest {digest}",
        next=f"copy the engine's {TIMING_FILE} from where it was built into {folder}; "
        "or build without --locked, to measure and pin anew",
    )


def _candidates(job: Job) -> Iterator[Path]:
    """Beside the engine's versions, newest first, then what this machine has measured or was brought."""
    for version in reversed(job.store.versions(job.name)):
        try:
            yield job.store.get(job.name, version).path / TIMING_FILE
        except (ManifestChanged, ManifestUnreadable):
            continue
    yield from sorted(timing_folder().glob("*.cache"))
