"""Labels in colour: palettes that colour-blind readers can tell apart, fills, contours, differences."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
from PIL import Image, ImageColor

Array = np.ndarray[Any, Any]

FINER = 2  # labels are painted on pixels this much finer and then averaged, which smooths their edges
FILL = 0.42  # opacity of a class
LINE = 3  # pixels of a contour, before averaging

_FIRST = ("#56b4e9", "#ffb000", "#e54533", "#92fed1", "#7e6cf7", "#b86797", "#f4ea68", "#f47c6b")
"""Each as far from those before it as can be, to the eyes with and without colour blindness."""

AGREEMENT, MISSED, TOO_MUCH, OTHER_CLASS = 1, 2, 3, 4
DIFFERENCES = {
    AGREEMENT: ("agreement", "#2fbf8f", 0.35),
    MISSED: ("missed", "#ff6a13", 0.85),
    TOO_MUCH: ("too much", "#4aa8ff", 0.85),
    OTHER_CLASS: ("other class", "#fff27a", 0.85),
}
"""Code of a difference -> what it is called, its colour, its opacity."""


def palette(classes: int) -> Array:
    """[classes, 3] uint8: the colour of every label; background is white, the colour of contours of the truth."""
    colours = [(255, 255, 255), *(ImageColor.getrgb(colour)[:3] for colour in _FIRST)]
    for number in range(len(colours), classes):
        turn = number * 0.618034 % 1  # the golden ratio never comes back near a hue
        red, green, blue = colorsys.hsv_to_rgb(turn, (0.45, 0.75)[number % 2], (1.0, 0.82)[number // 2 % 2])
        colours.append((round(red * 255), round(green * 255), round(blue * 255)))
    return np.asarray(colours[:classes], np.uint8)


def differences(labels: Array, against: Array) -> Array:
    """Codes of ``DIFFERENCES``, uint8, 0 where both are background; the arrays have one shape."""
    ours, theirs = labels != 0, against != 0
    codes = np.zeros(labels.shape, np.uint8)
    codes[ours & theirs] = OTHER_CLASS
    codes[ours & (labels == against)] = AGREEMENT
    codes[theirs & ~ours] = MISSED
    codes[ours & ~theirs] = TOO_MUCH
    return codes


def inner_contour(labels: Array, thickness: int) -> Array:
    """Mask of the pixels of a label within ``thickness`` of a lower one, along rows and columns.

    Between two classes only the higher has a contour, hence no line is double.
    """
    return _borders(labels, thickness, lower=True)


def outer_contour(labels: Array, thickness: int) -> Array:
    """Mask of the pixels within ``thickness`` of a higher label: the line just outside an inner contour."""
    return _borders(labels, thickness, lower=False)


def _borders(labels: Array, thickness: int, *, lower: bool) -> Array:
    mask = np.zeros(labels.shape, bool)
    for turned, into in ((labels, mask), (labels.T, mask.T)):
        for step in range(1, min(thickness, len(turned) - 1) + 1):
            before, after = turned[:-step], turned[step:]
            into[step:] |= (before < after) if lower else (before > after)
            into[:-step] |= (after < before) if lower else (after > before)
    return mask


def classes_layer(labels: Array, colours: Array) -> Image.Image:
    """RGBA: classes filled, with a contour; ``labels`` [rows, columns] are ``FINER`` than the layer."""
    opacity = np.where(labels != 0, np.uint8(255 * FILL), np.uint8(0))
    opacity[inner_contour(labels, LINE)] = 255
    return _layer(colours[labels], opacity)


def contours_layer(labels: Array, truth: Array | None, colours: Array) -> Image.Image:
    """RGBA: the contours of ``labels`` in their colours and, just outside its own shape, that of ``truth`` in white."""
    inner = inner_contour(labels, LINE)
    shown = np.where(inner, labels, np.uint8(0))
    opaque = inner if truth is None else inner | outer_contour(truth, LINE)
    return _layer(colours[shown], opaque * np.uint8(255))


def differences_layer(codes: Array) -> Image.Image:
    """RGBA; ``codes`` [rows, columns] are ``FINER`` than the layer."""
    colours, opacity = np.zeros((len(DIFFERENCES) + 1, 3), np.uint8), np.zeros(len(DIFFERENCES) + 1, np.uint8)
    for code, (_, colour, share) in DIFFERENCES.items():
        colours[code], opacity[code] = ImageColor.getrgb(colour)[:3], round(255 * share)
    return _layer(colours[codes], opacity[codes])


def _layer(colours: Array, opacity: Array) -> Image.Image:
    return Image.fromarray(np.dstack([colours, opacity])).reduce(FINER)


def over(grey: Image.Image, layer: Image.Image | None) -> Image.Image:
    """RGB: a layer over a grey plane of the same size."""
    if layer is None:
        return grey.convert("RGB")
    return Image.alpha_composite(grey.convert("RGBA"), layer).convert("RGB")
