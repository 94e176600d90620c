"""Geometry: sides, proportions, the point, the extent."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel import orientations

from trtforge.report.planes import (
    MARGIN_MM,
    NARROWEST_MM,
    PLANES,
    Grid,
    boxes,
    cut,
    frames,
    look,
    resampled_grey,
    resampled_labels,
    whole_frame,
)

CODES = ["".join(code) for axes in permutations(("RL", "AP", "SI")) for code in product(*axes)]


def in_axes(case, code):
    """The same case as a file with other axes has it."""
    turn = orientations.ornt_transform(orientations.axcodes2ornt("RAS"), orientations.axcodes2ornt(code))
    volumes = {
        name: np.ascontiguousarray(orientations.apply_orientation(getattr(case, name), turn))
        for name in ("scan", "truth", "prediction")
    }
    return replace(case, affine=case.affine @ orientations.inv_ornt_aff(turn, case.scan.shape), **volumes)


def shown(scene, plane, pixels=(90, 90)):
    """Grey values [rows, columns] of a whole plane through the scene's point."""
    values = cut(scene.scan, plane, scene.point[plane.cuts])
    frame = whole_frame(scene.grid, plane, pixels)
    return np.asarray(resampled_grey(values, frame, scene.grid.spacing, scene.case.window))


def rotation(degrees, axis):
    cos, sin = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    turn = np.eye(3)
    first, second = [other for other in range(3) if other != axis]
    turn[first, first], turn[first, second], turn[second, first], turn[second, second] = cos, -sin, sin, cos
    return turn


def marked(phantoms, at):
    """A case with one bright ball, which is also what is labelled, ``at`` mm in RAS."""
    shape, spacing = (51, 41, 31), (1.0, 1.5, 2.5)
    ball = phantoms.ball(shape, spacing, at, (6, 6, 6))
    labels = ball.astype(np.uint8)
    return phantoms.case(shape, spacing, scan=(ball * 100).astype(np.int16), truth=labels, prediction=labels)


def test_there_are_48_ways_to_store_a_volume():
    assert len(set(CODES)) == 48


@pytest.mark.parametrize("code", CODES)
def test_right_is_left_front_is_up_and_head_is_up_for_every_order_of_axes(phantoms, code):
    case = in_axes(marked(phantoms, (15, 21, 25)), code)
    assert "".join(orientations.aff2axcodes(case.affine)) == code
    scene = look(case)
    for plane in PLANES:  # right, front and head are all at the left or at the top
        rows, columns = np.nonzero(shown(scene, plane) > 128)
        assert columns.mean() < 40, plane.name
        assert rows.mean() < 40, plane.name
    assert [plane.edges for plane in PLANES] == [tuple("RLAP"), tuple("RLSI"), tuple("APSI")]
    assert [scene.grid.place(plane, scene.point[plane.cuts], scene.point) for plane in PLANES] == [
        "S 25 mm",
        "A 21 mm",
        "R 15 mm",
    ]


def test_every_order_of_axes_is_shown_the_same(phantoms):
    case = phantoms.case(shape=(20, 18, 16), spacing=(2.0, 3.0, 4.0))
    expected = look(case)
    for code in CODES:
        scene = look(in_axes(case, code))
        assert scene.point == expected.point
        assert scene.box == expected.box
        assert scene.grid.spacing == expected.grid.spacing == (2.0, 3.0, 4.0)
        np.testing.assert_allclose(scene.grid.affine, expected.grid.affine)
        np.testing.assert_array_equal(scene.scan, expected.scan)
        np.testing.assert_array_equal(scene.labels["prediction"], expected.labels["prediction"])


@settings(max_examples=40, deadline=None)
@given(
    code=st.sampled_from(CODES),
    degrees=st.floats(-30, 30),
    axis=st.integers(0, 2),
    side=st.tuples(*[st.sampled_from([-1, 1])] * 3),
)
def test_oblique_volumes_are_shown_by_their_closest_axes(phantoms, code, degrees, axis, side):
    case = in_axes(marked(phantoms, tuple(np.multiply(side, (15, 21, 25)))), code)
    affine = case.affine.copy()
    affine[:3] = rotation(degrees, axis) @ affine[:3]
    scene = look(replace(case, affine=affine))
    assert scene.grid.spacing == pytest.approx((1.0, 1.5, 2.5))
    for plane in PLANES:
        rows, columns = np.nonzero(shown(scene, plane) > 128)
        assert (columns.mean() < 45) == (side[plane.columns] > 0)
        assert (rows.mean() < 45) == (side[plane.rows] > 0)
    place = (scene.grid.affine @ [*scene.point, 1])[:3]
    np.testing.assert_allclose(place, rotation(degrees, axis) @ np.multiply(side, (15, 21, 25)), atol=2.5)


@pytest.mark.parametrize("code", ["RAS", "LPS", "SRA", "PIR"])
@pytest.mark.parametrize("spacing", [(0.8, 0.8, 5.0), (5.0, 0.8, 0.8), (3.0, 1.0, 2.0)])
def test_a_ball_is_round_whatever_the_voxels(phantoms, code, spacing):
    shape = tuple(round(120 / step) for step in spacing)
    labels = phantoms.ball(shape, spacing, (0, 0, 0), (40, 40, 40)).astype(np.uint8)
    case = in_axes(
        phantoms.case(shape, spacing, scan=(labels * 100).astype(np.int16), truth=labels, prediction=labels), code
    )
    scene = look(case)
    for frame in frames(scene, 480):
        plane = cut(scene.labels["truth"], frame.plane, scene.point[frame.plane.cuts])
        rows, columns = np.nonzero(resampled_labels(plane, frame, scene.grid.spacing))
        assert frame.pixels_per_mm == pytest.approx(frame.pixels[1] / frame.height, rel=0.01)
        for extent in (np.ptp(rows) + 1, np.ptp(columns) + 1):
            assert extent == pytest.approx(80 * frame.pixels_per_mm, abs=1.1 * max(spacing) * frame.pixels_per_mm)


def test_the_point_is_in_the_largest_part_of_the_lesion(phantoms):
    labels = np.zeros((40, 40, 40), np.uint8)
    labels[2:38, 2:38, 2:38] = 1
    labels[5:8, 5:8, 5:8] = 2
    labels[20:29, 10:15, 30:33] = 2  # larger
    scene = look(phantoms.case((40, 40, 40), (1, 1, 1), truth=labels, prediction=labels * 0))
    assert scene.point == (39 - 24, 39 - 12, 39 - 31)  # the display counts from right, front and head


def test_the_point_is_never_outside_the_lesion(phantoms):
    ring = phantoms.ball((40, 40, 9), (1, 1, 1), (0, 0, 0), (15, 15, 99))
    ring &= ~phantoms.ball((40, 40, 9), (1, 1, 1), (0, 0, 0), (10, 10, 99))
    labels = ring.astype(np.uint8)
    scene = look(phantoms.case((40, 40, 9), (1, 1, 1), truth=labels, prediction=labels))
    assert scene.labels["truth"][scene.point] == 1


def test_the_point_in_a_lesion_larger_than_is_searched_voxel_by_voxel(phantoms):
    shape = (260, 200, 180)
    labels = phantoms.ball(shape, (1, 1, 1), (20, -10, 5), (99, 85, 80)).astype(np.uint8)
    scene = look(phantoms.case(shape, (1, 1, 1), truth=labels, prediction=labels))
    assert (scene.grid.affine @ [*scene.point, 1])[:3] == pytest.approx((20, -10, 5), abs=2)


def test_the_point_falls_back_from_truth_to_prediction_to_reference_to_the_middle(phantoms):
    shape = (21, 21, 21)
    empty, one = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    one[3, 4, 5] = 1
    other = np.roll(one, 9, axis=0) * 2
    there = (17, 16, 15)
    arguments = {"shape": shape, "spacing": (1, 1, 1)}
    assert look(phantoms.case(**arguments, truth=one, prediction=other)).point == there
    assert look(phantoms.case(**arguments, truth=None, prediction=one, reference=other)).point == there
    assert look(phantoms.case(**arguments, truth=empty, prediction=one)).point == there
    assert look(phantoms.case(**arguments, truth=None, prediction=empty, reference=one)).point == there
    nothing = look(phantoms.case(**arguments, truth=None, prediction=empty))
    assert (nothing.point, nothing.box) == ((10, 10, 10), None)


@pytest.mark.parametrize("order", ["C", "F"])
def test_boxes_lie_tightly_around_each_label(order):
    labels = np.zeros((9, 8, 7), np.uint8, order=order)
    labels[1:4, 2:3, 5:7] = 3
    labels[8, 7, 0] = 1
    expected = {1: (8, 9, 7, 8, 0, 1), 3: (1, 4, 2, 3, 5, 7)}
    found = boxes(labels)
    assert {label: tuple(n for s in box for n in (s.start, s.stop)) for label, box in found.items()} == expected
    turned = boxes(labels[::-1].transpose(2, 0, 1))
    assert turned[3] == (slice(5, 7), slice(5, 8), slice(2, 3))


def test_frames_show_what_is_labelled_with_a_margin_at_one_scale(phantoms):
    shape, spacing = (300, 300, 100), (1.0, 1.0, 3.0)
    labels = phantoms.ball(shape, spacing, (60, -40, 30), (70, 30, 60)).astype(np.uint8)
    scene = look(phantoms.case(shape, spacing, truth=None, prediction=labels))
    made = frames(scene, 480)
    assert len({round(frame.pixels_per_mm, 1) for frame in made}) == 1
    for frame in made:
        assert frame.pixels[0] <= 480
        for axis, first, extent in (
            (frame.plane.columns, frame.left, frame.width),
            (frame.plane.rows, frame.top, frame.height),
        ):
            start = scene.box[axis].start * spacing[axis]
            stop = scene.box[axis].stop * spacing[axis]
            whole = scene.grid.size_mm[axis]
            assert first >= 0
            assert first + extent <= whole + 1e-6
            assert first <= max(start - MARGIN_MM, 0) + 1e-6
            assert first + extent >= min(stop + MARGIN_MM, whole) - 1e-6
            assert extent >= min(NARROWEST_MM, whole) - 1e-6
    axial = made[0]
    assert axial.width < 300  # closer than the whole slice


def test_grey_follows_the_window_and_survives_what_is_no_number():
    grid = Grid.of((4, 1, 1), np.diag([1.0, 1, 1, 1]))
    frame = whole_frame(grid, PLANES[0], (4, 1))
    values = np.array([[np.nan, np.inf, -np.inf, 50.0]])
    grey = np.asarray(resampled_grey(values, frame, grid.spacing, (0.0, 100.0)))
    assert grey.tolist() == [[0, 255, 0, 128]]
    huge = np.array([[1e300, -1e300, 0.0, 100.0]])
    grey = np.asarray(resampled_grey(huge, frame, grid.spacing, (0.0, 100.0)))
    assert grey.tolist() == [[255, 0, 0, 255]]
