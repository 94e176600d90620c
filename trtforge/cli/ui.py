"""How a command speaks: results to stdout (a table or JSON), log and progress to stderr, errors in four lines.

rich is imported only for a progress bar, so that everything else stays fast.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn, TextIO

from trtforge.errors.base import TrtforgeError
from trtforge.errors.environment import working_directory
from trtforge.progress import Silent, Task

PLAIN_WIDTH = 120  # columns of a table when stdout is not a terminal
BAR = 20  # columns of a progress bar; half in a narrow terminal
CLOCK = 7  # columns of 0:00:00
LABEL = 9  # columns of `  where: ` before a line of an error
NARROW = 80  # columns of a terminal that does not say
CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}


class Ui:
    """One per command. ``json``: the result is one JSON object; ``quiet``: no log; ``progress``: bars allowed."""

    def __init__(self, *, json: bool = False, quiet: bool = False, progress: bool = True) -> None:
        self.json = json
        self.quiet = quiet
        self._bars = progress and not quiet and sys.stderr.isatty()
        self._last = ""  # what stdout shows last: a table is set off by blank lines

    # -- results -------------------------------------------------------------------------------------------

    def result(self, command: str, value: dict[str, Any]) -> None:
        """Print the JSON result of ``command``; does nothing without ``--json``."""
        if self.json:
            print(json.dumps({"schema": f"trtforge.{command}/1", **value}, indent=2, ensure_ascii=False))

    def table(
        self,
        title: str,
        columns: Sequence[str],
        rows: Sequence[Sequence[object]],
        *,
        right: str = "",
        drop: str = "",
        overhang: bool = False,
    ) -> None:
        """A table on stdout. Nothing with ``--json``.

        ``right`` names the right-aligned columns, comma-separated; ``drop`` those that a narrow terminal goes without,
        the most dispensable first; with ``overhang`` the last column may stick out.
        """
        if self.json:
            return
        from trtforge.cli.table import draw

        width = columns_of(sys.stdout)
        texts = [[harmless(str(cell)).replace("\n", "\\n") for cell in row] for row in rows]
        header, body = draw(columns, texts, width=width, right=_names(right), drop=_names(drop), overhang=overhang)
        bold, plain = ("\x1b[1m", "\x1b[0m") if coloured(sys.stdout) else ("", "")
        if self._last:
            print()
        self._last = "table"
        if title:
            print(f"{bold}{title}{plain}")
        for line in header[:-1]:
            print(f"{bold}{line}{plain}")
        print("\n".join([*header[-1:], *body]))

    def say(self, text: str = "") -> None:
        """Lines of the human-readable result on stdout. Nothing with ``--json``.

        A line too long for the terminal goes on below, between words and indented; a redirected one stays whole.
        """
        if self.json:
            return
        if self._last == "table":
            print()
        self._last = "text"
        print(folded(text, sys.stdout))

    def end(self, error: TrtforgeError) -> NoReturn:
        """Exit with an error's code after the result has been printed: the work was done, its verdict is not 0."""
        import typer

        show_error(error)
        raise typer.Exit(error.exit_code)

    # -- Progress ------------------------------------------------------------------------------------------

    def log(self, message: str) -> None:
        if not self.quiet:
            print(folded(message, sys.stderr), file=sys.stderr, flush=True)

    def warn(self, message: str) -> None:
        print(folded(f"warning: {message}", sys.stderr), file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Task]:
        if self._bars:
            with _bar(label, total) as task:
                yield task
        else:
            with contextlib.nullcontext(Silent()) if self.quiet else _Lines(label, total, sys.stderr) as task:
                yield task


def columns_of(stream: TextIO) -> int:
    """Characters in a line of ``stream``; COLUMNS says otherwise, and a redirected table has a fixed width."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if not stream.isatty():
        return PLAIN_WIDTH
    try:
        return os.get_terminal_size(stream.fileno()).columns or NARROW
    except OSError:
        return NARROW


def harmless(text: str) -> str:
    """The text with control characters spelled out: a model's names are strangers', and terminals obey them."""
    return text.translate(CONTROLS)


def folded(text: str, stream: TextIO) -> str:
    """The text for a terminal, `harmless`, its long lines broken between words; for others each line stays whole."""
    text = harmless(text)
    if not stream.isatty():
        return text
    from trtforge.cli.table import sentence

    width = columns_of(stream)
    return "\n".join(line for long in text.splitlines() or [""] for line in sentence(long, width))


def coloured(stream: TextIO) -> bool:
    """Whether ``stream`` takes escape codes: a terminal does, unless NO_COLOR is set."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def _names(text: str) -> list[str]:
    return text.split(",") if text else []


@contextlib.contextmanager
def _bar(label: str, total: int | None) -> Iterator[Task]:
    """A bar whose columns keep their widths; the note has what is left of the line, and is cut to that."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    def whole(width: int) -> Column:
        return Column(min_width=width, no_wrap=True)

    line = columns_of(sys.stderr)
    parts: list[tuple[ProgressColumn, int]] = [
        (TextColumn("{task.description}", table_column=whole(len(label))), len(label))
    ]
    if total is None:
        parts.insert(0, (SpinnerColumn("line", table_column=whole(1)), 1))
    else:
        bar, count = BAR if line >= PLAIN_WIDTH else BAR // 2, 2 * len(str(total)) + 1
        parts.append((BarColumn(bar, table_column=whole(bar)), bar))
        parts.append((MofNCompleteColumn(table_column=whole(count)), count))
    parts.append((TimeElapsedColumn(table_column=whole(CLOCK)), CLOCK))
    if total is not None:
        parts.append((TimeRemainingColumn(table_column=whole(CLOCK)), CLOCK))
    room = max(line - sum(width + 1 for _, width in parts), 0)
    columns = [column for column, _ in parts]
    columns.append(TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True)))
    screen = Console(file=sys.stderr, width=line, color_system="auto" if coloured(sys.stderr) else None)
    with Progress(*columns, console=screen, transient=True) as bars:
        identity = bars.add_task(label, total=total, note="")

        class Bar:
            def advance(self, steps: int = 1) -> None:
                bars.advance(identity, steps)

            def note(self, text: str) -> None:
                bars.update(identity, note=_cut(harmless(text), room))

        yield Bar()


def _cut(note: str, room: int) -> str:
    """The end of a note, which tells a sample from the next: `…data/coffee.png`."""
    return note if len(note) <= room else f"…{note[len(note) - room + 1 :]}" if room > 8 else ""


class _Lines:
    """Progress where no terminal is: what has begun and takes its time, a plain line now and then.

    A thread writes them: a compiler, or one execution of a large network, gives no sign for minutes.
    """

    WAITS_S = (1.0, 3.0, 10.0)  # before the first line, the second, and every one after

    def __init__(self, label: str, total: int | None, stream: TextIO) -> None:
        self._label, self._total, self._stream = label, total, stream
        self._done, self._note, self._started = 0, "", time.monotonic()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._tell, daemon=True)

    def __enter__(self) -> _Lines:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()  # or its last line could come after what the command says next

    def advance(self, steps: int = 1) -> None:
        self._done += steps

    def note(self, text: str) -> None:
        self._note = text

    def _tell(self) -> None:
        waits = itertools.chain(self.WAITS_S, itertools.repeat(self.WAITS_S[-1]))
        while not self._over.wait(next(waits)):
            try:
                print(harmless(self._line()), file=self._stream, flush=True)
            except (OSError, ValueError):
                return  # the reader went away, or the stream was closed: the command meets that itself

    def _line(self) -> str:
        if self._total is None:
            return f"{self._label}: {self._note}" if self._note else f"{self._label} ..."
        passed = time.monotonic() - self._started
        left = f", about {passed / self._done * (self._total - self._done):.0f} s left" if self._done else ""
        return f"{self._label}: {self._done}/{self._total}{left}"


def show_error(error: TrtforgeError) -> None:
    """An error for a person, on stderr: code and sentence, then where, why and the next command.

    Paths below the working directory are shortened to what a person would type. Places and commands stay whole, to be
    copied.
    """
    from trtforge.cli.table import fold, whole

    folder = working_directory()
    bold, plain = ("\x1b[1;31m", "\x1b[0m") if coloured(sys.stderr) else ("", "")
    head = f"error[{error.code}]"
    said = folded(f"{head}: {error.what}", sys.stderr)
    print(f"{bold}{head}{plain}{said.removeprefix(head)}", file=sys.stderr)
    for label, text in (("where", error.where), ("why", error.why), ("next", error.next)):
        lines = harmless(text if folder is None else _below(folder, text)).splitlines()
        if label == "why" and sys.stderr.isatty():
            room = columns_of(sys.stderr) - LABEL
            lines = [short for line in lines for short in fold(whole(line, room), room)]
        for number, line in enumerate(lines):
            print(f"  {label + ':' if number == 0 else '':<6} {line}", file=sys.stderr)
    print(f"  more:  trtforge explain {error.code}", file=sys.stderr)


def _below(folder: Path, text: str) -> str:
    """The text with paths below ``folder`` as seen from there; `/var/tmp/x` is not below `/tmp`."""
    return re.sub(rf"(?<![^\s\"'`=:,(\[]){re.escape(str(folder) + os.sep)}", "", text)


def counted(number: int, what: str) -> str:
    """`1 window`, `1,200 windows`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def shown(path: Path) -> str:
    """A path as a person would type it here: relative below the working directory."""
    here = working_directory()
    return str(path.relative_to(here) if here is not None and path.is_relative_to(here) else path)
