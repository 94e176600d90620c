"""A kit: all that a device needs to finish a build, in one sealed tar archive, compressed by zstd.

Its first member, `kit.json`, names every other with size and digest, and says what is to be built for which target.
Behind it may come `kit.sig`, a signature over its seal. Archives of equal content are equal byte for byte (by one
version of zstd): members are sorted, and times, owners and modes are fixed.

Reading trusts nothing: `kit.json` decides how many bytes are looked at, a required signature is checked before any
other member, and each member is held to its digest before the folder it is unpacked to gets its name.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import re
import shutil
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, cast

from trtforge import __version__
from trtforge.digest import canonical_json, sha256_bytes, sha256_file
from trtforge.engines.key import engine_key
from trtforge.engines.kit_errors import KIT, WRITE_ONE, damaged, not_unpacked, told_as_damage
from trtforge.engines.manifest import FileRecord, seal
from trtforge.engines.records import Doc, RecordError, from_json, json_schema, parse, to_json
from trtforge.engines.signature import Signature
from trtforge.engines.store import ENGINE_NAME
from trtforge.errors.kit import KitNotOpened, KitNotWritten, KitOfAnotherVersion, KitUnsafe
from trtforge.files import atomic_open

if TYPE_CHECKING:
    from trtforge.engines.signature import Signer, Trusted
    from trtforge.engines.zstd import Reader

SIGNATURE = "kit.sig"
SUFFIX = ".kit.tar.zst"
SCHEMA_VERSION = 2
MAX_HEAD = 64 << 20
MAX_SIGNATURE = 4096
HEADER = 64 << 10  # of one member in tar: itself, a long name before it, padding, and what is read ahead
MAX_BYTES = 64 << 30
MAX_RATIO, ANY_RATIO_BELOW = 200, 1 << 30
"""Weights get at most some times smaller. Content of a GiB or more that claims to be 200 times its file is a bomb."""

CHUNK = 1 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*")

Json = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class KitInfo:
    """What a kit says about itself in its `kit.json`. ``members`` and ``seal`` are filled in by `write_kit`."""

    schema: Annotated[int, Doc("Version of this format", const=SCHEMA_VERSION)] = SCHEMA_VERSION
    trtforge: Annotated[str, Doc("Version of trtforge that wrote it")] = __version__
    recipe_name: Annotated[str, Doc("Name of the recipe's file without its ending; names the store by default")]
    engine: Annotated[str, Doc("Name of the engine to build")]
    target: Annotated[str, Doc("Target key of the recipe")]
    backend: Annotated[str, Doc("Compiler that finishes it")]
    key: Annotated[str, Doc("Digest of key_inputs: the cache key, but for the tools of the device")]
    key_inputs: Annotated[Json, Doc("Every input that decides the engine's bytes, by name")]
    recipe: Annotated[Json, Doc("The engine's recipe after extends, variables and overrides")]
    facts: Annotated[Json, Doc("Model origin, target's data sheet, calibration receipt, ...")] = field(
        default_factory=dict
    )
    members: Annotated[Mapping[str, FileRecord], Doc("Every member but kit.json and kit.sig")] = field(
        default_factory=dict
    )
    seal: Annotated[str, Doc("Digest of every other field", pattern="^[0-9a-f]{64}$")] = ""

    @property
    def size(self) -> int:
        """Bytes of all members, unpacked."""
        return sum(record.size for record in self.members.values())

    def to_json(self) -> Json:
        return cast(Json, to_json(self))


@dataclass(frozen=True)
class Kit:
    """A kit that was read and found sound. ``signature``: the one it carries; only `Trusted` says whose it is."""

    info: KitInfo
    signature: Signature | None


def schema() -> Json:
    """The JSON Schema of `kit.json`."""
    return json_schema(KitInfo, id="urn:trtforge:kit:2", title="trtforge kit")


def write_kit(path: Path, files: Mapping[str, Path | bytes], info: KitInfo, signer: Signer | None = None) -> KitInfo:
    """Write a kit; it is whole or absent.

    Args:
        files: member name (plain, `/` for folders) -> a file, streamed, or its content.
        info: what the kit says about itself; key, members and seal are filled in.
        signer: who signs it; nobody when None.

    Raises ENG133: no space, no permission, or a file changed while it was read. ValueError for a bad member name.
    """
    from trtforge.engines.zstd import writing

    if bad := [name for name in files if name in (KIT, SIGNATURE) or not _NAME.fullmatch(name)]:
        raise ValueError(f"not a name for a kit's member: {bad[0]!r}")
    try:
        members = {name: _record(files[name]) for name in sorted(files)}
        keyed = replace(info, members=members, key=engine_key(info.key_inputs))
        value = json.loads(canonical_json(keyed.to_json()))
        info = from_json(KitInfo, value | {"seal": seal(value)})
        first = {KIT: _text(info.to_json())}
        if signer is not None:
            first[SIGNATURE] = _text(to_json(signer.sign(info.seal)))
        with (
            atomic_open(path) as stream,
            writing(stream, info.size + len(first[KIT])) as packed,
            tarfile.open(fileobj=cast(Any, packed), mode="w", format=tarfile.PAX_FORMAT) as archive,
        ):
            for name, content in first.items():
                archive.addfile(_entry(name, len(content)), io.BytesIO(content))
            for name, record in members.items():
                _add(archive, name, record, files[name])
    except OSError as error:
        full = "make room, or " if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        file = path / f"{info.engine}{SUFFIX}" if path.is_dir() else "FILE"
        raise KitNotWritten(
            f"the kit for {info.engine!r} could not be written",
            where=str(path),
            why=error.strerror or str(error),
            next=f"{full}write it elsewhere: --out {file}",
        ) from error
    return info


def read_kit(path: Path, *, into: Path | None = None, trusted: Trusted | None = None) -> Kit:
    """Check a whole kit, member by member, and unpack it if a place is given.

    Args:
        into: a folder that does not exist yet; it appears only when everything was found sound.
        trusted: whose signature the kit must have; None: a signature is not looked at.

    Raises ENG131, ENG132, ENG134, ENG137, ENG138, and ENG133 when ``into`` cannot be written.
    """
    if into is None:
        return _read(path, lambda name: None, trusted)
    try:
        into.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{into.name}.", dir=into.parent))
        try:
            kit = _read(path, lambda name: _create(staging / name), trusted, room=shutil.disk_usage(staging).free)
            staging.chmod(0o755)
            staging.rename(into)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
    except OSError as error:
        raise not_unpacked(into, error.strerror or str(error)) from error
    return kit


def _read(path: Path, sink: Callable[[str], BinaryIO | None], trusted: Trusted | None, room: int | None = None) -> Kit:
    from trtforge.engines.zstd import MAGIC, Reader

    with _open(path) as stream, told_as_damage(path):
        if not (start := stream.read(len(MAGIC))).startswith(MAGIC):
            old = ": a kit of an older trtforge, or not a kit" if start else ""
            raise damaged(path, f"it is not compressed by zstd{old}")
        stream.seek(0)
        packed = Reader(stream)
        packed.allow(HEADER)
        with tarfile.open(fileobj=cast(Any, packed), mode="r|", bufsize=tarfile.RECORDSIZE) as archive:
            kit = _members(path, archive, packed, sink, trusted, room)
            packed.allow(3 * tarfile.RECORDSIZE)
            _check_end(path, cast(BinaryIO, archive.fileobj), packed)
    return kit


def _check_end(path: Path, unpacked: BinaryIO, packed: Reader) -> None:
    """Behind the end mark there is only padding, to a full record; anything else was appended by someone."""
    rest = unpacked.read(2 * tarfile.RECORDSIZE)
    if rest.strip(b"\0") or len(rest) == 2 * tarfile.RECORDSIZE or packed.rest():
        raise damaged(path, "there is something behind its end")


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        places = (path.glob(f"*{SUFFIX}"), path.glob(f"*/*{SUFFIX}"))
        inside = next((kit for place in places for kit in sorted(place) if kit.is_file()), None)
        raise KitNotOpened(
            "the kit cannot be opened",
            where=str(path),
            why=error.strerror or str(error),
            next=f"a kit is in it: {inside}" if inside else f"name a kit, NAME{SUFFIX}: {WRITE_ONE} writes it",
        ) from error


def _members(
    path: Path,
    archive: tarfile.TarFile,
    packed: Reader,
    sink: Callable[[str], BinaryIO | None],
    trusted: Trusted | None,
    room: int | None,
) -> Kit:
    def following() -> tarfile.TarInfo | None:
        packed.allow(HEADER)
        return archive.next()

    info = _head(path, archive, following(), packed)
    _check_size(path, info, room)
    entry, signature = following(), None
    if entry is not None and entry.name == SIGNATURE:
        signature = _signature(path, archive, entry)
        entry = following()
    if trusted is not None:
        trusted.check(signature, info.seal, kit=path)
    seen: set[str] = set()
    while entry is not None:
        _check_safe(path, entry)
        record = info.members.get(entry.name)
        if record is None or entry.name in seen or entry.size != record.size:
            raise damaged(path, f"the member {entry.name!r} is not one that {KIT} lists, or is there twice")
        seen.add(entry.name)
        packed.allow(entry.size + HEADER)
        _copy_member(path, archive, entry, record, sink(entry.name))
        entry = following()
    if missing := sorted(info.members.keys() - seen):
        raise damaged(path, f"the member {missing[0]!r} is missing")
    return Kit(info, signature)


def _head(path: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo | None, packed: Reader) -> KitInfo:
    if entry is None or entry.name != KIT or not entry.isreg() or entry.size > MAX_HEAD:
        raise damaged(path, f"its first member is not {KIT}")
    packed.allow(entry.size + HEADER)
    value = parse(cast(BinaryIO, archive.extractfile(entry)).read())
    version = value.get("schema") if isinstance(value, dict) else None
    if type(version) is int and version != SCHEMA_VERSION:
        raise KitOfAnotherVersion(
            "the kit was written by another trtforge",
            where=str(path),
            why=f"{KIT} has schema {version}; this trtforge, {__version__}, reads schema {SCHEMA_VERSION}",
            next=f"write it again with {WRITE_ONE} of {__version__}, or finish it with the trtforge that wrote it",
        )
    info = from_json(KitInfo, value)
    if info.seal != seal(value):
        raise damaged(path, f"{KIT} was changed: its seal is {info.seal[:12]}, the rest digests to {seal(value)[:12]}")
    if info.key != engine_key(info.key_inputs):
        raise damaged(path, f"{KIT} contradicts itself: its key is not that of its inputs")
    for what, name, fits in (
        ("an engine", info.engine, ENGINE_NAME.fullmatch(info.engine)),
        ("a recipe", info.recipe_name, _names_a_file(info.recipe_name)),
    ):
        if not fits:  # both become names of folders on the device
            raise damaged(path, f"{KIT}: {name!r} is no name of {what}")
    # With the least of characters for a slash, what is in a folder comes right behind it: names may be very long.
    ordered = sorted(name.replace("/", "\0") for name in info.members)
    inside = any(after.startswith(f"{before}\0") for before, after in pairwise(ordered))
    if inside or any(record.size < 0 for record in info.members.values()):
        raise damaged(path, f"{KIT}: a member has less than no bytes, or is the folder of another")
    return info


def _names_a_file(name: str) -> bool:
    """Whether a file may be called so, and a terminal may show it: recipes have names in every script."""
    return name.isprintable() and "/" not in name and name not in ("", ".", "..")


def _check_size(path: Path, info: KitInfo, room: int | None) -> None:
    """What the members claim to be is checked before any of them is looked at."""
    packed = path.stat().st_size
    if info.size > MAX_BYTES or info.size > max(ANY_RATIO_BELOW, MAX_RATIO * packed):
        raise KitUnsafe(
            "the kit is not safe to unpack",
            where=str(path),
            why=f"{packed:,} bytes claim to hold {info.size:,}",
            next="do not use it; get the kit again from the machine that built it",
        )
    if room is not None and info.size > room:
        raise not_unpacked(path, f"it unpacks to {info.size:,} bytes; {room:,} are free")


def _signature(path: Path, archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Signature:
    if not entry.isreg() or entry.size > MAX_SIGNATURE:
        raise damaged(path, f"{SIGNATURE} is no signature")
    try:
        return from_json(Signature, parse(cast(BinaryIO, archive.extractfile(entry)).read()))
    except RecordError as error:
        raise damaged(path, f"{SIGNATURE}: {error}") from error


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
        raise damaged(path, f"the member {entry.name!r} has another digest than {KIT} says")


def _create(path: Path) -> BinaryIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("xb")


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


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
