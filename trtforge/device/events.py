"""Progress of the far side as JSON lines in a file, and the same lines as progress of this side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from trtforge.progress import Progress, Task

EVERY_S = 0.5
"""A task tells of its steps no more often."""


class Recorder:
    """A Progress that appends what happens to a file: `{"log": ...}`, `{"warn": ...}`, `{"task": 1, ...}`."""

    def __init__(self, path: Path) -> None:
        self._stream = path.open("ab", buffering=0)  # a line a write: a reader sees whole lines, also after a kill
        self._tasks = 0

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def log(self, message: str) -> None:
        self.write({"log": message})

    def warn(self, message: str) -> None:
        self.write({"warn": message})

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        self._tasks += 1
        number = self._tasks
        self.write({"task": number, "label": label, "total": total})
        recorded = _Recorded(self, number)
        try:
            yield recorded
        finally:
            recorded.tell()
            self.write({"task": number, "ended": True})

    def write(self, value: dict[str, Any]) -> None:
        self._stream.write(json.dumps(value).encode() + b"\n")


class _Recorded:
    def __init__(self, recorder: Recorder, number: int) -> None:
        self._recorder, self._number = recorder, number
        self._steps, self._note = 0, ""
        self._told = time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._steps += steps
        if time.monotonic() - self._told >= EVERY_S:
            self.tell()

    def note(self, text: str) -> None:
        self._note = text

    def tell(self) -> None:
        if self._steps or self._note:
            self._recorder.write({"task": self._number, "steps": self._steps, "note": self._note})
        self._steps, self._told = 0, time.monotonic()


class Replay:
    """Shows events of a device as progress of this side. ``name``: the device, in front of its lines."""

    def __init__(self, name: str, progress: Progress) -> None:
        self._name, self._progress = name, progress
        self._tasks: dict[int, tuple[ExitStack, Task]] = {}

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._tasks):
            self._end(number)

    def show(self, event: dict[str, Any]) -> None:
        """An event that is none of these is passed over: a later trtforge may have more."""
        if "log" in event:
            self._progress.log(f"{self._name}: {event['log']}")
        elif "warn" in event:
            self._progress.warn(f"{self._name}: {event['warn']}")
        elif "label" in event:
            self._begin(int(event["task"]), str(event["label"]), event.get("total"))
        elif "ended" in event:
            self._end(int(event["task"]))
        elif "steps" in event and (found := self._tasks.get(int(event["task"]))):
            found[1].advance(int(event["steps"]))
            found[1].note(str(event.get("note", "")))

    def _begin(self, number: int, label: str, total: int | None) -> None:
        self._end(number)
        stack = ExitStack()
        task = stack.enter_context(self._progress.task(f"{self._name}: {label}", total))
        self._tasks[number] = (stack, task)

    def _end(self, number: int) -> None:
        if found := self._tasks.pop(number, None):
            found[0].close()
