"""A file beside results that says what they were made from, so that the same work is not done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from trtforge.digest import sha256_file
from trtforge.files import remove_leftovers, write_json

T = TypeVar("T")


@dataclass(frozen=True)
class Record:
    """``key``: JSON-able, everything that decides the results. ``outputs``: their names and files."""

    path: Path
    key: Any
    outputs: Mapping[str, Path]

    def earlier(self, read: Callable[[Any, dict[str, str]], T]) -> T | None:
        """What an earlier run said of the same work, if its files are still as it wrote them.

        ``read`` makes it from what was given to `write` and the digests of the outputs.
        """
        try:
            value = json.loads(self.path.read_bytes())
            if value["key"] == self.key and value["sha256"] == (found := self._digests()):
                return read(value["result"], found)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            pass
        return None

    @contextmanager
    def making(self) -> Iterator[None]:
        """Within, the results are made and said to be whole (`write`); when it fails, none of them is left."""
        self.clear()
        try:
            yield
        except BaseException:
            self.clear()
            raise

    def clear(self) -> None:
        """Remove the results of other work, those too that this one does not make: none is to look like its result."""
        earlier = (self.path.parent / name for name in recorded(self.path).values())
        for path in {*earlier, *self.outputs.values()}:
            remove_leftovers(path)
            path.unlink(missing_ok=True)
        remove_leftovers(self.path)
        self.path.unlink(missing_ok=True)  # last: a clear that was cut short knows the rest the next time

    def write(self, result: Any) -> dict[str, str]:
        """Say that the outputs are whole; their digests. ``result``: JSON-able, for `earlier`."""
        digests = self._digests()
        files = {name: path.name for name, path in self.outputs.items()}  # beside the record
        write_json(self.path, {"key": self.key, "sha256": digests, "files": files, "result": result})
        return digests

    def _digests(self) -> dict[str, str]:
        return {name: sha256_file(path) for name, path in self.outputs.items()}


def stored(path: Path) -> Any:
    """What a record's file holds, of whatever work; None where there is no record, or a damaged one."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(value, dict) or not {"key", "sha256", "files", "result"} <= set(value):
        return None
    tables = value["files"], value["sha256"]
    whole = all(isinstance(table, dict) for table in tables) and all(map(_is_bare, value["files"].values()))
    return value if whole else None


def recorded(path: Path) -> dict[str, str]:
    """The outputs that a record's file speaks of: their names, and those of their files beside it."""
    value = stored(path)
    return {} if value is None else dict(value["files"])


def intact(path: Path) -> bool:
    """Whether a record is there and its outputs are as it says."""
    value = stored(path)
    try:
        return value is not None and all(
            sha256_file(path.parent / file) == value["sha256"].get(name) for name, file in value["files"].items()
        )
    except OSError:
        return False


def finished(records: Iterable[Path], read: Callable[[Any, Path], T]) -> list[T]:
    """What records say whose outputs are there, whatever work they are of. ``read``: of a record's file, its path.

    Damaged records, and JSON that is none, are passed over.
    """
    found = []
    for path in sorted(records):
        value = stored(path)
        if value is None or not all((path.parent / file).is_file() for file in value["files"].values()):
            continue
        try:
            found.append(read(value, path))
        except (ValueError, KeyError, TypeError, AttributeError):
            continue
    return found


def _is_bare(name: Any) -> bool:
    """A name in the record's own folder: a record from elsewhere is not to decide what is removed."""
    return isinstance(name, str) and name not in ("", "..") and Path(name).name == name
