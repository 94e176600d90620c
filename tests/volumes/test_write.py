"""Results on the grid of their scan: the header stays, the values are new, and a file is whole or absent."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.nifti1 import Nifti1Extension

from trtforge.errors.environment import FileRefused
from trtforge.errors.volume import OutputUnsupported
from trtforge.volumes.read import read_labels, read_volume
from trtforge.volumes.volume import Volume, same_grid
from trtforge.volumes.write import check_writable, write_labels, write_probabilities

Array = np.ndarray[Any, Any]

RNG = np.random.default_rng(0)
SHAPE = (6, 7, 5)
LABELS = RNG.integers(0, 4, SHAPE).astype(np.uint8)
VALUES = {  # of the header, which describe the voxels and not where they lie
    *("dim", "datatype", "bitpix", "vox_offset", "scl_slope", "scl_inter", "cal_max", "cal_min"),
    *("intent_code", "intent_p1", "intent_p2", "intent_p3"),
}


def odd_scan(path: Path, kind: Any = nibabel.Nifti1Image, endianness: str = "<", axes: int = 3) -> Volume:
    """A scan whose header says something in every field, sform and qform differing by more than rounding."""
    affine = np.array([[0.1, -0.7, 0.05, 90.3], [0.79, 0.1, 0, -120.7], [0.02, 0.04, 2.5, 40.1], [0, 0, 0, 1]])
    header = kind.header_class(endianness=endianness)
    voxels = RNG.integers(-1000, 1000, SHAPE + (1,) * (axes - 3)).astype(endianness + "i2")
    made = kind(voxels, affine, header)
    made.header.set_xyzt_units("mm", "sec")
    made.header.set_sform(affine, code="mni")
    made.header.set_qform(affine @ np.diag([1, 1, 1, 1]), code="scanner")
    made.header["qoffset_x"] += 3
    made.header["descrip"] = b"portal venous, kernel B30f"
    made.header["aux_file"] = b"protocol.txt"
    made.header["intent_name"] = b"CT"
    made.header["pixdim"][4:] = [2.5, 7, 8, 9]
    made.header["toffset"], made.header["slice_duration"] = 1.25, 0.5
    made.header["cal_max"], made.header["cal_min"] = 300, -100
    made.header.set_dim_info(0, 1, 2)
    made.header.set_slope_inter(2, 5)
    made.header.extensions.append(Nifti1Extension("comment", b"acquired twice"))
    path.write_bytes(made.to_bytes())
    return read_volume(path)


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz"])
@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image])
@pytest.mark.parametrize("endianness", "<>")
@pytest.mark.parametrize("axes", [3, 4])
def test_the_header_of_the_scan_is_kept(tmp_path: Path, name: str, kind: Any, endianness: str, axes: int) -> None:
    scan = odd_scan(tmp_path / "scan.nii", kind, endianness, axes)
    write_labels(tmp_path / name, LABELS, scan)
    before, after = nibabel.load(tmp_path / "scan.nii").header, nibabel.load(tmp_path / name).header
    assert type(after) is type(before) and after.endianness == endianness
    for field in before:
        if field not in VALUES:
            assert before[field].tobytes() == after[field].tobytes(), field
    assert after.extensions == before.extensions
    assert after.get_data_shape() == SHAPE and after.get_data_dtype() == np.uint8
    values = nibabel.load(tmp_path / name).dataobj
    assert (values.slope, values.inter) == (1, 0)
    assert after.get_intent()[0] == "label"
    np.testing.assert_array_equal(read_labels(tmp_path / name, scan), LABELS, strict=True)
    np.testing.assert_array_equal(np.asanyarray(values), LABELS)


def test_even_a_header_that_is_not_quite_right_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "scan.nii"
    odd_scan(path)
    content = bytearray(path.read_bytes())
    content[76:80] = b"\0" * 4  # qfac 0, which readers take for 1
    path.write_bytes(content)
    write_labels(tmp_path / "l.nii", LABELS, read_volume(path))
    assert (tmp_path / "l.nii").read_bytes()[76:108] == content[76:108]


def test_equal_labels_give_equal_bytes(tmp_path: Path) -> None:
    scan = odd_scan(tmp_path / "scan.nii")
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, np.asfortranarray(LABELS) if name == "a.nii.gz" else LABELS, scan)
    first = (tmp_path / "a.nii.gz").read_bytes()
    assert first == (tmp_path / "b.nii.gz").read_bytes()
    assert first[4:8] == bytes(4) and first[3] == 0  # no time, no name


@pytest.mark.parametrize("name", ["labels.nii", "labels.nii.gz"])
@pytest.mark.parametrize("endianness", "<>")
def test_names_of_classes_go_along(tmp_path: Path, name: str, endianness: str) -> None:
    scan = odd_scan(tmp_path / "scan.nii", endianness=endianness)
    write_labels(tmp_path / name, LABELS, scan, classes=("background", "kidney", "tumour"))
    written = nibabel.load(tmp_path / name)
    texts = [extension.text for extension in written.header.extensions]
    assert texts == ["acquired twice", "labels: 0 background, 1 kidney, 2 tumour"]
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), LABELS)
    again = read_volume(tmp_path / name)  # labels over labels: the next names come behind the others
    write_labels(tmp_path / "again.nii", LABELS, again, classes=("nothing", "liver"))
    assert [extension.text for extension in nibabel.load(tmp_path / "again.nii").header.extensions] == [
        *texts,
        "labels: 0 nothing, 1 liver",
    ]


def test_names_of_classes_where_the_scan_has_no_extension(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(np.zeros(SHAPE, np.int16), np.eye(4))
    image.header.set_data_offset(368)  # a gap, full of zeros
    (tmp_path / "scan.nii").write_bytes(image.to_bytes())
    write_labels(tmp_path / "l.nii", LABELS, read_volume(tmp_path / "scan.nii"), classes=("background", "kidney"))
    written = nibabel.load(tmp_path / "l.nii")
    assert [extension.text for extension in written.header.extensions] == ["labels: 0 background, 1 kidney"]
    np.testing.assert_array_equal(np.asanyarray(written.dataobj), LABELS)


@pytest.mark.parametrize("name", ["p.nii", "p.nii.gz"])
@pytest.mark.parametrize("endianness", "<>")
def test_probabilities_have_the_class_last(tmp_path: Path, name: str, endianness: str) -> None:
    scan = odd_scan(tmp_path / "scan.nii", endianness=endianness)
    shares = RNG.random((3, *SHAPE), np.float32)
    write_probabilities(tmp_path / name, shares, scan)
    written = nibabel.load(tmp_path / name)
    assert written.shape == (*SHAPE, 3) and written.header.get_intent()[0] == "none"
    assert written.header["pixdim"].tobytes() == scan.template.header["pixdim"].tobytes()  # type: ignore[union-attr]
    np.testing.assert_array_equal(np.moveaxis(np.asanyarray(written.dataobj), -1, 0), shares)
    np.testing.assert_array_equal(written.affine, scan.affine)


def test_a_scan_that_was_no_nifti_gets_a_header(tmp_path: Path) -> None:
    affine = np.array([[0.1, -0.7, 0, 90], [0.79, 0.1, 0, -120], [0, 0, 2.5, 40], [0, 0, 0, 1]])
    edges = np.linalg.norm(affine[:3, :3], axis=0).tolist()
    scan = Volume(np.zeros(SHAPE, np.int16), affine, tuple(edges), Path("scan.nrrd"))
    write_labels(tmp_path / "l.nii.gz", LABELS, scan)
    written = read_volume(tmp_path / "l.nii.gz")
    assert written.warnings == () and same_grid(written, scan)
    np.testing.assert_array_equal(written.voxels, LABELS)
    header = nibabel.load(tmp_path / "l.nii.gz").header
    assert (int(header["sform_code"]), int(header["qform_code"])) == (1, 1)
    np.testing.assert_allclose(header.get_qform(), affine, atol=0.02)  # what a rotation can say of it


def test_labels_for_another_shape_or_of_another_type_are_a_mistake_of_the_caller(tmp_path: Path) -> None:
    scan = odd_scan(tmp_path / "scan.nii")
    with pytest.raises(ValueError, match="uint8"):
        write_labels(tmp_path / "l.nii", LABELS.astype(np.int16), scan)
    with pytest.raises(ValueError, match="uint8"):
        write_labels(tmp_path / "l.nii", LABELS[:3], scan)
    with pytest.raises(ValueError, match="float64"):
        write_probabilities(tmp_path / "l.nii", np.zeros((2, *SHAPE)), scan)
    assert not (tmp_path / "l.nii").exists()


# -- places and suffixes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["labels.nii", "LABELS.NII.GZ", "new/folder/labels.nii.gz"])
def test_asking_leaves_nothing_behind(tmp_path: Path, name: str) -> None:
    check_writable(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["labels.png", "labels.npz", "labels", "labels.nii.zip", "labels.dcm"])
def test_other_suffixes(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputUnsupported) as caught:
        check_writable(tmp_path / name)
    assert name in caught.value.what and ".nrrd" in caught.value.why
    assert caught.value.next == "name it labels.nii.gz"


def test_a_folder_of_that_name(tmp_path: Path) -> None:
    (tmp_path / "labels.nii").mkdir()
    with pytest.raises(FileRefused) as caught:
        check_writable(tmp_path / "labels.nii")
    assert "folder lies where a file is needed" in caught.value.next


def test_a_file_where_a_folder_is_needed(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(FileRefused) as caught:
        check_writable(tmp_path / "out" / "labels.nii")
    assert caught.value.where == str(tmp_path / "out" / "labels.nii")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_a_place_that_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(**_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "tmpabc"))

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(FileRefused) as caught:
        check_writable(tmp_path / "labels.nii.gz")
    assert caught.value.where == str(tmp_path / "labels.nii.gz") and os.strerror(number) in caught.value.why


def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = odd_scan(tmp_path / "scan.nii")
    write_labels(tmp_path / "l.nii.gz", LABELS, scan)
    before = (tmp_path / "l.nii.gz").read_bytes()

    def stop(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", stop)
    with pytest.raises(OSError):
        write_labels(tmp_path / "l.nii.gz", LABELS + 1, scan)
    assert (tmp_path / "l.nii.gz").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["l.nii.gz", "scan.nii"]
