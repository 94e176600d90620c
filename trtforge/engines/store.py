"""The engine store: a folder of engines, each a folder of numbered versions, which Triton serves as it is.

    <root>/<engine>/config.pbtxt
    <root>/<engine>/<version>/<files> + manifest.json
    <root>/.trtforge.json                     what must outlive deletions: the last version number of each engine

A version appears whole or not at all: it is staged in a hidden folder beside it, synced, and renamed. Triton takes
every folder in the root for a model, so what is hidden in the root is files only; in an engine's folder it ignores
folders whose name does not start with a digit. Locks belong to the operating system: a killed build holds none.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from trtforge.digest import sha256_bytes, sha256_file
from trtforge.engines import state as states
from trtforge.engines.config_pbtxt import CONFIG, render
from trtforge.engines.manifest import MANIFEST, FileRecord, Manifest, read_manifest
from trtforge.engines.store_errors import explained, not_found
from trtforge.errors.engine import ManifestChanged, ManifestUnreadable
from trtforge.files import write_json, write_text
from trtforge.progress import QUIET, Progress

STAGING = ".staging"
CHUNK = 1 << 20
_VERSION = re.compile(r"[1-9][0-9]{0,17}")
ENGINE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
"""As in recipes: a name from elsewhere must not leave the store."""


@dataclass(frozen=True)
class EngineVersion:
    """One published version. ``path`` is its folder."""

    path: Path
    manifest: Manifest

    @property
    def engine(self) -> str:
        return self.manifest.engine

    @property
    def version(self) -> int:
        return self.manifest.version

    @property
    def engine_file(self) -> Path:
        return self.path / self.manifest.engine_file


class Store:
    """Engines under one folder. Reading writes nothing, and the folder need not exist before something is built."""

    def __init__(self, root: Path) -> None:
        self.root = root

    # Reading

    def engines(self) -> list[str]:
        """Names of the engines with at least one version, sorted. Raises ENG101, ENG102, ENG104."""
        return [name for name in _folders(self.root) if not name.startswith(".") and self.versions(name)]

    def versions(self, engine: str) -> list[int]:
        """Version numbers present, ascending; a folder without a manifest is not a version."""
        return [number for number in self._numbers(engine) if (self._folder(engine, number) / MANIFEST).is_file()]

    def references(self) -> list[str]:
        """Every version as `engine/version`, newest first within an engine."""
        return [f"{engine}/{version}" for engine in self.engines() for version in reversed(self.versions(engine))]

    def get(self, engine: str, version: int) -> EngineVersion:
        """One version. Raises ENG106, ENG108, ENG109. Its files are not read: `load.open_engine` does that."""
        folder = self._folder(engine, version)
        if version not in self._numbers(engine) or not (folder / MANIFEST).is_file():
            raise not_found(self.root, f"{engine}/{version}", self.references())
        return read_version(folder)

    def latest(self, engine: str) -> EngineVersion:
        """The version with the highest number. Raises ENG106, ENG108, ENG109."""
        versions = self.versions(engine)
        if not versions:
            raise not_found(self.root, engine, self.engines())
        return self.get(engine, versions[-1])

    def find(self, engine: str, key: str) -> EngineVersion | None:
        """The newest version built from inputs with this key; None when there is none that is whole.

        Looks at manifests and file sizes, and at the digests of files written to since: cheap enough for a build that
        has nothing to do. A version whose manifest or files are damaged is not found, so that it is built again.
        """
        with explained(self.root, f"look for {engine!r} in the store"):
            if states.read(self.root, engine).config_due:
                return None  # a publish was killed before its last step; `build_lock` completes it
            needle = key.encode()
            for number in reversed(self.versions(engine)):
                if needle in (self._folder(engine, number) / MANIFEST).read_bytes():
                    version = self._sound(engine, number)
                    if version and version.manifest.key == key and _has_its_files(version):
                        return version
        return None

    # Writing

    @contextmanager
    def build_lock(self, engine: str, *, progress: Progress = QUIET) -> Iterator[None]:
        """Held while an engine is built, so that two builds of it do not do the work twice; waits, and says so.

        Look with :meth:`find` again inside: the other build may just have made it. Also completes what a killed
        publish left. Raises ENG101, ENG102, ENG103, ENG104 before any work is spent.
        """
        said = f"another process is building {engine!r} in {self.root}; waiting for it"
        with self._locked(f".build-{engine}.lock", f"prepare the store for {engine!r}", said, progress):
            with self._publishing(engine, progress):
                self._heal(engine)
            yield

    def publish(
        self, engine: str, files: Mapping[str, Path], manifest: Manifest, *, progress: Progress = QUIET
    ) -> EngineVersion:
        """Copy files into a new version, atomically, and point config.pbtxt at it.

        Args:
            files: name in the version folder -> file to copy; the first one is the engine itself.
            manifest: everything but what only a publish knows (see :class:`Manifest`).

        Version numbers only grow, also after the newest version was deleted. A config.pbtxt that a person edited is
        kept. Raises ENG101..ENG105; nothing was published then. ValueError for a name that no recipe can give.
        """
        if not ENGINE_NAME.fullmatch(engine):
            raise ValueError(f"not a name for an engine: {engine!r}")
        manifest = replace(manifest, engine=engine, engine_file=next(iter(files)))
        config = render(manifest)
        needs = sum(path.stat().st_size for path in files.values())
        with self._publishing(engine, progress, needs=needs):
            self._heal(engine)
            number = max([states.read(self.root, engine).last_version, *self._numbers(engine)]) + 1
            with self._staging(engine) as staging:
                _stage(staging / str(number), files, replace(manifest, version=number))
                self._reveal(engine, number, staging, config, progress)
            return self.get(engine, number)

    def _reveal(self, engine: str, number: int, staging: Path, config: str, progress: Progress) -> None:
        """Make a staged version visible and config.pbtxt that of the newest, in an order that a kill cannot spoil.

        The number is burnt first, so that it is never used again. With versions on show, config.pbtxt follows the
        rename and is announced as due before it; `_heal` completes it. With none, it goes first: it misleads nobody.
        """
        folder = self.root / engine
        state = states.read(self.root, engine)
        wanted, on_disk = sha256_bytes(config.encode()), _digest(folder / CONFIG)
        edited = on_disk is not None and on_disk != state.config
        due = not edited and on_disk != wanted
        state = replace(state, last_version=number, config_due=due)
        states.write(self.root, engine, state)
        if due:
            write_text(staging / CONFIG, config)  # claims its space before anything is visible
        first = due and not self.versions(engine)
        if first:
            (staging / CONFIG).replace(folder / CONFIG)
        (staging / str(number)).rename(self._folder(engine, number))
        if due and not first:
            (staging / CONFIG).replace(folder / CONFIG)
        _sync(folder)
        if due:
            states.write(self.root, engine, replace(state, config=wanted, config_due=False))
        elif edited and on_disk != wanted:
            progress.warn(f"{folder / CONFIG} was edited by hand and is kept; delete it to have it written anew")

    def _heal(self, engine: str) -> None:
        """Remove what a killed publish staged, and complete the config.pbtxt it had announced."""
        folder = self.root / engine
        if (folder / STAGING).exists():
            shutil.rmtree(folder / STAGING)
        state = states.read(self.root, engine)
        if not state.config_due:
            return
        sound = (self._sound(engine, number) for number in reversed(self.versions(engine)))
        newest = next((version for version in sound if version), None)
        if newest:
            write_text(folder / CONFIG, render(newest.manifest))
        states.write(self.root, engine, replace(state, config=_digest(folder / CONFIG), config_due=False))

    @contextmanager
    def _staging(self, engine: str) -> Iterator[Path]:
        """A folder on the store's own file system, gone afterwards; so is the engine's folder if it stays empty."""
        folder = self.root / engine
        staging = folder / STAGING
        staging.mkdir(parents=True)
        try:
            yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)
            if not any(folder.iterdir()):
                folder.rmdir()

    @contextmanager
    def _publishing(self, engine: str, progress: Progress, *, needs: int = 0) -> Iterator[None]:
        said = f"another process is publishing to {self.root}; waiting for it"
        with (
            explained(self.root, f"publish {engine!r}", needs=needs),
            self._locked(".publish.lock", f"publish {engine!r}", said, progress),
        ):
            yield

    @contextmanager
    def _locked(self, name: str, doing: str, said: str, progress: Progress) -> Iterator[None]:
        """Hold an operating-system lock: it is free again the moment its process ends, however it ends."""
        from filelock import FileLock, Timeout  # 40 ms that reading does without

        lock = FileLock(self.root / name)
        with explained(self.root, doing):
            self.root.mkdir(parents=True, exist_ok=True)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                progress.log(said)
                lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    # Layout

    def _folder(self, engine: str, number: int) -> Path:
        return self.root / engine / str(number)

    def _numbers(self, engine: str) -> list[int]:
        return sorted(int(name) for name in _folders(self.root / engine) if _VERSION.fullmatch(name))

    def _sound(self, engine: str, number: int) -> EngineVersion | None:
        """A version whose manifest is readable and unchanged, else None."""
        try:
            return read_version(self._folder(engine, number))
        except (ManifestUnreadable, ManifestChanged):
            return None


def read_version(folder: Path) -> EngineVersion:
    """The version in a folder `<store>/<engine>/<version>`. Raises ENG108, ENG109."""
    version = EngineVersion(folder, read_manifest(folder / MANIFEST))
    number, engine = folder.absolute().name, folder.absolute().parent.name
    lies_in, says = f"{engine}/{number}", f"{version.engine}/{version.version}"
    if lies_in != says:
        raise ManifestChanged(
            f"the folder {lies_in} holds the engine {says}",
            where=str(folder),
            why="an engine's name and version are those of its folders; the folder was renamed or copied by hand",
            next=f"rename it back to {says}, or run `trtforge build` again",
        )
    return version


def _stage(folder: Path, files: Mapping[str, Path], manifest: Manifest) -> None:
    folder.mkdir()
    records = {name: _copy(source, folder / name) for name, source in files.items()}
    created = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    write_json(folder / MANIFEST, replace(manifest, created=created, files=records).sealed().to_json())
    _sync(folder)


def _copy(source: Path, destination: Path) -> FileRecord:
    """Copy, sync, and digest what was written, in one pass."""
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reader, destination.open("xb") as writer:
        while chunk := reader.read(CHUNK):
            writer.write(chunk)
            digest.update(chunk)
            size += len(chunk)
        writer.flush()
        os.fsync(writer.fileno())
    return FileRecord(digest.hexdigest(), size)


def _has_its_files(version: EngineVersion) -> bool:
    """Every file has its size, and one written to after the manifest, which is written last, its digest too."""
    published = (version.path / MANIFEST).stat().st_mtime_ns
    return all(_is_whole(version.path / name, record, published) for name, record in version.manifest.files.items())


def _is_whole(path: Path, record: FileRecord, published: int) -> bool:
    try:
        stat = path.stat()
        return stat.st_size == record.size and (stat.st_mtime_ns <= published or sha256_file(path) == record.sha256)
    except OSError:
        return False


def _digest(path: Path) -> str | None:
    return sha256_bytes(path.read_bytes()) if path.exists() else None


def _folders(root: Path) -> list[str]:
    """Names of the folders in a folder, sorted; none when it does not exist. Raises ENG101, ENG102, ENG104."""
    with explained(root, f"list {root}"):
        try:
            with os.scandir(root) as entries:
                return sorted(entry.name for entry in entries if entry.is_dir())
        except FileNotFoundError:
            return []


def _sync(folder: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
