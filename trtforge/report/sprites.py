"""Sprites: slices of a plane side by side in one image, of which a page shows one at a time."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageColor

from trtforge.report import paint
from trtforge.report.case import PREDICTION
from trtforge.report.panels import compared, difference_title
from trtforge.report.planes import PLANES, Plane, Scene, cut, resampled_grey, resampled_labels, whole_frame

Array = np.ndarray[Any, Any]

MOST = 80  # slices of a plane
BLOCK = 8  # a tile is whole blocks of JPEG, or neighbours would shine through at its edges
_LINES = 128  # code of the contour of class 1; the fills are the codes below


@dataclass(frozen=True)
class Layer:
    """One sprite over the scan: what it shows, and its image as a data URI."""

    name: str
    uri: str


@dataclass(frozen=True)
class Viewer:
    """What the page needs for one plane.

    ``indices`` into the display grid, ascending, and ``start``, the one of them that goes through the scene's point;
    ``columns`` x ``rows`` tiles in every sprite; ``scan``: a data URI; ``layers``: what may lie over it.
    """

    plane: Plane
    indices: tuple[int, ...]
    start: int
    columns: int
    rows: int
    scan: str
    layers: tuple[Layer, ...]


def viewers(scene: Scene, tile: int, quality: int) -> list[Viewer]:
    """A viewer for each of ``PLANES``; a tile is at most ``tile`` pixels long, JPEG of ``quality``."""
    return [_viewer(scene, plane, tile, quality) for plane in PLANES]


def chosen(count: int, point: int) -> tuple[int, ...]:
    """At most ``MOST`` indices below ``count``, spread evenly; that nearest to ``point`` is moved there."""
    spread = np.rint(np.linspace(0, count - 1, min(count, MOST))).astype(int)
    spread[np.abs(spread - point).argmin()] = point
    return tuple(int(index) for index in spread)


def _viewer(scene: Scene, plane: Plane, tile: int, quality: int) -> Viewer:
    point = scene.point[plane.cuts]
    indices = chosen(scene.grid.shape[plane.cuts], point)
    columns = math.ceil(math.sqrt(len(indices)))
    rows = math.ceil(len(indices) / columns)
    frame = whole_frame(scene.grid, plane, _tile_size(scene, plane, tile))
    spacing = scene.grid.spacing

    def scans() -> Iterator[Array]:
        for index in indices:
            yield np.asarray(resampled_grey(cut(scene.scan, plane, index), frame, spacing, scene.case.window))

    tiles = {
        name: [resampled_labels(cut(volume, plane, index), frame, spacing) for index in indices]
        for name, volume in scene.labels.items()
    }
    colours = _class_table(paint.palette(len(scene.case.classes)))
    layers = [Layer(name, _png(_sheet(map(_class_codes, tiles[name]), columns, rows), *colours)) for name in tiles]
    for name in compared(tiles):
        codes = map(paint.differences, tiles[PREDICTION], tiles[name])
        layers.append(Layer(difference_title(name), _png(_sheet(codes, columns, rows), *_difference_table())))
    return Viewer(
        plane,
        indices,
        indices.index(point),
        columns,
        rows,
        _jpeg(_sheet(scans(), columns, rows), quality),
        tuple(layers),
    )


def _tile_size(scene: Scene, plane: Plane, tile: int) -> tuple[int, int]:
    """Width and height in whole blocks; nearly the plane's proportions, which the page restores."""
    wide, high = scene.grid.size_mm[plane.columns], scene.grid.size_mm[plane.rows]
    scale = tile / max(wide, high)
    return max(1, round(wide * scale / BLOCK)) * BLOCK, max(1, round(high * scale / BLOCK)) * BLOCK


def _sheet(tiles: Iterator[Array], columns: int, rows: int) -> Array:
    """Tiles [rows, columns] of one size, laid out row by row; unused places are 0."""
    sheet: Array | None = None
    for number, tile in enumerate(tiles):
        high, wide = tile.shape
        if sheet is None:
            sheet = np.zeros((rows * high, columns * wide), np.uint8)
        top, left = number // columns * high, number % columns * wide
        sheet[top : top + high, left : left + wide] = tile
    if sheet is None:
        raise ValueError("no slices")
    return sheet


def _class_codes(labels: Array) -> Array:
    """Fills as 1 to 127, contours as 128 and above; colours repeat long before that."""
    folded: Array = np.where(labels == 0, np.uint8(0), (labels - np.uint8(1)) % np.uint8(_LINES - 1) + np.uint8(1))
    folded[paint.inner_contour(labels, 1)] += np.uint8(_LINES - 1)
    return folded


def _class_table(colours: Array) -> tuple[Array, Array]:
    """Colours [256, 3] and opacities [256] of the codes."""
    table, opacity = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    classes = colours[1:_LINES]
    for start, share in ((1, paint.FILL), (_LINES, 1.0)):
        table[start : start + len(classes)] = classes
        opacity[start : start + len(classes)] = round(255 * share)
    return table, opacity


def _difference_table() -> tuple[Array, Array]:
    table, opacity = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
    for code, (_, colour, share) in paint.DIFFERENCES.items():
        table[code], opacity[code] = ImageColor.getrgb(colour)[:3], round(255 * share)
    return table, opacity


def _png(codes: Array, colours: Array, opacity: Array) -> str:
    image = Image.fromarray(codes)
    image.putpalette(colours.tobytes())
    return data_uri(image, "PNG", transparency=opacity.tobytes())


def _jpeg(grey: Array, quality: int) -> str:
    return data_uri(Image.fromarray(grey), "JPEG", quality=quality, optimize=True)


def data_uri(image: Image.Image, form: str, **options: Any) -> str:
    stream = io.BytesIO()
    image.save(stream, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(stream.getvalue()).decode()}"
