"""From what a person types to an engine in a store."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from trtforge.engines.manifest import MANIFEST
from trtforge.engines.store import EngineVersion, Store, read_version
from trtforge.engines.store_errors import explained, not_found
from trtforge.errors.engine import EngineAmbiguous, EngineNotFound
from trtforge.kinds import ENGINE, kind_at, refuse_other

DEFAULT_STORES = Path("engines")
_VERSION = re.compile(r"[1-9][0-9]*")


def find_engine(reference: str | Path, *, store_root: Path = DEFAULT_STORES) -> EngineVersion:
    """The version that a reference means: its manifest is read, its files are not yet looked at.

    A reference is a path (to a version, an engine, a store with one engine, or a file of a version), or a name: the
    last parts of such a path (`resnet50`, `resnet50/3`, `a100/resnet50`, `a100/resnet50/3`), looked for in
    ``store_root`` and in the stores under it. Without a version the newest is meant.

    Raises ENG101, ENG102, ENG104, ENG106, ENG107, ENG108, ENG109, USE107.
    """
    path = Path(reference)
    with explained(path, f"look for the engine {str(reference)!r}"):
        if ".." in path.parts:
            path = path.resolve()  # an engine's name and version are read off its path
        if path.is_file():
            if kind_at(path.parent) is not ENGINE:
                _refuse_file(path)
            path = path.parent
        if (path / MANIFEST).exists():
            return read_version(path)
        if path.is_dir() and (engines := list(_engines_at(path))):
            return _only(engines, path, path).latest()
        if path.is_dir() and _VERSION.fullmatch(path.name):
            return read_version(path)  # which says that the manifest is missing
        return _by_name(path, store_root)


def _refuse_file(path: Path) -> None:
    """A file that is none of an engine's. Raises USE107, or ENG106 where nobody knows what it is."""
    refuse_other(path, ENGINE)
    raise EngineNotFound(
        f"{path.name} is no engine",
        where=str(path),
        why=f"it lies beside no {MANIFEST}; {ENGINE.about}",
        next="build one: `trtforge build RECIPE`",
    )


def _by_name(name: Path, store_root: Path) -> EngineVersion:
    has_version = len(name.parts) > 1 and _VERSION.fullmatch(name.name) is not None
    wanted = name.parent if has_version else name
    # A version that is missing from an engine whose path was given in full: say so about that engine.
    given = list(_engines_at(wanted)) if wanted.is_dir() else []
    named = [engine for engine in _engines_at(store_root) if engine.folder.parts[-len(wanted.parts) :] == wanted.parts]
    engine = _only(given or named, name, store_root)
    return engine.get(int(name.name)) if has_version else engine.latest()


class _Engine:
    """An engine in a store."""

    def __init__(self, store: Store, name: str) -> None:
        self.store, self.name, self.folder = store, name, store.root / name

    def latest(self) -> EngineVersion:
        return self.store.latest(self.name)

    def get(self, version: int) -> EngineVersion:
        return self.store.get(self.name, version)


def _engines_at(folder: Path) -> Iterator[_Engine]:
    """The engine that a folder is, or else the engines of the store it is, or of the stores that lie in it."""
    parent = Store(folder.parent if folder.name else folder.absolute().parent)
    if parent.versions(folder.absolute().name):
        yield _Engine(parent, folder.absolute().name)
        return
    for store in [folder, *sorted(path for path in folder.glob("[!.]*") if path.is_dir())]:
        for name in Store(store).engines():
            yield _Engine(Store(store), name)


def _only(engines: list[_Engine], wanted: Path, looked_in: Path) -> _Engine:
    if len(engines) == 1:
        return engines[0]
    if not engines:
        raise not_found(looked_in, str(wanted), _references(looked_in))
    choices = ", ".join(str(engine.folder) for engine in engines)
    raise EngineAmbiguous(
        f"{str(wanted)!r} could be any of {len(engines)} engines",
        where=str(looked_in),
        why=choices,
        next=f"name one, as in `{engines[0].folder}`",
    )


def _references(root: Path) -> list[str]:
    """Names that would be found, for a message."""
    return [
        f"{engine.folder.relative_to(root)}/{version}"
        for engine in _engines_at(root)
        for version in reversed(engine.store.versions(engine.name))
    ]
