"""The picture: its rows, the colours at known voxels, odd volumes, and equal bytes for equal cases."""

from __future__ import annotations

import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageColor

from trtforge.report import paint
from trtforge.report.panels import CELL, EDGE, GAP, STRIP, WIDTH, draw_panels
from trtforge.report.picture import draw_picture, write_picture
from trtforge.report.planes import PLANES, frames, look


class Panels:
    """The drawn panels of a case, and the pixel at which a voxel (file's axes: RAS) is drawn."""

    def __init__(self, case):
        self.scene = look(case)
        self.image = draw_panels(self.scene)
        self.frames = frames(self.scene, CELL)
        self.high = max(frame.pixels[1] for frame in self.frames)
        self.rows = (self.image.height - EDGE) // (STRIP + self.high)

    def at(self, row, voxel, plane=0):
        """The colour of the middle of a voxel, which must lie in the plane."""
        shown = [count - 1 - at for count, at in zip(self.scene.grid.shape, voxel, strict=True)]  # RAS to LPI
        frame = self.frames[plane]
        assert shown[frame.plane.cuts] == self.scene.point[frame.plane.cuts], "not in this plane"
        spacing = self.scene.grid.spacing
        x = ((shown[frame.plane.columns] + 0.5) * spacing[frame.plane.columns] - frame.left) * frame.pixels_per_mm
        y = ((shown[frame.plane.rows] + 0.5) * spacing[frame.plane.rows] - frame.top) * frame.pixels_per_mm
        left = EDGE + plane * (CELL + GAP) + (CELL - frame.pixels[0]) // 2
        top = row * (STRIP + self.high) + STRIP + (self.high - frame.pixels[1]) // 2
        return self.image.getpixel((round(left + x), round(top + y)))


def blended(colour, opacity, grey=0):
    red, green, blue = ImageColor.getrgb(colour) if isinstance(colour, str) else colour
    return tuple(opacity * part + (1 - opacity) * grey for part in (red, green, blue))


def black(phantoms, truth, prediction, **changes):
    shape = truth.shape
    return phantoms.case(
        shape, (4, 4, 4), scan=np.zeros(shape, np.int16), truth=truth, prediction=prediction, **changes
    )


def blocks(phantoms, **changes):
    """Every kind of difference in blocks of 6 voxels, in one axial plane, over a black scan."""
    shape = (40, 40, 11)
    truth, prediction = np.zeros(shape, np.uint8), np.zeros(shape, np.uint8)
    truth[4:10, 16:22, 3:8] = prediction[4:10, 16:22, 3:8] = 1  # agreement
    truth[12:18, 16:22, 3:8] = 1  # missed
    prediction[20:26, 16:22, 3:8] = 1  # too much
    truth[28:34, 16:22, 3:8], prediction[28:34, 16:22, 3:8] = 2, 1  # other class
    return black(phantoms, truth, prediction, **changes)


def test_differences_have_their_colours_at_known_voxels(phantoms):
    panels = Panels(blocks(phantoms))
    assert panels.rows == 4
    for x, code in ((7, paint.AGREEMENT), (15, paint.MISSED), (23, paint.TOO_MUCH), (31, paint.OTHER_CLASS)):
        _, colour, opacity = paint.DIFFERENCES[code]
        for plane in (0, 1):
            voxel = (x, 19, 5)
            assert panels.at(3, voxel, plane) == pytest.approx(blended(colour, opacity), abs=2)
    assert panels.at(3, (11, 19, 5)) == (0, 0, 0)


def test_truth_and_prediction_have_rows_of_their_own(phantoms):
    panels = Panels(blocks(phantoms))
    colours = paint.palette(3).tolist()
    for row, shown in ((1, {7: 1, 15: 1, 23: 0, 31: 2}), (2, {7: 1, 15: 0, 23: 1, 31: 1})):
        for x, label in shown.items():
            colour = blended(colours[label], paint.FILL) if label else (0, 0, 0)
            assert panels.at(row, (x, 19, 5)) == pytest.approx(colour, abs=2)


def test_contours_leave_the_inside_free(phantoms):
    panels = Panels(blocks(phantoms))
    for x in (7, 15, 23, 31):
        assert panels.at(0, (x, 18, 5)) == (0, 0, 0)
    colours = {pixel for _, pixel in panels.image.crop((0, 0, WIDTH, STRIP + panels.high)).getcolors(1 << 20)}
    assert tuple(paint.palette(3)[1].tolist()) in colours
    assert (255, 255, 255) in colours


def test_the_patients_right_is_on_the_left_of_the_picture(phantoms):
    case = phantoms.case()  # the tumour is to the patient's left
    scene = look(case)
    panels = np.asarray(draw_panels(scene), float)
    frame = frames(scene, CELL)[0]
    top = STRIP + max(made.pixels[1] for made in frames(scene, CELL)) + STRIP
    axial = panels[top : top + frame.pixels[1], EDGE : EDGE + CELL]
    tumour = blended(paint.palette(3)[2].tolist(), paint.FILL, 90 * 2.55)
    columns = np.nonzero(np.abs(axial - tumour).max(axis=2) < 12)[1]
    assert len(columns) > 100
    assert columns.mean() > CELL / 2 + 20


@pytest.mark.parametrize(
    ("truth", "reference", "rows"),
    [(True, True, 5), (True, False, 4), (False, True, 4), (False, False, 2)],
)
def test_rows_that_have_nothing_to_show_are_left_out(phantoms, truth, reference, rows):
    case = phantoms.case()
    case = replace(case, truth=case.truth if truth else None, reference=case.truth if reference else None)
    assert Panels(case).rows == rows


def test_without_truth_the_differences_are_those_from_the_fp32_model(phantoms):
    case = blocks(phantoms)
    panels = Panels(replace(case, truth=None, reference=case.truth, dice={}))
    _, colour, opacity = paint.DIFFERENCES[paint.MISSED]
    assert panels.at(3, (15, 19, 5)) == pytest.approx(blended(colour, opacity), abs=2)


def test_equal_cases_give_equal_bytes_whatever_their_memory(phantoms, tmp_path):
    case = phantoms.case()
    other = replace(
        case,
        scan=np.asfortranarray(case.scan),
        truth=np.asfortranarray(case.truth),
        prediction=np.ascontiguousarray(case.prediction[::-1])[::-1],
    )
    write_picture(tmp_path / "a.png", case)
    write_picture(tmp_path / "b.png", other)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    with Image.open(tmp_path / "a.png") as image:
        assert (image.format, image.mode, image.width) == ("PNG", "RGB", WIDTH)
        assert not image.info
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_the_header_changes_with_what_it_says(phantoms):
    case = phantoms.case()
    first = draw_picture(case).tobytes()
    for change in ({"name": "other"}, {"facts": {"engine": "net/2"}}, {"dice": {}}, {"classes": ("bg", "a", "b")}):
        assert draw_picture(replace(case, **change)).tobytes() != first


@pytest.mark.parametrize("shape", [(5, 7, 9), (1, 1, 1), (1, 40, 3), (300, 2, 2)])
@pytest.mark.parametrize("labelled", [True, False])
def test_small_and_flat_volumes(phantoms, shape, labelled):
    labels = np.full(shape, labelled, np.uint8)
    image = draw_picture(
        phantoms.case(shape, (1, 1, 1), scan=np.ones(shape, np.float32), truth=labels, prediction=labels)
    )
    assert image.width == WIDTH
    assert image.height < 3200


def test_the_largest_label_of_many_classes(phantoms):
    classes = ("background", *(f"organ {number}" for number in range(1, 256)))
    labels = np.zeros((16, 16, 16), np.uint8)
    labels.flat[:256] = range(256)
    case = phantoms.case((16, 16, 16), (3, 3, 3), scan=labels.astype(np.int16), classes=classes, truth=labels, dice={})
    assert draw_picture(replace(case, prediction=labels)).height < 7000


def test_background_alone(phantoms):
    labels = np.zeros((8, 8, 8), np.uint8)
    case = phantoms.case((8, 8, 8), classes=("background",), truth=labels, prediction=labels, dice={}, facts={})
    assert draw_picture(case).width == WIDTH


def test_names_of_any_length_and_script(phantoms):
    case = phantoms.case(
        name="患者 Prüfung \n" * 40,
        classes=("", "läsion" * 40, "腫瘍"),
        facts={"k" * 300: "v" * 300, "": ""},
        dice={"t" * 90: {"腫瘍": 0.5}, "a": {}, "b": {}, "c": {}, "d": {}},
    )
    assert draw_picture(case).width == WIDTH


def test_infinite_and_missing_values_are_shown_without_a_warning(phantoms, recwarn):
    scan = np.full((40, 36, 32), np.nan)
    scan[::2], scan[1], scan[3] = np.inf, 1e300, -np.inf
    draw_picture(phantoms.case(scan=scan))
    assert not recwarn.list


def test_a_large_scan_is_read_in_slices_only(phantoms):
    shape = (512, 512, 200)
    plane = np.random.default_rng(0).integers(-100, 300, (512, 512, 1)).astype(np.int16)
    labels = np.zeros(shape, np.uint8, order="F")
    labels[100:300, 150:350, 60:140] = 1
    labels[180:230, 220:280, 80:110] = 2
    case = phantoms.case(shape, (0.8, 0.8, 2.5), scan=np.broadcast_to(plane, shape), truth=labels, prediction=labels)
    draw_picture(phantoms.case())  # fonts and imports
    tracemalloc.start()
    started = time.process_time()
    draw_picture(case)
    seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * np.prod(shape)  # bytes: not even an int16 copy
    assert seconds < 6  # of CPU; under one without tracemalloc


def test_nothing_is_left_where_it_cannot_be_written(phantoms, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError):
        write_picture(tmp_path / "file" / "a.png", phantoms.case())
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_three_planes_cut_three_axes():
    assert [plane.cuts for plane in PLANES] == [2, 1, 0]
    assert all({plane.cuts, plane.columns, plane.rows} == {0, 1, 2} for plane in PLANES)
