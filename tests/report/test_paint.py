"""Colours: differences, contours, and whether colour-blind readers can tell them apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageColor

from trtforge.report import paint

# Machado, Oliveira, Fernandes 2009: linear RGB as seen with one kind of cone missing
SIGHT = {
    "all cones": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def lab(colour, sight):
    """Oklab of sRGB 0 to 255: distances are about how different colours look."""
    share = np.asarray(colour) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.asarray(sight) @ linear, 0, 1)
    cones = np.cbrt(np.array([[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]) @ linear)
    return np.array([[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]) @ cones


def on_grey(colour, opacity, grey=110):
    return opacity * np.array(ImageColor.getrgb(colour)) + (1 - opacity) * grey


@pytest.mark.parametrize("sight", SIGHT.values(), ids=SIGHT)
def test_differences_can_be_told_apart(sight):
    seen = [lab(on_grey(colour, opacity), sight) for _, colour, opacity in paint.DIFFERENCES.values()]
    assert min(np.linalg.norm(first - second) for first, second in combinations(seen, 2)) > 0.09


@pytest.mark.parametrize("sight", SIGHT.values(), ids=SIGHT)
def test_the_first_four_classes_can_be_told_apart(sight):
    seen = [lab(colour, sight) for colour in paint.palette(5)[1:]]
    assert min(np.linalg.norm(first - second) for first, second in combinations(seen, 2)) > 0.14


def test_palette_has_a_colour_of_its_own_for_every_class():
    colours = paint.palette(31)
    assert colours.dtype == np.uint8
    assert len({tuple(colour) for colour in colours.tolist()}) == 31
    np.testing.assert_array_equal(paint.palette(3), colours[:3])
    assert paint.palette(256).shape == (256, 3)


LABELS = arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=9), elements=st.integers(0, 3))


@given(LABELS, st.randoms())
def test_differences_name_every_voxel(truth, random):
    labels = np.array([[random.randrange(4) for _ in row] for row in truth], np.uint8)
    codes = paint.differences(labels, truth)
    for ours, theirs, code in zip(labels.flat, truth.flat, codes.flat, strict=True):
        if ours == theirs:
            assert code == (paint.AGREEMENT if ours else 0)
        elif ours and theirs:
            assert code == paint.OTHER_CLASS
        else:
            assert code == (paint.TOO_MUCH if ours else paint.MISSED)


@given(LABELS, st.integers(1, 4))
def test_contours_lie_inside_the_higher_and_outside_the_lower_label(labels, thickness):
    inner, outer = paint.inner_contour(labels, thickness), paint.outer_contour(labels, thickness)
    high, wide = labels.shape
    for row in range(high):
        for column in range(wide):
            steps = [(d, 0) for d in range(-thickness, thickness + 1)] + [
                (0, d) for d in range(-thickness, thickness + 1)
            ]
            near = [
                labels[row + down, column + right]
                for down, right in steps
                if 0 <= row + down < high and 0 <= column + right < wide
            ]
            assert inner[row, column] == any(other < labels[row, column] for other in near)
            assert outer[row, column] == any(other > labels[row, column] for other in near)


def test_a_label_cut_off_by_the_edge_has_no_contour_there():
    assert not paint.inner_contour(np.ones((5, 5), np.uint8), 2).any()


def test_class_layer_is_translucent_inside_and_opaque_at_the_contour():
    labels = np.zeros((40, 40), np.uint8)
    labels[10:30, 10:30] = 1
    colours = paint.palette(2)
    layer = np.asarray(paint.classes_layer(labels, colours))
    assert layer.shape == (20, 20, 4)
    assert layer[0, 0, 3] == 0
    assert layer[10, 10].tolist() == pytest.approx([*colours[1].tolist(), 255 * paint.FILL], abs=1)
    assert layer[5, 10].tolist() == [*colours[1].tolist(), 255]


def test_contours_of_truth_and_prediction_are_both_seen_where_they_agree():
    labels = np.zeros((60, 60), np.uint8)
    labels[20:40, 20:40] = 1
    colours = paint.palette(2)
    layer = np.asarray(paint.contours_layer(labels, labels, colours))
    line = [tuple(pixel) for pixel in layer[15, 8:12].tolist()]
    assert (255, 255, 255, 255) in line  # just outside: the truth
    assert (*colours[1].tolist(), 255) in line  # just inside: the prediction
    assert layer[15, 15, 3] == 0
    alone = np.asarray(paint.contours_layer(labels, None, colours))
    assert (alone[..., 3] > 0).sum() < (layer[..., 3] > 0).sum()


def test_over_keeps_the_scan_where_nothing_lies_over_it():
    grey = Image.new("L", (4, 4), 77)
    layer = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    layer.putpixel((1, 1), (255, 0, 0, 255))
    painted = paint.over(grey, layer)
    assert painted.getpixel((0, 0)) == (77, 77, 77)
    assert painted.getpixel((1, 1)) == (255, 0, 0)
