"""Tables and texts that a narrow terminal cannot spoil: what is to be copied is never broken.

The first column and the right-aligned ones keep their cells whole; the others break between words only. Where the
width is too small for that, columns that may be left out go first, and then each row becomes a block of lines.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from itertools import groupby

GAP = "  "
ENOUGH = 24  # columns that suffice for the last one: a longer word sticks out of the line
ROOM = 48  # columns that suffice for a last one that may stick out, before others are dropped for it
NO_BREAK = "\xa0"
"""A space in a cell at which no line ends; printed as a plain space."""

COPIED = re.compile(r"`[^`]+`|(?<=: )trtforge .+$", re.MULTILINE)
"""What a person copies out of a sentence: `anything in these`, or the command that it ends with."""


def draw(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    *,
    width: int,
    right: Sequence[str] = (),
    drop: Sequence[str] = (),
    overhang: bool = False,
) -> tuple[list[str], list[str]]:
    """The lines of the header and of the body of a table that is ``width`` characters wide at most.

    Only a single word longer than the line makes a line longer. ``right`` names the right-aligned columns, ``drop``
    those that may be left out, the most dispensable first; with ``overhang`` the cells of the last column stay whole
    and may stick out, those longer than two thirds of a narrow line. Rows drawn as blocks have no header.
    """
    shown = list(range(len(columns)))
    dispensable = [columns.index(name) for name in drop]
    while (widths := _widths(columns, rows, shown, right, width, overhang, bool(dispensable))) is None and dispensable:
        shown.remove(dispensable.pop(0))
    if widths is None:
        return [], [line for row in rows for line in _block(columns, row, width)]
    flush = [columns[index] in right for index in shown]
    header = _lines([columns[index] for index in shown], widths, flush)
    body = [line for row in rows for line in _lines([row[index] for index in shown], widths, flush)]
    return [*header, "─" * min(sum(widths) + len(GAP) * (len(widths) - 1), width)], body


def fold(text: str, width: int) -> list[str]:
    """The lines of ``text``, broken between words; a word longer than ``width`` stays whole."""
    lines = []
    for paragraph in text.splitlines() or [""]:
        line = ""
        for word in paragraph.split(" "):
            longer = f"{line} {word}" if line else word
            if line.strip() and cells(longer.rstrip()) > width:
                lines.append(line.rstrip())
                line = word
            else:
                line = longer if line or word else " "
        lines.append(line.rstrip())
    return [line.replace(NO_BREAK, " ") for line in lines]


def whole(text: str, width: int) -> str:
    """The text with what is to be copied held together, for `fold`: commands always, the rest where a line takes it."""

    def held(found: re.Match[str]) -> str:
        command = found[0].lstrip("`").startswith("trtforge ")
        return found[0].replace(" ", NO_BREAK) if command or cells(found[0]) < width else found[0]

    return COPIED.sub(held, text)


def sentence(text: str, width: int) -> list[str]:
    """The lines of one line of text: itself where it fits, else broken between words, what follows indented by two."""
    if cells(text) <= width:
        return [text]
    plain = text.lstrip()
    indent = " " * (len(text) - len(plain))
    room = width - len(indent) - 2
    first, *rest = fold(whole(plain, room), room)
    return [indent + first, *(f"{indent}  {more}" for more in rest)]


def reflow(text: str, width: int) -> str:
    """A page with its paragraphs broken anew; blank lines, headings and code stay as they are.

    Lines of one indent are a paragraph. A block that begins deeper than the text before it is code.
    """
    made: list[str] = []
    depth = 0
    for block in re.split(r"\n[ \t]*\n", text.strip("\n")):
        lines = block.splitlines()
        made += [""] if made else []
        if _indent(lines[0]) > depth:
            made += lines
            continue
        for depth, alike in groupby(lines, key=_indent):
            room = width - depth
            made += [" " * depth + line for line in fold(whole(" ".join(map(str.strip, alike)), room), room)]
    return "\n".join(made)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def cells(text: str) -> int:
    """Columns of a terminal that ``text`` takes: East Asian wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(letter) else 2 if unicodedata.east_asian_width(letter) in "WF" else 1
        for letter in text
    )


def _widths(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    shown: Sequence[int],
    right: Sequence[str],
    width: int,
    overhang: bool,
    droppable: bool,
) -> list[int] | None:
    """The width of every shown column, or None when they do not fit.

    While a column may still be dropped, one that may stick out asks for two thirds of a narrow line.
    """
    most, least = [], []
    for index in shown:
        kept = index == shown[0] or columns[index] in right or (overhang and index == shown[-1])
        texts = [line for row in rows for line in row[index].splitlines()]
        longest = max(map(cells, texts), default=0)
        word = max((cells(word) for text in texts for word in text.split(" ")), default=0)
        least.append(max(longest if kept else word, *map(cells, columns[index].split(" "))))
        most.append(max(longest, least[-1], 0 if columns[index] in right else cells(columns[index])))
    if columns[shown[-1]] not in right and not overhang:
        least[-1] = min(least[-1], max(ENOUGH, cells(columns[shown[-1]])))
    room = width - len(GAP) * (len(shown) - 1)
    asked = least[-1]
    if overhang:
        asked = min(asked, 2 * width // 3, ROOM) if droppable else cells(columns[shown[-1]])
    if sum(least[:-1]) + asked > room:
        return None
    while sum(most) > room and most != least:
        widest = max((i for i in range(len(most)) if most[i] > least[i]), key=most.__getitem__)
        most[widest] -= 1
    return most


def _lines(texts: Sequence[str], widths: Sequence[int], flush: Sequence[bool]) -> list[str]:
    """One row of the table: as many lines as its tallest cell."""
    folded = [fold(text, width) for text, width in zip(texts, widths, strict=True)]
    lines = []
    for number in range(max(map(len, folded))):
        line = []
        for cell, width, to_the_right in zip(folded, widths, flush, strict=True):
            text = cell[number] if number < len(cell) else ""
            blank = " " * (width - cells(text))
            line.append(blank + text if to_the_right else text + blank)
        lines.append(GAP.join(line).rstrip())
    return lines


def _block(columns: Sequence[str], row: Sequence[str], width: int) -> list[str]:
    """A row as lines: its first cell, then every other one under the name of its column."""
    label = max(map(cells, columns[1:]), default=0)
    lines = [row[0].replace(NO_BREAK, " ")]
    for name, text in zip(columns[1:], row[1:], strict=True):
        if text:
            folded = fold(text, max(width - label - 4, 20))
            lines += [f"  {name if i == 0 else '':<{label}}  {line}" for i, line in enumerate(folded)]
    return lines
