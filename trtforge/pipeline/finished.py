"""A file beside results that says what they were made from, so that the same work is not done twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
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

    def clear(self) -> None:
        """Remove results of other work: if this one fails, nothing is to look like its result."""
        for path in (self.path, *self.outputs.values()):
            remove_leftovers(path)
            path.unlink(missing_ok=True)

    def write(self, result: Any) -> dict[str, str]:
        """Say that the outputs are whole; their digests. ``result``: JSON-able, for `earlier`."""
        digests = self._digests()
        write_json(self.path, {"key": self.key, "sha256": digests, "result": result})
        return digests

    def _digests(self) -> dict[str, str]:
        return {name: sha256_file(path) for name, path in self.outputs.items()}
