"""How a command speaks: results to stdout (a table or JSON), log and progress to stderr, errors in four lines.

rich is imported only when something is shown with it, so that `--help` and `--json` stay fast.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

from trtforge.errors.base import TrtforgeError
from trtforge.progress import Task

if TYPE_CHECKING:
    from rich.console import Console

PLAIN_WIDTH = 120  # columns of a table when stdout is not a terminal


class Ui:
    """One per command. ``json``: the result is one JSON object; ``quiet``: no log; ``progress``: bars allowed."""

    def __init__(self, *, json: bool = False, quiet: bool = False, progress: bool = True) -> None:
        self.json = json
        self.quiet = quiet
        self._bars = progress and not quiet and sys.stderr.isatty()

    # -- results -------------------------------------------------------------------------------------------

    def result(self, command: str, value: dict[str, Any]) -> None:
        """Print the JSON result of ``command``; does nothing without ``--json``."""
        if self.json:
            print(json.dumps({"schema": f"trtforge.{command}/1", **value}, indent=2, ensure_ascii=False))

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, right: str = "") -> None:
        """A table on stdout; ``right`` names the right-aligned columns, comma-separated. Nothing with ``--json``."""
        if self.json:
            return
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(title=title or None, title_justify="left", title_style="bold", box=SIMPLE_HEAD, pad_edge=False)
        for column in columns:
            table.add_column(column, justify="right" if column in right.split(",") else "left", overflow="fold")
        for row in rows:
            table.add_row(*(Text(str(cell)) for cell in row))
        screen = console(sys.stdout)
        if sys.stdout.isatty():
            screen.print(table)
            return
        with screen.capture() as drawn:
            screen.print(table)
        print("\n".join(line.rstrip() for line in drawn.get().splitlines()))  # rich fills cells with spaces

    def say(self, text: str = "") -> None:
        """A line of the human-readable result on stdout. Nothing with ``--json``."""
        if not self.json:
            print(text)

    def end(self, error: TrtforgeError) -> NoReturn:
        """Exit with an error's code after the result has been printed: the work was done, its verdict is not 0."""
        import typer

        show_error(error)
        raise typer.Exit(error.exit_code)

    # -- Progress ------------------------------------------------------------------------------------------

    def log(self, message: str) -> None:
        if not self.quiet:
            print(message, file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(f"warning: {message}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        if self._bars:
            with _bar(label, total) as task:
                yield task
        else:
            yield _Lines(label, total, sys.stderr if not self.quiet else None)


def console(stream: TextIO) -> Console:
    """A rich console: colour on a terminal only (NO_COLOR holds), and a redirected table has a fixed width."""
    from rich.console import Console

    columns = os.environ.get("COLUMNS", "")
    width = None if stream.isatty() else int(columns) if columns.isdecimal() else PLAIN_WIDTH
    plain = bool(os.environ.get("NO_COLOR"))  # rich by itself would keep bold and underlined
    return Console(file=stream, width=width, highlight=False, color_system=None if plain else "auto")


@contextlib.contextmanager
def _bar(label: str, total: int | None) -> Iterator[Task]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()]
    if total is not None:
        columns.append(TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console(sys.stderr), transient=True) as bars:
        identity = bars.add_task(label, total=total, note="")

        class Bar:
            def advance(self, steps: int = 1) -> None:
                bars.advance(identity, steps)

            def note(self, text: str) -> None:
                bars.update(identity, note=text)

        yield Bar()


class _Lines:
    """Progress where no terminal is: a plain line now and then, never more than one in ten seconds."""

    EVERY_S = 10.0

    def __init__(self, label: str, total: int | None, stream: TextIO | None) -> None:
        self._label, self._total, self._stream = label, total, stream
        self._done, self._started, self._last = 0, time.monotonic(), time.monotonic()

    def advance(self, steps: int = 1) -> None:
        self._done += steps
        now = time.monotonic()
        if self._stream is None or now - self._last < self.EVERY_S:
            return
        self._last = now
        of = f"/{self._total}" if self._total is not None else ""
        left = ""
        if self._total and self._done:
            left = f", about {(now - self._started) / self._done * (self._total - self._done):.0f} s left"
        print(f"{self._label}: {self._done}{of}{left}", file=self._stream, flush=True)

    def note(self, text: str) -> None: ...


def show_error(error: TrtforgeError) -> None:
    """An error for a person, on stderr: code and sentence, then where, why and the next command.

    Paths below the working directory are shortened to what a person would type.
    """
    here = f"{Path.cwd()}{os.sep}"
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head, tail = ("\x1b[1;31m", "\x1b[0m") if colour else ("", "")
    print(f"{head}error[{error.code}]{tail}: {error.what}", file=sys.stderr)
    for label, text in (("where", error.where), ("why", error.why), ("next", error.next)):
        for number, line in enumerate(text.replace(here, "").splitlines()):
            print(f"  {label + ':' if number == 0 else '':<6} {line}", file=sys.stderr)
    print(f"  more:  trtforge explain {error.code}", file=sys.stderr)


def shown(path: Path) -> str:
    """A path as a person would type it here: relative below the working directory."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def human_bytes(size: float) -> str:
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024 or unit == "GiB":
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")
