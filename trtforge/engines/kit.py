"""A kit: all that a device needs to finish a build, in one sealed tar archive.

Its first member, `kit.json`, names every other with size and digest, and says what is to be built for which target.
Archives of equal content are equal byte for byte: members are sorted, and times, owners and modes are fixed.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, BinaryIO, cast

from trtforge import __version__
from trtforge.digest import canonical_json, sha256_bytes, sha256_file
from trtforge.engines.manifest import FileRecord, seal
from trtforge.engines.records import Doc, RecordError, from_json, json_schema, to_json
from trtforge.errors.engine import KitDamaged, KitNotWritten, KitUnsafe
from trtforge.files import atomic_open

KIT = "kit.json"
SCHEMA_VERSION = 1
MAX_HEAD = 64 << 20
CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class KitInfo:
    """What a kit says about itself in its `kit.json`. ``members`` and ``seal`` are filled in by `write_kit`."""

    schema: Annotated[int, Doc("Version of this format", const=SCHEMA_VERSION)] = SCHEMA_VERSION
    trtforge: Annotated[str, Doc("Version of trtforge that wrote it")] = __version__
    engine: Annotated[str, Doc("Name of the engine to build")]
    target: Annotated[str, Doc("Target key of the recipe")]
    backend: Annotated[str, Doc("Compiler that finishes it")]
    key: Annotated[str, Doc("Cache key of the engine")]
    key_inputs: Annotated[Json, Doc("Every input that decides the engine's bytes, by name")]
    recipe: Annotated[Json, Doc("The engine's recipe after extends, variables and overrides")]
    facts: Annotated[Json, Doc("Model origin, target's data sheet, calibration receipt, ...")] = field(
        default_factory=dict
    )
    members: Annotated[Mapping[str, FileRecord], Doc("Every member but kit.json")] = field(default_factory=dict)
    seal: Annotated[str, Doc("Digest of every other field", pattern="^[0-9a-f]{64}$")] = ""

    def to_json(self) -> Json:
        return cast(Json, to_json(self))


def schema() -> Json:
    """The JSON Schema of `kit.json`."""
    return json_schema(KitInfo, id="urn:trtforge:kit:1", title="trtforge kit")


def write_kit(path: Path, files: Mapping[str, Path | bytes], info: KitInfo) -> KitInfo:
    """Write a kit; it is whole or absent.

    Args:
        files: member name (plain, `/` for folders) -> a file, streamed, or its content.
        info: what the kit says about itself; members and seal are filled in.

    Raises ENG133: no space, no permission, or a file changed while it was read. ValueError for a bad member name.
    """
    if bad := [name for name in files if name == KIT or not _NAME.fullmatch(name)]:
        raise ValueError(f"not a name for a kit's member: {bad[0]!r}")
    try:
        members = {name: _record(files[name]) for name in sorted(files)}
        value = json.loads(canonical_json(replace(info, members=members).to_json()))
        info = from_json(KitInfo, value | {"seal": seal(value)})
        head = (json.dumps(info.to_json(), indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()
        with atomic_open(path) as stream, tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as archive:
            archive.addfile(_entry(KIT, len(head)), io.BytesIO(head))
            for name, record in members.items():
                _add(archive, name, record, files[name])
    except OSError as error:
        raise KitNotWritten(
            f"the kit for {info.engine!r} could not be written",
            where=str(path),
            why=error.strerror or str(error),
            next="make room or choose another place with `--out PATH`",
        ) from error
    return info


def read_kit(path: Path, *, into: Path | None = None) -> KitInfo:
    """Check a whole kit, member by member, and unpack it if a place is given.

    Args:
        into: a folder that does not exist yet; it appears only when everything was found sound.

    Raises ENG131, ENG132, and ENG133 when ``into`` cannot be written.
    """
    if into is None:
        return _read(path, lambda name: None)
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
        try:
            info = _read(path, lambda name: _create(staging / name))
            staging.chmod(0o755)
            staging.rename(into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise KitNotWritten(
            "the kit could not be unpacked",
            where=str(into),
            why=error.strerror or str(error),
            next="make room, or choose a folder that does not exist yet",
        ) from error
    return info


def _read(path: Path, sink: Callable[[str], BinaryIO | None]) -> KitInfo:
    with _open(path) as stream, _told_as_damage(path):
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            info = _members(path, archive, sink)
            stream.seek(archive.offset)
        # Behind the end mark there is only padding, to a full record; anything else was appended by someone.
        rest = stream.read(2 * tarfile.RECORDSIZE)
        if rest.strip(b"\0") or len(rest) == 2 * tarfile.RECORDSIZE:
            raise _damaged(path, "there is something behind its end")
    return info


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise _damaged(path, error.strerror or str(error)) from error


def _members(path: Path, archive: tarfile.TarFile, sink: Callable[[str], BinaryIO | None]) -> KitInfo:
    entries = iter(archive)
    info = _head(path, archive, next(entries, None))
    seen: set[str] = set()
    for entry in entries:
        _check_safe(path, entry)
        record = info.members.get(entry.name)
        if record is None or entry.name in seen or entry.size != record.size:
            raise _damaged(path, f"the member {entry.name!r} is not one that {KIT} lists, or is there twice")
        seen.add(entry.name)
        _copy_member(path, archive, entry, record, sink(entry.name))
    if missing := sorted(info.members.keys() - seen):
        raise _damaged(path, f"the member {missing[0]!r} is missing")
    return info


def _head(path: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo | None) -> KitInfo:
    if entry is None or entry.name != KIT or not entry.isreg() or entry.size > MAX_HEAD:
        raise _damaged(path, f"its first member is not {KIT}")
    content = cast(BinaryIO, archive.extractfile(entry)).read()
    value = json.loads(content)
    if isinstance(value, dict) and value.get("schema") != SCHEMA_VERSION:
        raise _damaged(path, f"it has schema {value.get('schema')!r}; this trtforge reads schema {SCHEMA_VERSION}")
    info = from_json(KitInfo, value)
    if info.seal != seal(value):
        raise _damaged(path, f"{KIT} was changed: its seal is {info.seal[:12]}, the rest digests to {seal(value)[:12]}")
    return info


def _check_safe(path: Path, entry: tarfile.TarInfo) -> None:
    ordinary = entry.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not entry.issparse()
    if ordinary and _NAME.fullmatch(entry.name):
        return
    # A sparse member of a few bytes unpacks to as many zeros as its header claims.
    kind = "a path that leaves the kit" if ordinary else "not an ordinary file"
    raise KitUnsafe(
        "the kit is not safe to unpack",
        where=f"{path}: {entry.name!r}",
        why=f"the member is {kind}",
        next="do not use it; get the kit again from the machine that built it",
    )


def _copy_member(
    path: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo, record: FileRecord, sink: BinaryIO | None
) -> None:
    digest = hashlib.sha256()
    reader = cast(BinaryIO, archive.extractfile(entry))
    try:
        while chunk := reader.read(CHUNK):
            digest.update(chunk)
            if sink is not None:
                sink.write(chunk)
    finally:
        if sink is not None:
            sink.close()
    if digest.hexdigest() != record.sha256:
        raise _damaged(path, f"the member {entry.name!r} has another digest than {KIT} says")


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _record(source: Path | bytes) -> FileRecord:
    if isinstance(source, bytes):
        return FileRecord(sha256_bytes(source), len(source))
    return FileRecord(sha256_file(source), source.stat().st_size)


def _add(archive: tarfile.TarFile, name: str, record: FileRecord, source: Path | bytes) -> None:
    with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as stream:
        reader = _Hashing(stream)
        archive.addfile(_entry(name, record.size), cast(Any, reader))
    if reader.digest.hexdigest() != record.sha256:
        raise OSError(f"the file for {name!r} changed while it was read")


class _Hashing:
    """A reader that digests what passes through it."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.digest = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        chunk: bytes = self.stream.read(size)
        self.digest.update(chunk)
        return chunk


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)  # time 0, owner 0, mode 0644
    entry.size = size
    return entry


@contextmanager
def _told_as_damage(path: Path) -> Iterator[None]:
    try:
        yield
    except RecordError as error:
        raise _damaged(path, f"{KIT}: {error}") from error
    except (tarfile.TarError, EOFError, ValueError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _damaged(path: Path, why: str) -> KitDamaged:
    return KitDamaged(
        "the kit is damaged",
        where=str(path),
        why=why,
        next="copy it again (in binary mode), or write it again with `trtforge build RECIPE`",
    )
