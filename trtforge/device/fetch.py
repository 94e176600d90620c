"""A finished engine on its way back: nothing that the device says of it is taken on trust."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from trtforge.device.link import GONE, Link
from trtforge.engines.load import check_files, check_header
from trtforge.engines.manifest import MANIFEST
from trtforge.engines.store import EngineVersion, read_version
from trtforge.errors.device import NotUnderstood
from trtforge.errors.engine import EngineFileChanged, EngineFileMissing, ManifestChanged, ManifestUnreadable
from trtforge.errors.environment import FileRefused
from trtforge.files import atomic_open
from trtforge.memory import human_bytes
from trtforge.pipeline.job import Job
from trtforge.progress import Progress

MAX_BYTES = 64 << 30
"""Of all files of an engine: as much as a kit may hold."""

DAMAGED = (NotUnderstood, ManifestUnreadable, ManifestChanged, EngineFileMissing, EngineFileChanged)
"""What is raised for an engine that changed on its way; another try may bring it whole."""


class Gone(Exception):
    """The job is not on the device any more: whoever brought its engine home removed it."""


_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # as manifests have them: nothing that leads elsewhere


def fetch(name: str, job: Job, link: Link, folder: Path, progress: Progress) -> EngineVersion:
    """Bring the engine here, into a folder like a store's.

    Raises DEV108, DEV110, ENG108, ENG109, ENV102, OSError, Gone.
    """
    shutil.rmtree(folder / "fetched", ignore_errors=True)
    with link.content("fetch", name) as (header, stream):
        if header == GONE:
            raise Gone
        number, files = _announced(header, job, link)
        _check_room(sum(files.values()), folder)
        place = folder / "fetched" / job.name / str(number)
        total = sum(files.values()) >> 20
        progress.log(f"{link.name}: copying the engine here, {human_bytes(sum(files.values()))}")
        with progress.task(f"copying the engine from {link.name} (MiB)", total) as task:
            for file, size in files.items():
                with atomic_open(place / file) as target:
                    for count in _copy(stream, target, size):
                        task.advance(count >> 20)
    return read_version(place)


def check(version: EngineVersion, job: Job, link: Link) -> None:
    """The engine is whole, and made of what was sent. Raises DEV110, ENG110, ENG111, ENG113, ENG2xx."""
    check_files(version)
    check_header(version)
    if version.manifest.key != job.key:
        raise odd(link, "its engine was made of something else than this recipe, or by other tools than it said")


def odd(link: Link, why: str) -> NotUnderstood:
    """What came from the device cannot be. The error to raise (DEV110)."""
    return NotUnderstood(
        "the device gave an answer that is none of trtforge",
        where=f"{link.name}: {link.address.program}",
        why=why,
        next="run the command again; if it stays, finish the kit by hand: trtforge finish KIT",
    )


def _announced(header: Any, job: Job, link: Link) -> tuple[int, dict[str, int]]:
    """The number of the version, and its files with their sizes, the manifest first. Raises DEV110."""
    try:
        engine, number = header["engine"], header["version"]
        files = [(file["name"], file["size"]) for file in header["files"]]
    except (KeyError, TypeError) as error:
        raise odd(link, f"what it sends has a header without {error}") from error
    if engine != job.name or not _is_count(number) or not files or files[0][0] != MANIFEST:
        raise odd(link, "what it sends is not the engine that was asked for")
    names = [name for name, _ in files]
    if bad := [name for name in names if not isinstance(name, str) or not _NAME.fullmatch(name)]:
        raise odd(link, f"it sends a file with the name {bad[0]!r}, which no engine has")
    if len(set(names)) < len(names) or not all(_is_count(size) for _, size in files):
        raise odd(link, "it sends a file twice, or one with a size that none can have")
    if (total := sum(size for _, size in files)) > MAX_BYTES:
        raise odd(link, f"it would send {human_bytes(total)}; no engine is larger than {human_bytes(MAX_BYTES)}")
    return number, dict(files)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _check_room(size: int, folder: Path) -> None:
    """Raises FileRefused (ENV102)."""
    if size <= (free := shutil.disk_usage(folder).free):
        return
    raise FileRefused(
        "there is too little room for the engine on this machine",
        where=str(folder),
        why=f"{human_bytes(size)} come from the device; {human_bytes(free)} are free",
        next="free some space, or let TRTFORGE_CACHE name a folder on another disk; the engine waits on the device",
    )


def _copy(stream: IO[bytes], target: Any, size: int) -> Iterator[int]:
    """Copy exactly so many bytes. Raises EOFError when there are fewer."""
    while size:
        chunk = stream.read(min(size, 1 << 20))
        if not chunk:
            raise EOFError
        target.write(chunk)
        size -= len(chunk)
        yield len(chunk)
