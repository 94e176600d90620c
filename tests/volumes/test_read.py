"""Scans from NIfTI files: the voxels as stored, and an error with its place for every file that is not one scan."""

from __future__ import annotations

import gzip
import tracemalloc
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtforge.errors.base import TrtforgeError
from trtforge.errors.volume import (
    AffineSingular,
    LabelsGrid,
    LabelsInvalid,
    LabelsShape,
    NotAVolume,
    SpacingContradicted,
    SpacingImpossible,
    UnitUnsupported,
    VolumeMissing,
    VolumeUnreadable,
    VolumeUnsupported,
    VoxelsNotFinite,
    VoxelsUnsupported,
)
from trtforge.volumes.read import read_labels, read_volume
from trtforge.volumes.volume import Volume, displacement, same_grid

Array = np.ndarray[Any, Any]

AFFINE = np.array([[-0.7, 0, 0, 90], [0, 0.8, 0.1, -120], [0, -0.1, 2.5, 40], [0, 0, 0, 1]])
VOXELS = np.random.default_rng(0).integers(-1024, 3000, (5, 6, 7)).astype(np.int16)


def image(voxels: Array = VOXELS, affine: Array = AFFINE, kind: Any = nibabel.Nifti1Image) -> Any:
    made = kind(voxels, affine)
    made.header.set_xyzt_units("mm")
    return made


def saved(path: Path, made: Any) -> Path:
    nibabel.save(made, path)
    return path


def patched(path: Path, offset: int, data: bytes) -> Path:
    """An uncompressed file with some bytes of its header replaced."""
    content = bytearray(path.read_bytes())
    content[offset : offset + len(data)] = data
    path.write_bytes(content)
    return path


# -- what is read --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("name", ["scan.nii", "scan.nii.gz", "SCAN.NII.GZ"])
def test_voxels_and_their_places(tmp_path: Path, kind: Any, name: str) -> None:
    path = tmp_path / name
    made = image(kind=kind)
    path.write_bytes(gzip.compress(made.to_bytes()) if name.lower().endswith("gz") else made.to_bytes())
    scan = read_volume(path)
    np.testing.assert_array_equal(scan.voxels, VOXELS, strict=True)
    assert scan.voxels.flags.f_contiguous
    np.testing.assert_allclose(scan.affine, AFFINE, atol=1e-6)
    assert scan.affine.dtype == np.float64
    assert scan.spacing == tuple(float(edge) for edge in made.header.get_zooms())
    assert scan.name.lower() == "scan" and scan.path == path and scan.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "u4", "i8", "f4", "f8"])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("scaling", [None, (0.5, -1000.25), (1.0, 3.0)])
def test_types_and_scaling(tmp_path: Path, dtype: str, endianness: str, scaling: tuple[float, float] | None) -> None:
    stored = np.random.default_rng(1).integers(0, 100, (4, 3, 2)).astype(endianness + dtype)
    header = nibabel.Nifti1Header(endianness=endianness)
    made = nibabel.Nifti1Image(stored, AFFINE, header, dtype=stored.dtype)
    made.header.set_slope_inter(*(scaling or (None, None)))
    (tmp_path / "v.nii").write_bytes(made.to_bytes())
    scan = read_volume(tmp_path / "v.nii")
    wanted = nibabel.load(tmp_path / "v.nii").get_fdata()
    as_stored = scaling is None and dtype in ("u1", "i1", "i2", "u2")
    assert scan.voxels.dtype == np.dtype(dtype if as_stored else "f4")
    np.testing.assert_array_equal(scan.voxels, wanted.astype(scan.voxels.dtype))


def test_a_fourth_axis_of_one_is_none(tmp_path: Path) -> None:
    path = saved(tmp_path / "v.nii.gz", image(VOXELS[..., None]))
    np.testing.assert_array_equal(read_volume(path).voxels, VOXELS)


def test_more_voxels_than_one_chunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtforge.volumes.nifti._CHUNK", 64)
    path = saved(tmp_path / "v.nii.gz", image(VOXELS.astype(np.float64)))
    np.testing.assert_array_equal(read_volume(path).voxels, VOXELS)
    np.testing.assert_array_equal(
        read_labels(saved(tmp_path / "l.nii", image((VOXELS % 3).astype(np.uint8))), read_volume(path)), VOXELS % 3
    )


def test_contents_count_not_the_suffix(tmp_path: Path) -> None:
    (tmp_path / "a.nii").write_bytes(gzip.compress(image().to_bytes()))
    (tmp_path / "b.nii.gz").write_bytes(image().to_bytes())
    for name in ("a.nii", "b.nii.gz"):
        np.testing.assert_array_equal(read_volume(tmp_path / name).voxels, VOXELS)


def test_what_the_header_leaves_open_is_told(tmp_path: Path) -> None:
    made = nibabel.Nifti1Image(VOXELS, None)
    scan = read_volume(saved(tmp_path / "v.nii", made))
    assert len(scan.warnings) == 2
    assert "unit" in scan.warnings[0] and "mm" in scan.warnings[0]
    assert "sform_code and qform_code are 0" in scan.warnings[1]
    assert (np.diag(scan.affine)[:3] == [-1, 1, 1]).all()


def test_names_without_their_format(tmp_path: Path) -> None:
    for name, told in [("case_1.nii.gz", "case_1"), ("a.b.nii", "a.b"), ("x.mha", "x")]:
        assert Volume(VOXELS, AFFINE, (1, 1, 1), Path("folder") / name).name == told
    assert Volume(VOXELS, AFFINE, (1, 1, 1), tmp_path).name == tmp_path.name


def test_a_file_of_doubles_is_never_in_memory_as_doubles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(tmp_path / "v.nii.gz", image(np.zeros((100, 100, 100))))
    monkeypatch.setattr("trtforge.volumes.nifti._CHUNK", 1 << 14)
    read_volume(path)  # imports
    tracemalloc.start()
    scan = read_volume(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < scan.voxels.nbytes + (2 << 20)


# -- what is refused -----------------------------------------------------------------------------------------------


def refused(kind: type[TrtforgeError], path: Path, *words: str) -> TrtforgeError:
    with pytest.raises(kind) as caught:
        read_volume(path)
    error = caught.value
    assert error.where == str(path) and error.next and error.exit_code == 12
    for word in words:
        assert word in str(error)
    return error


def test_a_missing_file(tmp_path: Path) -> None:
    refused(VolumeMissing, tmp_path / "none.nii.gz", "no such file")


@pytest.mark.parametrize("name", ["slice.dcm", "photo.png", "scan.hdr", "scan", "scan.gz"])
def test_other_kinds_of_files(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    error = refused(VolumeUnsupported, tmp_path / name, ".nii.gz", ".mha")
    assert (str(tmp_path) in error.next) == (name == "slice.dcm")


@pytest.mark.parametrize("name", ["v.nii", "v.nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.95, 0.9999])
def test_truncated_files(tmp_path: Path, name: str, keep: float) -> None:
    path = saved(tmp_path / name, image(np.random.default_rng(0).standard_normal((40, 40, 40)).astype(np.float32)))
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    error = refused(VolumeUnreadable, path, f"(file of {int(keep * len(data))} bytes)")
    if name == "v.nii" and keep > 0.1:
        assert "of 64000 voxels" in error.why


def test_one_flipped_bit_of_a_gz_is_found(tmp_path: Path) -> None:
    path = saved(tmp_path / "v.nii.gz", image(np.random.default_rng(0).random((20, 20, 20), np.float32)))
    data = bytearray(path.read_bytes())
    data[-4000] ^= 1
    path.write_bytes(data)
    refused(VolumeUnreadable, path)


def test_a_file_that_is_no_nifti(tmp_path: Path) -> None:
    (tmp_path / "v.nii").write_bytes(b"<html>not found</html>" * 100)
    refused(VolumeUnreadable, tmp_path / "v.nii", "does not begin with a header of NIfTI")


def test_the_header_of_a_pair(tmp_path: Path) -> None:
    path = patched(saved(tmp_path / "v.nii", image()), 344, b"ni1\0")
    refused(VolumeUnreadable, path, "no NIfTI in one file")


def test_a_header_that_claims_a_petabyte(tmp_path: Path) -> None:
    path = patched(saved(tmp_path / "v.nii", image()), 42, np.array([32767] * 3, "<i2").tobytes())
    refused(VolumeUnreadable, path)


@pytest.mark.parametrize("shape", [(5,), (5, 6), (5, 6, 7, 2), (5, 6, 7, 1, 3)])
def test_other_numbers_of_axes(tmp_path: Path, shape: tuple[int, ...]) -> None:
    path = saved(tmp_path / "v.nii", image(np.zeros(shape, np.int16)))
    error = refused(NotAVolume, path, " x ".join(map(str, shape)))
    assert ("nib-roi" in error.next) == (shape == (5, 6, 7, 2))


@pytest.mark.parametrize("length", [0, -3])
def test_an_axis_without_voxels(tmp_path: Path, length: int) -> None:
    path = patched(saved(tmp_path / "v.nii", image()), 44, np.array(length, "<i2").tobytes())
    refused(NotAVolume, path, f"5 x {length} x 7")


def test_complex_and_coloured_voxels(tmp_path: Path) -> None:
    refused(VoxelsUnsupported, saved(tmp_path / "c.nii", image(VOXELS.astype(np.complex64))), "complex")
    colours = np.zeros((5, 6, 7), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    refused(VoxelsUnsupported, saved(tmp_path / "rgb.nii", image(colours)), "colours", "R, G, B")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
def test_voxels_that_are_no_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: float) -> None:
    monkeypatch.setattr("trtforge.volumes.nifti._CHUNK", 50)
    voxels = np.zeros((5, 6, 7))
    voxels[3, 4, 5] = voxels[4, 5, 5] = value
    error = refused(VoxelsNotFinite, saved(tmp_path / "v.nii", image(voxels)), "first at index [3, 4, 5] of [5, 6, 7]")
    assert f"{value:.6g}" in error.what


@pytest.mark.parametrize("edge", [0.0, -0.8, np.nan, np.inf])
def test_impossible_spacing(tmp_path: Path, edge: float) -> None:
    path = patched(saved(tmp_path / "v.nii", image()), 84, np.array(edge, "<f4").tobytes())
    refused(SpacingImpossible, path, f"{edge:.4g}")


def test_spacing_against_the_affine(tmp_path: Path) -> None:
    edges = np.linalg.norm(AFFINE[:3, :3], axis=0)
    for factor, good in [(1.009, True), (0.991, True), (1.012, False), (0.985, False)]:
        path = saved(tmp_path / "v.nii", image())
        patched(path, 88, np.array(edges[2] * factor, "<f4").tobytes())
        if good:
            assert read_volume(path).spacing[2] == float(np.float32(edges[2] * factor))
        else:
            refused(SpacingContradicted, path, f"x {edges[2] * factor:.4g} mm, the affine", f"x {edges[2]:.4g} mm\n")


@pytest.mark.parametrize(("unit", "word"), [(1, "metre"), (3, "micrometre"), (5, "no unit")])
def test_other_units(tmp_path: Path, unit: int, word: str) -> None:
    path = patched(saved(tmp_path / "v.nii", image()), 123, bytes([unit]))
    refused(UnitUnsupported, path, word, "set_xyzt_units('mm')")


@pytest.mark.parametrize(
    "rows",
    [
        [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[1, 1, 0, 0], [0, 0, 0, 0], [0, 0, 1, 0]],
        [[1, 0, np.nan, 0], [0, 1, 0, 0], [0, 0, 1, 0]],
        [[1, 0, 0, np.inf], [0, 1, 0, 0], [0, 0, 1, 0]],
    ],
)
def test_singular_affines(tmp_path: Path, rows: list[list[float]]) -> None:
    path = saved(tmp_path / "v.nii", image(affine=np.eye(4)))
    refused(AffineSingular, patched(path, 280, np.array(rows, "<f4").tobytes()), "rows")


# -- truth ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path: Path) -> Volume:
    return read_volume(saved(tmp_path / "scan.nii.gz", image()))


def labels_of(scan: Volume, values: Array, path: Path, affine: Array = AFFINE) -> Array:
    return read_labels(saved(path, image(values, affine)), scan)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.float32, np.float64])
def test_labels_of_any_type(tmp_path: Path, scan: Volume, dtype: Any) -> None:
    values = np.random.default_rng(0).integers(0, 256 if dtype != np.uint8 else 200, (5, 6, 7))
    labels = labels_of(scan, values.astype(dtype), tmp_path / "l.nii.gz")
    np.testing.assert_array_equal(labels, values.astype(np.uint8), strict=True)


def test_labels_of_another_shape(tmp_path: Path, scan: Volume) -> None:
    with pytest.raises(LabelsShape) as caught:
        labels_of(scan, np.zeros((6, 5, 7), np.uint8), tmp_path / "l.nii")
    assert "6 x 5 x 7" in caught.value.why and "5 x 6 x 7" in caught.value.why


def test_labels_on_another_grid(tmp_path: Path, scan: Volume) -> None:
    near = AFFINE + np.eye(4, k=3) * 0.03  # mm along the first axis, 4 % of the shortest edge
    assert labels_of(scan, np.zeros((5, 6, 7), np.uint8), tmp_path / "l.nii", near).shape == (5, 6, 7)
    for affine in (AFFINE + np.eye(4, k=3) * 0.04, AFFINE @ np.diag([-1, 1, 1, 1]), AFFINE @ np.diag([1, 1, 1.03, 1])):
        with pytest.raises(LabelsGrid) as caught:
            labels_of(scan, np.zeros((5, 6, 7), np.uint8), tmp_path / "l.nii", affine)
        assert "mm from the same one of" in caught.value.why and str(scan.path) in caught.value.why


@pytest.mark.parametrize("value", [-1, 256, 0.5, np.nan, np.inf])
def test_values_that_are_no_labels(tmp_path: Path, scan: Volume, value: float) -> None:
    values = np.zeros((5, 6, 7))
    values[1, 2, 3] = value
    with pytest.raises(LabelsInvalid) as caught:
        labels_of(scan, values.astype(np.int16) if float(value).is_integer() else values, tmp_path / "l.nii")
    assert "[1, 2, 3]" in caught.value.why and caught.value.what.startswith(f"{value:.6g} ")


def test_grids() -> None:
    one = Volume(VOXELS, AFFINE, (1, 1, 1), Path("a.nii"))
    shifted = Volume(VOXELS, AFFINE + np.eye(4, k=3) * 3, (1, 1, 1), Path("b.nii"))
    assert same_grid(one, one) and not same_grid(one, shifted)
    assert displacement(one, shifted) == pytest.approx(3)
    assert not same_grid(one, Volume(VOXELS[:4], AFFINE, (1, 1, 1), Path("c.nii")))


# -- damage --------------------------------------------------------------------------------------------------------

SMALL = image(VOXELS[:3, :4, :5].astype(np.float32)).to_bytes()


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_an_error_or_a_volume(tmp_path: Path, data: st.DataObject) -> None:
    compressed = data.draw(st.booleans())
    content = bytearray(gzip.compress(SMALL) if compressed else SMALL)
    where = st.integers(0, min(len(content), 360) - 1) if data.draw(st.booleans()) else st.integers(0, len(content) - 1)
    for position in data.draw(st.lists(where, max_size=6)):
        content[position] = data.draw(st.integers(0, 255))
    del content[data.draw(st.just(len(content)) | st.integers(0, len(content))) :]
    path = tmp_path / ("v.nii.gz" if compressed else "v.nii")
    path.write_bytes(content)
    try:
        scan = read_volume(path)
    except TrtforgeError as error:
        assert error.code.startswith("VOL")
        return
    assert np.isfinite(scan.voxels.astype(np.float64)).all() and min(scan.shape) > 0
    assert np.isfinite(np.linalg.inv(scan.affine)).all() and min(scan.spacing) > 0
    if compressed:
        np.testing.assert_array_equal(scan.voxels, VOXELS[:3, :4, :5])
    try:
        read_labels(path, scan)
    except TrtforgeError as error:
        assert error.code.startswith("VOL2")


# -- two forms of the affine ---------------------------------------------------------------------------------------


UPRIGHT = np.array([[-0.7, 0, 0, 90], [0, 0.8, 0, -120], [0, 0, 2.5, 40], [0, 0, 0, 1]])
"""Without AFFINE's shear, which a qform cannot state."""


def two_forms(path: Path, sform: Array, qform: Array, codes: tuple[int, int] = (1, 1)) -> Path:
    made = image(affine=sform)
    made.header.set_sform(sform, codes[0])
    made.header.set_qform(qform, codes[1])
    path.write_bytes(made.to_bytes())
    return path


def turned(degrees: float) -> Array:
    """A rotation about the middle of the scan, so that the middle stays."""
    angle = np.radians(degrees)
    turn = np.eye(4)
    turn[:2, :2] = [[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]
    middle = np.eye(4)
    middle[:3, 3] = (UPRIGHT @ [2, 2.5, 3, 1])[:3]
    rotated: Array = middle @ turn @ np.linalg.inv(middle) @ UPRIGHT
    return rotated


def moved(millimetres: float) -> Array:
    affine = UPRIGHT.copy()
    affine[0, 3] += millimetres
    return affine


@pytest.mark.parametrize(
    ("qform", "told"),
    [
        (turned(0.8), ""),
        (turned(1.3), "by 1.3 degrees and "),
        (turned(90), "by 90 degrees"),
        (moved(0.3), ""),
        (moved(0.4), "and 0.4 mm at the middle"),
    ],
)
def test_forms_that_disagree_are_told(tmp_path: Path, qform: Array, told: str) -> None:
    scan = read_volume(two_forms(tmp_path / "v.nii", UPRIGHT, qform))
    assert len(scan.warnings) == bool(told)
    if told:
        assert told in scan.warnings[0] and scan.warnings[0].endswith("labels and directions go by the sform")
    np.testing.assert_allclose(scan.affine, UPRIGHT, atol=1e-5)


@pytest.mark.parametrize("codes", [(1, 0), (0, 1)])
def test_a_form_that_is_not_stated_disagrees_with_nothing(tmp_path: Path, codes: tuple[int, int]) -> None:
    assert read_volume(two_forms(tmp_path / "v.nii", UPRIGHT, turned(30), codes)).warnings == ()


def test_a_qform_that_is_no_rotation_is_told(tmp_path: Path) -> None:
    quaternion = np.full(3, 2, np.float32).tobytes()
    path = patched(two_forms(tmp_path / "v.nii", UPRIGHT, UPRIGHT), 256, quaternion)
    scan = read_volume(path)
    assert scan.warnings == ("the header's qform cannot be read; labels and directions go by the sform",)
