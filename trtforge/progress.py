"""The one way long work reports itself: rooms call a :class:`Progress`, the command line decides how it looks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None:
        """A short text beside the bar, replacing the last one (the file or phase at hand)."""


class Progress(Protocol):
    def task(self, label: str, total: int | None) -> AbstractContextManager[Task]:
        """A context manager that yields a :class:`Task`; ``total=None`` when the length is unknown."""

    def log(self, message: str) -> None:
        """One line for the log on stderr."""

    def warn(self, message: str) -> None:
        """One line for the log on stderr, shown even where ``log`` is not."""


class Silent:
    """A task that shows nothing."""

    def advance(self, steps: int = 1) -> None: ...

    def note(self, text: str) -> None: ...


class Quiet:
    """A progress that shows nothing: the default of every library function."""

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        yield Silent()

    def log(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...


QUIET: Progress = Quiet()
