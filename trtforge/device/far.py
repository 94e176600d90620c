"""The far side: what runs on the device for `trtforge build --on`, one short command after the other.

Each job has a folder in the device's cache, named by the digest of its kit:

    kit.part, kit.tar.zst     the kit on its way, and whole
    store/                    where it is published, until it has been brought back
    events.jsonl, log         progress, and what the process wrote besides
    end.json                  how it ended

The work itself runs in a process of its own session, which no lost connection ends, and holds a lock that says that it
is alive. Everything else may be cut off at any moment and asked again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Literal

from filelock import FileLock

from trtforge import __version__
from trtforge.backends import registry
from trtforge.cache import cache_dir
from trtforge.device.events import Recorder
from trtforge.device.link import GONE
from trtforge.digest import sha256_file
from trtforge.engines.machine import compute_capability
from trtforge.engines.manifest import MANIFEST
from trtforge.engines.store import EngineVersion, Store
from trtforge.errors.base import TrtforgeError
from trtforge.errors.device import DeviceFull
from trtforge.errors.engine import EngineNotFound, ManifestUnreadable
from trtforge.errors.environment import refusal
from trtforge.files import write_json
from trtforge.memory import human_bytes
from trtforge.pipeline.finish import finish, tools_here

CHUNK = 1 << 20
BEAT_S = 5.0
"""A follower says so often that it is there: writing is how it notices that nobody listens any more."""

ENTERED: tuple[Phase, ...] = ("running", "ended", "failed")
STARTS_WITHIN_S = 60.0
LOOKED_AT_S = 10.0
"""Whoever asks whether a job is running holds its lock for a moment."""

FORGOTTEN_S = 7 * 24 * 3600
LOG_TAIL = 20

Phase = Literal["new", "partial", "whole", "running", "ended", "failed", "died"]


class FarJob:
    """One job's folder. Raises ValueError for a name that is no digest: it comes from the other machine."""

    def __init__(self, name: str) -> None:
        if not re.fullmatch(r"[0-9a-f]{64}", name):
            raise ValueError(f"not the digest of a kit: {name!r}")
        self.name = name
        self.folder = jobs_folder() / name
        self.part, self.kit = self.folder / "kit.part", self.folder / "kit.tar.zst"
        self.lock = self.folder / ".work.lock"
        self.store = Store(self.folder / "store")
        self.events, self.log, self.end = (self.folder / file for file in ("events.jsonl", "log", "end.json"))

    def phase(self) -> Phase:
        if self.running():
            return "running"
        if self.end.exists():
            return "failed" if "error" in json.loads(self.end.read_bytes()) else "ended"
        if self.events.exists():
            return "died"
        return "whole" if self.kit.exists() else "partial" if self.part.exists() else "new"

    def running(self) -> bool:
        """Does a process hold the job's lock?

        Asked by a lock that any number may hold at once: those who ask do not take each other for the worker.
        """
        import fcntl

        try:
            asking = os.open(self.lock, os.O_RDONLY)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(asking, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(asking)
        return False

    def state(self, needs: int) -> dict[str, Any]:
        """How far the job is, and how many bytes of its kit are here. ``needs``: bytes it takes when it is new.

        Raises DeviceFull (DEV107).
        """
        phase = self.phase()
        have = self.part.stat().st_size if phase == "partial" else 0
        jobs_folder().mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(jobs_folder()).free
        if phase in ("new", "partial") and free < needs - have:
            raise DeviceFull(
                "too little disk is free on the device",
                where=str(jobs_folder()),
                why=f"{human_bytes(needs - have)} are needed: the kit, what it unpacks to, and the engine; "
                f"{human_bytes(free)} are free",
                next="free some there, or let TRTFORGE_CACHE name a folder on another disk of the device",
            )
        return {"phase": phase, "have": have}

    def receive(self, offset: int, total: int, data: BinaryIO) -> dict[str, Any]:
        """Take the kit from ``offset`` on, up to ``total`` bytes. A whole one that is not the right one is thrown away.

        What came of one whose connection was lost stays, and is continued. Its process may still be here, writing the
        same bytes to the same places, so it does no harm.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        self.part.touch()
        with self.part.open("r+b") as stream:
            stream.seek(offset)
            while chunk := data.read(CHUNK):
                stream.write(chunk)
                stream.flush()
            end = stream.tell()
            os.fsync(stream.fileno())
        if end < total:
            return {"whole": False}
        with FileLock(self.folder / ".start.lock"):
            if self.kit.exists():
                return {"whole": True}
            if sha256_file(self.part) != self.name:
                self.part.unlink()
                return {"whole": False}
            self.part.replace(self.kit)
            return {"whole": True}

    def start(self) -> dict[str, Any]:
        """Let the work begin, unless it is done or going on. Returns when its process is alive, or has ended.

        Does nothing where the kit is not here any more.
        """
        if not self.kit.exists():
            return {"phase": self.phase()}
        with FileLock(self.folder / ".start.lock"):
            if (phase := self.phase()) in ENTERED:
                return {"phase": phase}
            self.events.write_bytes(b"")
            with self.log.open("ab") as log:
                worker = subprocess.Popen(
                    [sys.executable, "-m", "trtforge", "far", "work", self.name],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # outlives the connection
                    cwd=self.folder,
                )
            limit = time.monotonic() + STARTS_WITHIN_S
            while (phase := self.phase()) not in ENTERED and time.monotonic() < limit:
                if worker.poll() is not None:
                    return {"phase": self.phase()}
                time.sleep(0.05)
            return {"phase": phase}

    def work(self) -> None:
        """Finish the kit. How it ends is in `end.json`, unless the process is killed."""
        with FileLock(self.lock, timeout=LOOKED_AT_S), Recorder(self.events) as recorder:
            try:
                outcome = finish(self.kit, store=self.store.root, trusted=_policy(), progress=recorder)
                ended: dict[str, Any] = {"engine": outcome.job.name, "version": outcome.version}
            except TrtforgeError as error:
                ended = {"error": error.to_json()}
            except OSError as error:
                if (refused := refusal(error)) is None:
                    raise
                ended = {"error": refused.to_json()}
            write_json(self.end, ended)

    def follow(self, offset: int) -> Iterator[dict[str, Any]]:
        """Events from a place in the file on, each with the place behind it; how it ended comes last."""
        beat = time.monotonic()
        if not self.events.exists():
            yield {"end": GONE}
            return
        with self.events.open("rb") as stream:
            stream.seek(offset)
            while True:
                running = self.running()  # asked first: what is written before the end is read after it
                for line in iter(stream.readline, b""):
                    if not line.endswith(b"\n"):
                        stream.seek(-len(line), os.SEEK_CUR)
                        break
                    yield {"event": json.loads(line), "at": stream.tell()}
                if not running:
                    break
                if time.monotonic() - beat > BEAT_S:
                    beat = time.monotonic()
                    yield {"beat": True}
                time.sleep(0.1)
        if self.end.exists():
            yield {"end": json.loads(self.end.read_bytes())}
            return
        if not self.events.exists():
            yield {"end": GONE}
            return
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        yield {"end": {"died": "\n".join(lines[-LOG_TAIL:])}}

    def result(self) -> EngineVersion | None:
        """The engine that was made; None when it is not here any more. Raises ENG106, ENG108, ENG109."""
        try:
            ended = json.loads(self.end.read_bytes())
            return self.store.get(ended["engine"], ended["version"])
        except (FileNotFoundError, EngineNotFound, ManifestUnreadable):
            if self.end.exists():
                raise
            return None

    def clean(self) -> dict[str, Any]:
        """Remove the job, unless it is going on."""
        phase = self.phase()
        if phase != "running":
            self.end.unlink(missing_ok=True)  # first, so that nobody takes the rest for an engine
            shutil.rmtree(self.folder, ignore_errors=True)
        return {"phase": phase}


def jobs_folder() -> Path:
    return cache_dir() / "device"


def hello(backend: Any) -> dict[str, Any]:
    """What this machine is to a backend, for whoever would have it finish a kit. Also removes what was forgotten."""
    _forget()
    found = registry.get(backend)
    there = found.availability()
    return {
        "trtforge": __version__,
        "availability": {
            "can_compile": there.can_compile,
            "can_run": there.can_run,
            "version": there.version,
            "why": there.why,
            "next": there.next,
        },
        "tools": tools_here(found.tool_versions()),
        "sm": compute_capability(),
    }


def files_of(version: EngineVersion) -> tuple[dict[str, Any], list[Path]]:
    """What is brought back, the manifest first: name -> size, and where it lies, in that order."""
    names = [MANIFEST, *sorted(version.manifest.files)]
    paths = [version.path / name for name in names]
    header = {
        "engine": version.engine,
        "version": version.version,
        "files": [{"name": path.name, "size": path.stat().st_size} for path in paths],
    }
    return header, paths


def _policy() -> Any:
    """The keys that this device wants kits to be signed by, when somebody set it so."""
    from trtforge.engines.signature import load_trusted

    path = os.environ.get("TRTFORGE_REQUIRE_SIGNATURE")
    return load_trusted(Path(path)) if path else None


def _forget() -> None:
    """Remove jobs that nobody came back for."""
    for folder in jobs_folder().glob("*"):
        if re.fullmatch(r"[0-9a-f]{64}", folder.name):
            with suppress(FileNotFoundError):  # another command may be at it
                if time.time() - folder.stat().st_mtime > FORGOTTEN_S:
                    FarJob(folder.name).clean()
