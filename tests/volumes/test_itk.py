"""NRRD, MetaImage and DICOM: the same scan as in NIfTI, and the same errors."""

from __future__ import annotations

import locale
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from trtforge.errors.environment import MissingPackage
from trtforge.errors.volume import (
    NotAVolume,
    SeriesUnclear,
    VolumeUnreadable,
    VoxelsNotFinite,
    VoxelsUnsupported,
)
from trtforge.volumes.read import read_labels, read_volume
from trtforge.volumes.volume import Volume, same_grid
from trtforge.volumes.write import check_writable, write_labels, write_probabilities

Array = np.ndarray[Any, Any]

VOXELS = np.random.default_rng(0).integers(-1024, 3000, (7, 6, 5)).astype(np.int16)
LABELS = (VOXELS % 3).astype(np.uint8)
FILES = ["scan.nrrd", "scan.nhdr", "scan.mha", "scan.mhd", "SCAN.NRRD"]


@pytest.fixture(scope="module")
def itk() -> Any:
    return pytest.importorskip("SimpleITK")


def tilted(itk: Any, voxels: Array = VOXELS) -> Any:
    """A scan with axes between the patient's: [I, J, K] to an image, whose arrays are [K, J, I]."""
    made = itk.GetImageFromArray(np.ascontiguousarray(voxels.T))
    turn = np.array([[0.8, -0.6, 0], [0.6, 0.8, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, 0.6, 0.8], [0, -0.8, 0.6]])
    made.SetDirection(turn.ravel().tolist())
    made.SetSpacing((0.7, 0.8, 2.5))
    made.SetOrigin((-10.0, 20.0, 30.5))
    return made


def like_nifti(itk: Any, made: Any, folder: Path) -> Volume:
    """The image as NIfTI, written by ITK: the judge of axes and directions."""
    itk.WriteImage(made, str(folder / "judge.nii.gz"))
    return read_volume(folder / "judge.nii.gz")


# -- files ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_the_scan_that_its_nifti_is(tmp_path: Path, itk: Any, name: str) -> None:
    made = tilted(itk)
    itk.WriteImage(made, str(tmp_path / name), useCompression=True)
    scan, judge = read_volume(tmp_path / name), like_nifti(itk, made, tmp_path)
    np.testing.assert_array_equal(scan.voxels, VOXELS, strict=True)
    np.testing.assert_array_equal(judge.voxels, VOXELS, strict=True)
    np.testing.assert_allclose(scan.affine, judge.affine, atol=1e-5)
    assert scan.spacing == (0.7, 0.8, 2.5) and same_grid(scan, judge)
    assert scan.name.lower() == "scan" and scan.template is None and scan.warnings == ()


@pytest.mark.parametrize("dtype", ["u1", "i1", "u2", "i4", "f4", "f8"])
def test_types_are_those_of_nifti(tmp_path: Path, itk: Any, dtype: str) -> None:
    voxels = np.abs(VOXELS % 100).astype(dtype)
    itk.WriteImage(tilted(itk, voxels), str(tmp_path / "v.nrrd"))
    read = read_volume(tmp_path / "v.nrrd").voxels
    assert read.dtype == (dtype if dtype in ("u1", "i1", "u2") else "f4")
    np.testing.assert_array_equal(read, voxels)


def test_other_numbers_of_axes_and_components(tmp_path: Path, itk: Any) -> None:
    path = tmp_path / "v.nrrd"
    itk.WriteImage(itk.GetImageFromArray(np.zeros((4, 5), np.int16)), str(path))
    with pytest.raises(NotAVolume):
        read_volume(path)
    itk.WriteImage(itk.GetImageFromArray(np.zeros((2, 3, 4, 5), np.int16), isVector=False), str(path))
    with pytest.raises(NotAVolume, match="three-dimensional"):
        read_volume(path)
    itk.WriteImage(itk.GetImageFromArray(np.zeros((1, 3, 4, 5), np.int16), isVector=False), str(path))
    assert read_volume(path).shape == (5, 4, 3)
    itk.WriteImage(itk.GetImageFromArray(np.zeros((3, 4, 5, 3), np.uint8), isVector=True), str(path))
    with pytest.raises(VoxelsUnsupported) as caught:
        read_volume(path)
    assert "3 components" in caught.value.why


def test_voxels_that_are_no_numbers(tmp_path: Path, itk: Any) -> None:
    voxels = VOXELS.astype(np.float32)
    voxels[1, 2, 3] = np.nan
    itk.WriteImage(tilted(itk, voxels), str(tmp_path / "v.mha"))
    with pytest.raises(VoxelsNotFinite) as caught:
        read_volume(tmp_path / "v.mha")
    assert "[1, 2, 3] of [7, 6, 5]" in caught.value.why


@pytest.mark.parametrize("name", ["v.nrrd", "v.mha"])
@pytest.mark.parametrize("keep", [0.0, 0.05, 0.5, 0.95])
def test_truncated_files(tmp_path: Path, itk: Any, name: str, keep: float) -> None:
    path = tmp_path / name
    itk.WriteImage(tilted(itk), str(path), useCompression=True)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(VolumeUnreadable) as caught:
        read_volume(path)
    assert caught.value.where == str(path)
    assert "0x" not in caught.value.why and str(tmp_path) not in caught.value.why


def test_truth_in_one_format_for_a_scan_in_another(tmp_path: Path, itk: Any) -> None:
    scan = like_nifti(itk, tilted(itk), tmp_path)
    itk.WriteImage(tilted(itk, LABELS), str(tmp_path / "truth.nrrd"))
    np.testing.assert_array_equal(read_labels(tmp_path / "truth.nrrd", scan), LABELS, strict=True)


# -- DICOM ---------------------------------------------------------------------------------------------------------


def write_series(itk: Any, folder: Path, places: list[float], uid: str = "1.2.3.4") -> None:
    """Slices of the scan along its last axis, HU by rescaling, file names in another order than the slices'."""
    folder.mkdir(exist_ok=True)
    before = locale.setlocale(locale.LC_ALL)
    writer = itk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    for index, place in enumerate(places):
        piece = itk.GetImageFromArray(np.ascontiguousarray(VOXELS[:, :, index].T))
        piece.SetSpacing((0.7, 0.8))
        for tag, value in {
            "0008|0060": "CT",
            "0020|000d": "1.2.3",
            "0020|000e": uid,
            "0020|0013": str(index + 1),
            "0020|0032": f"-10\\20\\{place}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|1052": "-1024",
            "0028|1053": "1",
        }.items():
            piece.SetMetaData(tag, value)
        writer.SetFileName(str(folder / f"{uid}-{9 - index}.dcm"))
        writer.Execute(piece)
    locale.setlocale(locale.LC_ALL, before)  # writing a place in the patient leaves "C"


def test_a_folder_with_a_series(tmp_path: Path, itk: Any) -> None:
    write_series(itk, tmp_path / "ct", [-7.5, -5.0, -2.5, 0.0, 2.5])
    before = locale.setlocale(locale.LC_ALL)
    scan = read_volume(tmp_path / "ct")
    assert locale.setlocale(locale.LC_ALL) == before
    np.testing.assert_array_equal(scan.voxels, VOXELS)
    np.testing.assert_allclose(
        scan.affine, [[-0.7, 0, 0, 10], [0, -0.8, 0, -20], [0, 0, 2.5, -7.5], [0, 0, 0, 1]], atol=1e-6
    )
    assert scan.spacing == pytest.approx((0.7, 0.8, 2.5)) and scan.name == "ct"
    write_labels(tmp_path / "l.nii.gz", LABELS, scan)
    assert same_grid(read_volume(tmp_path / "l.nii.gz"), scan)


def test_folders_that_are_not_one_series(tmp_path: Path, itk: Any) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("hello")
    with pytest.raises(SeriesUnclear) as caught:
        read_volume(tmp_path / "empty")
    assert "no DICOM file" in caught.value.why

    write_series(itk, tmp_path / "two", [0.0, 1.0, 2.0], "1.2.3.4")
    write_series(itk, tmp_path / "two", [0.0, 1.0, 2.0], "1.2.3.5")
    with pytest.raises(SeriesUnclear) as caught:
        read_volume(tmp_path / "two")
    assert "1.2.3.4" in caught.value.why and "1.2.3.5" in caught.value.why

    write_series(itk, tmp_path / "gap", [0.0, 2.5, 7.5, 10.0, 12.5])
    with pytest.raises(SeriesUnclear, match="not evenly spaced") as caught:
        read_volume(tmp_path / "gap")
    assert caught.value.why == "from slice 2 of 5 to the next it is 5 mm, usually 2.5 mm"
    write_series(itk, tmp_path / "near", [0.0, 2.5, 5.02, 7.5, 10.0])
    assert read_volume(tmp_path / "near").shape == (7, 6, 5)


# -- writing -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["l.nrrd", "l.mha"])
def test_results(tmp_path: Path, itk: Any, name: str) -> None:
    scan = like_nifti(itk, tilted(itk), tmp_path)
    write_labels(tmp_path / name, LABELS, scan, classes=("background", "kidney", "tumour"))
    np.testing.assert_array_equal(read_labels(tmp_path / name, scan), LABELS, strict=True)
    written = itk.ReadImage(str(tmp_path / name))
    assert written.GetMetaData("labels") == "0 background, 1 kidney, 2 tumour"
    np.testing.assert_allclose(written.GetDirection(), tilted(itk).GetDirection(), atol=1e-6)
    first = (tmp_path / name).read_bytes()
    write_labels(tmp_path / name, LABELS, scan, classes=("background", "kidney", "tumour"))
    assert (tmp_path / name).read_bytes() == first

    shares = np.random.default_rng(0).random((3, *scan.shape), np.float32)
    write_probabilities(tmp_path / name, shares, scan)
    written = itk.ReadImage(str(tmp_path / name))
    assert written.GetNumberOfComponentsPerPixel() == 3
    np.testing.assert_array_equal(itk.GetArrayFromImage(written), shares.transpose(3, 2, 1, 0))
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["judge.nii.gz", name])


def test_any_case_of_suffix(tmp_path: Path, itk: Any) -> None:
    scan = like_nifti(itk, tilted(itk), tmp_path)
    for name in ("L.MHA", "L.Nrrd"):
        write_labels(tmp_path / name, LABELS, scan)
        np.testing.assert_array_equal(read_labels(tmp_path / name, scan), LABELS)


def test_itk_reads_labels_with_names(tmp_path: Path, itk: Any) -> None:
    scan = like_nifti(itk, tilted(itk), tmp_path)
    write_labels(tmp_path / "l.nii.gz", LABELS, scan, classes=("background", "kidney"))
    written = itk.ReadImage(str(tmp_path / "l.nii.gz"))
    np.testing.assert_array_equal(itk.GetArrayFromImage(written), LABELS.T)
    np.testing.assert_allclose(written.GetOrigin(), (-10.0, 20.0, 30.5), atol=1e-5)


# -- without SimpleITK ---------------------------------------------------------------------------------------------


def test_without_the_package_its_files_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    (tmp_path / "scan.nrrd").write_bytes(b"NRRD0004\n")
    for path in (tmp_path / "scan.nrrd", tmp_path):
        with pytest.raises(MissingPackage) as caught:
            read_volume(path)
        assert caught.value.next == "pip install 'trtforge[itk]'" and caught.value.where == str(path)
    with pytest.raises(MissingPackage):
        check_writable(tmp_path / "labels.mha")
    nibabel.save(nibabel.Nifti1Image(VOXELS, np.eye(4)), tmp_path / "scan.nii")
    assert read_volume(tmp_path / "scan.nii").shape == (7, 6, 5)
