"""The panels of a picture: a row for every way to look at the labels, a column for every plane."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from trtforge.report import paint
from trtforge.report.case import PREDICTION, REFERENCE, TRUTH, SegmentedCase
from trtforge.report.lettering import shortened, width, write
from trtforge.report.planes import Frame, Grid, Scene, Voxel, cut, frames, resampled_grey, resampled_labels

Array = np.ndarray[Any, Any]

WIDTH = 1600  # of a picture, pixels
EDGE, GAP = 40, 14
CELL = (WIDTH - 2 * EDGE - 2 * GAP) // 3
STRIP = 52  # above a row: its title and legend

GROUND, BRIGHT, DIM, RULE = "#0e1217", "#eef2f6", "#93a0af", "#29313b"
_BARS_MM = (50, 20, 10, 5, 2, 1, 0.5, 0.2, 0.1)
_TITLES = {TRUTH: "Truth", PREDICTION: "Prediction", REFERENCE: "FP32 model"}


@dataclass(frozen=True)
class Key:
    """One entry of a legend: a filled square, or with ``line`` a line, in one colour or in several side by side."""

    text: str
    colours: tuple[str, ...]
    line: bool = False


@dataclass(frozen=True, eq=False)
class Row:
    """One way to look: a layer over the scan for each of ``PLANES``."""

    title: str
    legend: tuple[Key, ...]
    layers: tuple[Image.Image, ...]


def compared(names: Mapping[str, Any]) -> list[str]:
    """What the prediction is held against, of the sets of labels that there are."""
    return [name for name in (TRUTH, REFERENCE) if name in names]


def draw_panels(scene: Scene) -> Image.Image:
    """RGB, ``WIDTH`` wide: every row with its strip above, on the picture's ground, and a margin below."""
    shown = frames(scene, CELL)
    scans = [
        resampled_grey(_cut(scene.scan, frame, scene.point), frame, scene.grid.spacing, scene.case.window)
        for frame in shown
    ]
    rows = list(_rows(scene, shown))
    height = max(frame.pixels[1] for frame in shown)
    image = Image.new("RGB", (WIDTH, len(rows) * (STRIP + height) + EDGE), GROUND)
    draw = ImageDraw.Draw(image)
    for number, row in enumerate(rows):
        top = number * (STRIP + height)
        _strip(draw, row, top)
        for column, (frame, scan, layer) in enumerate(zip(shown, scans, row.layers, strict=True)):
            left = EDGE + column * (CELL + GAP)
            draw.rectangle((left, top + STRIP, left + CELL - 1, top + STRIP + height - 1), "black")
            panel = paint.over(scan, layer)
            _annotate(panel, frame, scene.grid, scene.point, first=number == 0)
            corner = (left + (CELL - panel.width) // 2, top + STRIP + (height - panel.height) // 2)
            image.paste(panel, corner)
    return image


def _cut(volume: Array, frame: Frame, point: Voxel) -> Array:
    return cut(volume, frame.plane, point[frame.plane.cuts])


def _rows(scene: Scene, shown: list[Frame]) -> Iterator[Row]:
    colours = paint.palette(len(scene.case.classes))
    labels = {
        name: [
            resampled_labels(_cut(volume, frame, scene.point), frame, scene.grid.spacing, paint.FINER)
            for frame in shown
        ]
        for name, volume in scene.labels.items()
    }
    against = compared(labels)
    truths = labels[against[0]] if against else [None] * len(shown)
    contours = zip(labels[PREDICTION], truths, strict=True)
    yield Row(
        "Contours",
        _contour_keys(scene.case, against),
        tuple(paint.contours_layer(prediction, truth, colours) for prediction, truth in contours),
    )
    for name in [*against[:1], PREDICTION]:
        layers = tuple(paint.classes_layer(plane, colours) for plane in labels[name])
        yield Row(_TITLES[name], _class_keys(scene.case, labels[name]), layers)
    for name in against:
        pairs = zip(labels[PREDICTION], labels[name], strict=True)
        yield Row(
            difference_title(name),
            tuple(Key(text, (colour,)) for text, colour in difference_keys(scene.case)),
            tuple(paint.differences_layer(paint.differences(ours, theirs)) for ours, theirs in pairs),
        )


def difference_title(against: str) -> str:
    return f"Differences from the {_TITLES[against] if against == REFERENCE else against}"


def difference_keys(case: SegmentedCase) -> list[tuple[str, str]]:
    """Names and colours of the differences that a case can have."""
    keys = paint.DIFFERENCES.items()
    return [(text, colour) for code, (text, colour, _) in keys if code != paint.OTHER_CLASS or len(case.classes) > 2]


def class_colours(case: SegmentedCase) -> list[str]:
    """Colours by label, as `#rrggbb`."""
    return [f"#{red:02x}{green:02x}{blue:02x}" for red, green, blue in paint.palette(len(case.classes)).tolist()]


def _class_keys(case: SegmentedCase, planes: list[Array]) -> tuple[Key, ...]:
    """The classes that are to be seen in the planes."""
    colours = class_colours(case)
    voxels = sum(np.bincount(plane.ravel(), minlength=len(colours)) for plane in planes)
    seen = [label for label in np.flatnonzero(voxels).tolist() if label]
    return tuple(Key(case.classes[label], (colours[label],)) for label in seen) or (Key("nothing in these planes", ()),)


def _contour_keys(case: SegmentedCase, against: list[str]) -> tuple[Key, ...]:
    theirs = [Key(name, ("#ffffff",), line=True) for name in against[:1]]
    return (*theirs, Key(PREDICTION, tuple(class_colours(case)[1:4]), line=True))


def _strip(draw: ImageDraw.ImageDraw, row: Row, top: int) -> None:
    """Title on the left, legend on the right; entries that find no room are left out, with an ellipsis."""
    baseline = top + STRIP - 17
    write(draw, (EDGE, baseline), row.title, 23, BRIGHT)
    room = WIDTH - 2 * EDGE - width(row.title, 23) - 80
    entries = []
    for key in row.legend:
        text = shortened(key.text, 17, 260)
        taken = _mark_width(key) + 9 + width(text, 17) + 26
        if taken > room:
            entries.append((Key("…", ()), "…", 9 + width("…", 17) + 26))
            break
        entries.append((key, text, taken))
        room -= taken
    x = WIDTH - EDGE + 26 - sum(taken for *_, taken in entries)
    for key, text, taken in entries:
        _mark(draw, key, x, baseline)
        write(draw, (x + _mark_width(key) + 9, baseline), text, 17, DIM)
        x += taken


def _mark_width(key: Key) -> int:
    return 13 * max(1, len(key.colours)) if key.line else 13 if key.colours else 0


def _mark(draw: ImageDraw.ImageDraw, key: Key, x: float, baseline: float) -> None:
    for number, colour in enumerate(key.colours):
        left = x + 13 * number
        top, bottom = (baseline - 7, baseline - 5) if key.line else (baseline - 12, baseline)
        draw.rectangle((left, top, left + 12, bottom), colour)


def _annotate(panel: Image.Image, frame: Frame, grid: Grid, point: Voxel, *, first: bool) -> None:
    """Letters of the sides; in the first row also where the plane lies, the bar, and ticks at the other planes."""
    draw = ImageDraw.Draw(panel)
    wide, high = panel.size
    if min(wide, high) < 60:
        return  # a plane of one or two voxels: letters would hide it
    left, right, top, bottom = frame.plane.edges
    write(draw, (9, high / 2), left, 17, BRIGHT, anchor="lm", outline="black")
    write(draw, (wide - 9, high / 2), right, 17, BRIGHT, anchor="rm", outline="black")
    write(draw, (wide / 2, 9), top, 17, BRIGHT, anchor="mt", outline="black")
    write(draw, (wide / 2, high - 9), bottom, 17, BRIGHT, anchor="mb", outline="black")
    if not first:
        return
    where = grid.place(frame.plane, point[frame.plane.cuts], point)
    for text in (f"{frame.plane.name} · {where}", where):
        if width(text, 17) <= wide / 2 - 24:
            write(draw, (10, 10), text, 17, BRIGHT, anchor="lt", outline="black")
            break
    _bar(draw, frame)
    x, y = (
        ((point[axis] + 0.5) * grid.spacing[axis] - first_mm) * frame.pixels_per_mm
        for axis, first_mm in ((frame.plane.columns, frame.left), (frame.plane.rows, frame.top))
    )
    for tick in ((x, 0, x, 6), (x, high - 7, x, high - 1), (0, y, 6, y), (wide - 7, y, wide - 1, y)):
        draw.line(tick, BRIGHT, 2)


def _bar(draw: ImageDraw.ImageDraw, frame: Frame) -> None:
    """The scale bar, at the bottom right."""
    if (length := bar_mm(frame.width)) is None:
        return
    pixels = round(length * frame.pixels_per_mm)
    right, bottom = frame.pixels[0] - 12, frame.pixels[1] - 12
    draw.rectangle((right - pixels - 1, bottom - 4, right + 1, bottom + 1), "black")
    draw.rectangle((right - pixels, bottom - 3, right, bottom), BRIGHT)
    write(draw, (right - pixels / 2, bottom - 9), f"{length:g} mm", 15, BRIGHT, anchor="ms", outline="black")


def bar_mm(width_mm: float) -> float | None:
    """Length of the scale bar of a plane: 50 mm, or less where that is most of its width."""
    return next((length for length in _BARS_MM if length <= 0.42 * width_mm), None)
