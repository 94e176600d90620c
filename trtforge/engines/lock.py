"""`trtforge.lock`: what each engine of the recipes beside it was last built from, to be committed and held to.

One section per recipe file and engine. JSON with sorted keys, a pin a line, so that a change reads well in a diff.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtforge.digest import digest_json
from trtforge.engines.records import RecordError, from_json, parse, to_json
from trtforge.errors.engine import LockDrift, LockMissing, LockUnreadable
from trtforge.files import write_json

LOCK = "trtforge.lock"
SCHEMA_VERSION = 1
_TIMING = "timing cache of "


@dataclass(frozen=True)
class Pins:
    """Inputs by name (a digest or a name; None: the build has no such input), and tools by name (a version).

    Native TensorRT adds an input that only its build can tell: the kernel times that the engine was built by, under the
    target and TensorRT they hold for.
    """

    inputs: Mapping[str, str | None]
    tools: Mapping[str, str]

    @classmethod
    def of(cls, key_inputs: Mapping[str, Any]) -> Pins:
        """The pins of a build's key inputs: texts as they are, anything else by its digest, `tools` apart."""
        inputs = {
            name: value if value is None or isinstance(value, str) else digest_json(value)
            for name, value in key_inputs.items()
            if name != "tools"
        }
        return cls(inputs, dict(key_inputs.get("tools", {})))

    def timed(self, report: Mapping[str, Any]) -> Pins:
        """With the timing cache that a build's report names, if it names one."""
        known = report.get("timing_cache")
        if known is None:
            return self
        name = f"{_TIMING}{known['target']}, TensorRT {known['tensorrt']}"
        return Pins({**self.inputs, name: known["sha256"]}, self.tools)

    @property
    def timing(self) -> str | None:
        """Digest of the timing cache."""
        return next((value for name, value in self.inputs.items() if name.startswith(_TIMING)), None)

    def untimed(self) -> Pins:
        return Pins({name: pin for name, pin in self.inputs.items() if not name.startswith(_TIMING)}, self.tools)


@dataclass(frozen=True)
class Lock:
    """The whole file: recipe file name -> engine -> pins."""

    schema: int = SCHEMA_VERSION
    recipes: Mapping[str, Mapping[str, Pins]] = field(default_factory=dict)

    def pins(self, recipe: str, engine: str) -> Pins | None:
        return self.recipes.get(recipe, {}).get(engine)


@dataclass(frozen=True)
class Drift:
    """One pin that is not what it was; None: there is no such pin on that side, or it is null."""

    name: str
    old: str | None
    new: str | None

    def __str__(self) -> str:
        return f"{self.name}: {_short(self.old)} -> {_short(self.new)}"


def lock_path(recipe: Path) -> Path:
    """Where the lock of a recipe file lies: beside it."""
    return recipe.parent / LOCK


def read(path: Path) -> Lock:
    """The lock in a file; an empty one when there is no file. Raises ENG123."""
    try:
        value = parse(path.read_bytes())
    except FileNotFoundError:
        return Lock()
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from error
    except RecordError as error:
        raise _unreadable(path, str(error)) from error
    if isinstance(value, dict) and value.get("schema") != SCHEMA_VERSION:
        raise _unreadable(path, f"it has schema {value.get('schema')!r}; this trtforge reads schema {SCHEMA_VERSION}")
    try:
        return from_json(Lock, value)
    except RecordError as error:
        raise _unreadable(path, str(error)) from error


def drifts(old: Pins, new: Pins) -> list[Drift]:
    """Every pin that differs, inputs first, by name."""
    return [
        Drift(prefix + name, before.get(name), after.get(name))
        for prefix, before, after in (("", old.inputs, new.inputs), ("tool ", old.tools, new.tools))
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    ]


def check(path: Path, recipe: str, engine: str, pins: Pins) -> Pins:
    """Refuse any drift from the lock: what `--locked` means. Returns what is locked. Raises ENG121, ENG122, ENG123.

    ``pins``: before a build without a timing cache, which is then not looked at; after it with the one it used.
    """
    locked = read(path).pins(recipe, engine)
    if locked is None:
        has = "has no entry for it" if path.exists() else "does not exist"
        raise LockMissing(
            f"nothing is locked for {engine!r} of {recipe}",
            where=str(path),
            why=f"{path.name} {has}",
            next=f"build once without --locked, then commit {path.name}",
        )
    if found := drifts(locked if pins.timing else locked.untimed(), pins):
        raise LockDrift(
            f"{len(found)} input{'s' if len(found) > 1 else ''} of {engine!r} differ{'' if len(found) > 1 else 's'} "
            "from the lock",
            where=f"{path}: {recipe}: {engine}",
            why="; ".join(map(str, found)),
            next="build with --force, by the timing cache that is pinned"
            if pins.timing
            else "restore what is pinned; or build without --locked to accept the change and update the lock",
        )
    return locked


def update(path: Path, recipe: str, engine: str, pins: Pins) -> list[Drift]:
    """Pin what an engine was built from; writes nothing when nothing changed. Returns what changed. Raises ENG123.

    Builds of several engines may do so at once: the file is read and replaced under a lock of its own.
    """
    locked = read(path).pins(recipe, engine)
    if locked == pins:
        return []
    try:
        with _guarded(path):
            lock = read(path)
            engines = dict(lock.recipes.get(recipe, {})) | {engine: pins}
            write_json(path, to_json(Lock(recipes=dict(lock.recipes) | {recipe: engines})))
    except OSError as error:
        raise LockUnreadable(
            f"{path.name} could not be written",
            where=str(path),
            why=error.strerror or str(error),
            next="make its folder writable, or build with --locked, which does not write",
        ) from error
    return drifts(locked or Pins({}, {}), pins)


@contextmanager
def _guarded(path: Path) -> Iterator[None]:
    from filelock import FileLock

    guard = path.with_name(f".{path.name}.guard")
    with FileLock(guard):
        try:
            yield
        finally:
            # Removed while held: a waiter that locks the removed file sees so, and starts over with a new one.
            guard.unlink(missing_ok=True)


def _short(value: str | None) -> str:
    if value is None:
        return "none"
    return f"{value[:16]}..." if len(value) == 64 else value


def _unreadable(path: Path, why: str) -> LockUnreadable:
    return LockUnreadable(
        f"{path.name} cannot be read",
        where=str(path),
        why=why,
        next="resolve the conflict in it, or delete it and build without --locked to write it anew",
    )
