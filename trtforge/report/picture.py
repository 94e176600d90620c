"""The picture: a header with the figures, then the panels; one PNG of 1600 pixels in width."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from PIL import Image, ImageDraw

from trtforge.files import atomic_open
from trtforge.report.case import Row, SegmentedCase, Table, dice_text, millilitres_text, table
from trtforge.report.lettering import width, write
from trtforge.report.panels import BRIGHT, DIM, EDGE, GROUND, RULE, WIDTH, class_colours, draw_panels
from trtforge.report.planes import look

_HALF = (WIDTH - 2 * EDGE - 60) // 2  # width of a block of the header
_BESIDE = 8  # rows of a table that stands beside the name; a longer one is below, in two blocks
_NAME, _LINE, _FACT = 62, 31, 25  # heights: the name, a line of the table, a fact


def write_picture(path: Path, case: SegmentedCase) -> None:
    """Draw a case as a PNG; equal cases give equal bytes. Raises OSError."""
    image = draw_picture(case)
    with atomic_open(path) as stream:
        image.save(stream, "PNG", compress_level=4)


def draw_picture(case: SegmentedCase) -> Image.Image:
    """RGB, ``panels.WIDTH`` pixels wide and as high as the rows need."""
    header, panels = _header(case), draw_panels(look(case))
    image = Image.new("RGB", (WIDTH, header.height + panels.height), GROUND)
    image.paste(header, (0, 0))
    image.paste(panels, (0, header.height))
    return image


def _header(case: SegmentedCase) -> Image.Image:
    figures = table(case)
    beside = len(figures.rows) <= _BESIDE
    columns = (2 if len(case.facts) > 5 else 1) if beside else 4
    facts_high = -(-len(case.facts) // columns) * _FACT
    half = -(-len(figures.rows) // 2)
    blocks = [figures.rows] if beside else [figures.rows[:half], figures.rows[half:]]
    table_high = 2 * _LINE + len(blocks[0]) * _LINE if figures.rows else 0

    top = EDGE - 6
    below_name = top + _NAME + facts_high
    height = max(below_name, top + table_high) if beside else below_name + 16 + table_high
    image = Image.new("RGB", (WIDTH, height + 18), GROUND)
    draw = ImageDraw.Draw(image)
    room = _HALF if beside else WIDTH - 2 * EDGE
    write(draw, (EDGE, top + 34), case.name, 40, BRIGHT, room=room)
    _facts(draw, case, (EDGE, top + _NAME), columns, room)
    wide = _table_width(figures)
    for number, rows in enumerate(blocks):
        left = WIDTH - EDGE - wide if beside else EDGE + number * (_HALF + 60)
        _table(draw, case, figures, rows, (left, top if beside else below_name + 16))
    return image


def _facts(draw: ImageDraw.ImageDraw, case: SegmentedCase, corner: tuple[int, int], columns: int, room: int) -> None:
    """Names and values in small type, down one column and then the next."""
    lines = -(-len(case.facts) // columns)
    wide = room // columns
    facts = iter(case.facts.items())
    for column in range(columns):
        x = corner[0] + column * wide
        for line, (name, value) in enumerate(islice(facts, lines)):
            baseline = corner[1] + line * _FACT + 18
            write(draw, (x, baseline), name, 16, DIM, room=118)
            write(draw, (x + 128, baseline), value, 16, BRIGHT, room=wide - 128 - 16)


def _column_width(figures: Table) -> int:
    return min(96, (_HALF - 200) // (len(figures.compared_with) + len(figures.volumes_of)))


def _table_width(figures: Table) -> int:
    """As much as the names need, ``_HALF`` at most."""
    names = 24 + max((width(row.name, 18) for row in figures.rows), default=0) + 36
    return min(_HALF, names + _column_width(figures) * (len(figures.compared_with) + len(figures.volumes_of)))


def _table(
    draw: ImageDraw.ImageDraw, case: SegmentedCase, figures: Table, rows: Sequence[Row], corner: tuple[int, int]
) -> None:
    """Classes with their colours, Dice by what was compared with, and volumes; nothing without rows."""
    if not rows:
        return
    left, top = corner
    right = left + _table_width(figures)
    wide = _column_width(figures)
    first_volume = right - len(figures.volumes_of) * wide
    first_dice = first_volume - len(figures.compared_with) * wide

    groups = ((first_dice, first_volume, "Dice with"), (first_volume, right, "volume, ml"))
    for start, end, title in groups:
        if start < end:
            write(draw, (end, top + 20), title, 15, DIM, anchor="rs", room=end - start - 12)
            draw.line((start + 18, top + 28, end, top + 28), RULE, 1)
    for number, title in enumerate([*figures.compared_with, *figures.volumes_of]):
        x = first_dice + (number + 1) * wide
        write(draw, (x, top + _LINE + 18), title, 16, DIM, anchor="rs", room=wide - 12)
    draw.line((left, top + 2 * _LINE - 4, right, top + 2 * _LINE - 4), RULE, 2)

    colours = class_colours(case)
    for line, row in enumerate(rows):
        baseline = top + (line + 2) * _LINE + 22
        if row.label is not None:
            draw.rectangle((left, baseline - 13, left + 13, baseline), colours[row.label])
        write(draw, (left + 24, baseline), row.name, 18, BRIGHT, room=first_dice - left - 30)
        texts = [*map(dice_text, row.dice), *map(millilitres_text, row.millilitres)]
        for number, text in enumerate(texts):
            write(draw, (first_dice + (number + 1) * wide, baseline), text, 18, BRIGHT, anchor="rs")
