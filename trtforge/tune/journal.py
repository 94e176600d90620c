"""Measurements on disk, one line each as they come: a sweep that was stopped goes on where it was."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from trtforge.digest import digest_json
from trtforge.engines.records import RecordError, parse
from trtforge.errors.tune import JournalOfAnother
from trtforge.tune.search import Measure
from trtforge.tune.space import Combination, Measured


class Journal:
    """``what``: all that measurements depend on beside the combination: engine, device, duration. JSON-able.

    A file that was begun for something else is refused: its rates would be taken for this one's. A line that a kill cut
    off is measured again. Raises JournalOfAnother.
    """

    def __init__(self, path: Path, what: Mapping[str, Any]) -> None:
        self.path, self._key = path, digest_json(dict(what))
        self._what = what
        self.done = dict(self._read())

    def _read(self) -> Iterator[tuple[Combination, Measured]]:
        if not self.path.exists():
            return
        lines = self.path.read_bytes().splitlines()
        if not lines:
            return
        try:
            head = parse(lines[0])
            key, of = head["key"], dict(head["of"])
        except (RecordError, KeyError, TypeError, ValueError):
            key, of = None, {}
        if key != self._key:
            differing = sorted(name for name, value in self._what.items() if of.get(name) != value)
            raise JournalOfAnother(
                "the measurements there are of something else",
                where=str(self.path),
                why=f"{', '.join(differing) or 'what was measured'} differ{'' if len(differing) > 1 else 's'}",
                next=f"name another folder: --out FOLDER; or measure anew: rm {shlex.quote(str(self.path))}",
            )
        for line in lines[1:]:
            try:
                measured = Measured.from_json(parse(line))
            except (RecordError, KeyError, TypeError, ValueError, AttributeError):
                continue
            yield measured.combination, measured

    def through(self, measure: Measure) -> Measure:
        """The same, asked once for each combination in this and earlier runs."""

        def remembered(combination: Combination) -> Measured:
            if combination not in self.done:
                self.done[combination] = measured = measure(combination)
                self._append(measured)
            return self.done[combination]

        return remembered

    def _append(self, measured: Measured) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.exists() or not self.path.stat().st_size
        with self.path.open("a") as stream:
            if new:
                stream.write(json.dumps({"key": self._key, "of": dict(self._what)}) + "\n")
            elif not self.path.read_bytes().endswith(b"\n"):
                stream.write("\n")
            stream.write(json.dumps(measured.to_json()) + "\n")
