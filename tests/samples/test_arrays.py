"""Arrays are used as they are, or refused by name; nothing is unpickled, nothing is cast."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtforge.errors.base import TrtforgeError
from trtforge.errors.calibration import (
    SampleDtype,
    SampleInputs,
    SampleShape,
    SampleUnreadable,
    SampleUnsupported,
)
from trtforge.recipe.models import InputSpec
from trtforge.samples.arrays import load_array


def spec(shape: tuple[int, ...] = (4, 2, 3), dtype: str = "float32") -> InputSpec:
    return InputSpec.model_validate({"shape": shape, "dtype": dtype})


def load(path: Path, wanted: InputSpec, name: str = "x") -> np.ndarray:
    return load_array(path, path.name, name, wanted)


VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (1, 1, 2, 3)])
def test_the_batch_axis_may_be_there_or_not(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", VALUES.reshape(shape))
    array = load(tmp_path / "a.npy", spec())
    assert array.shape == (1, 2, 3)
    assert (array[0] == VALUES).all()


def test_fortran_order_and_byte_order_do_not_matter(tmp_path: Path) -> None:
    np.save(tmp_path / "f.npy", np.asfortranarray(VALUES.astype(">f4")))
    array = load(tmp_path / "f.npy", spec())
    assert array.dtype == np.dtype("float32") and array.flags.c_contiguous
    assert (array[0] == VALUES).all()


@pytest.mark.parametrize("shape", [(2, 3), (1, 2, 3), (1, 1, 2, 3), (1, 1, 1, 2, 3)])
def test_axes_of_length_one_in_front_may_be_there_or_not(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """As calib_data/README.md says."""
    np.save(tmp_path / "a.npy", VALUES.reshape(shape))
    gray = InputSpec(shape=(1, 1, 2, 3))
    assert load(tmp_path / "a.npy", gray).shape == (1, 1, 2, 3)
    np.save(tmp_path / "b.npy", VALUES.reshape(2, 1, 3))
    with pytest.raises(SampleShape):
        load(tmp_path / "b.npy", gray)


@pytest.mark.parametrize("shape", [(3, 2), (4, 2, 3), (2, 3, 1), (6,)])
def test_another_shape_is_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "a.npy", np.zeros(shape, np.float32))
    with pytest.raises(SampleShape) as caught:
        load(tmp_path / "a.npy", spec())
    assert str(list(shape)) in caught.value.why and "[2, 3]" in caught.value.why


@pytest.mark.parametrize("dtype", ["float64", "float16", "int32", "uint8"])
def test_another_type_is_refused(tmp_path: Path, dtype: str) -> None:
    np.save(tmp_path / "a.npy", VALUES.astype(dtype))
    with pytest.raises(SampleDtype) as caught:
        load(tmp_path / "a.npy", spec())
    assert dtype in caught.value.why and "astype(np.float32)" in caught.value.next


def test_object_arrays_are_not_unpickled(tmp_path: Path) -> None:
    np.save(tmp_path / "o.npy", np.array([print], dtype=object), allow_pickle=True)
    with pytest.raises(SampleUnreadable, match="cannot be read") as caught:
        load(tmp_path / "o.npy", spec())
    assert "Python objects" in caught.value.why


def test_a_header_that_claims_a_petabyte_allocates_nothing(tmp_path: Path) -> None:
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": (1 << 24, 1 << 24)})
    (tmp_path / "huge.npy").write_bytes(stream.getvalue())
    with pytest.raises(SampleShape):
        load(tmp_path / "huge.npy", spec())
    with zipfile.ZipFile(tmp_path / "huge.npz", "w") as archive:
        archive.writestr("x.npy", stream.getvalue())
    with pytest.raises(SampleShape):
        load(tmp_path / "huge.npz", spec())


@pytest.mark.parametrize("name", ["a.npy", "a.npz", "a.nii", "a.nii.gz"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.9])
def test_a_truncated_array_is_named(tmp_path: Path, name: str, keep: float) -> None:
    values = np.random.default_rng(0).standard_normal((20, 20)).astype(np.float32)
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, values)
    elif name.endswith("npz"):
        np.savez(path, x=values)
    else:
        nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), path)
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(SampleUnreadable) as caught:
        load(path, spec((1, 20, 20)))
    assert caught.value.where == name
    assert str(tmp_path) not in caught.value.why


def test_npz_is_read_by_input_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=VALUES, y=VALUES + 1)
    assert (load(tmp_path / "a.npz", spec(), "y") == VALUES + 1).all()
    with pytest.raises(SampleInputs) as caught:
        load(tmp_path / "a.npz", spec(), "z")
    assert "`x`, `y`" in caught.value.why


def test_nifti_voxels_are_scaled_and_become_the_float_type(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nibabel.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, -1.0)
    nibabel.save(image, tmp_path / "v.nii.gz")
    array = load(tmp_path / "v.nii.gz", spec((1, 1, 2, 3, 4)))
    assert array.shape == (1, 1, 2, 3, 4) and array.dtype == np.float32
    reread = nibabel.load(tmp_path / "v.nii.gz").get_fdata(dtype=np.float32)
    assert (array[0, 0] == reread).all()


def test_integer_nifti_is_used_only_unscaled(tmp_path: Path) -> None:
    stored = np.arange(6, dtype=np.int32).reshape(2, 3)
    nibabel.save(nibabel.Nifti1Image(stored, np.eye(4)), tmp_path / "v.nii")
    assert (load(tmp_path / "v.nii", spec(dtype="int32"))[0] == stored).all()
    with pytest.raises(SampleDtype):
        load(tmp_path / "v.nii", spec(dtype="int8"))


def test_other_files_are_refused_by_kind(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(SampleUnsupported) as caught:
        load(tmp_path / "notes.txt", spec())
    assert ".npy" in caught.value.why


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_arrays_never_end_in_a_foreign_exception(tmp_path: Path, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(["a.npy", "a.npz", "a.nii", "a.nii.gz"]))
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, VALUES)
    elif name.endswith("npz"):
        np.savez_compressed(path, x=VALUES)
    else:
        nibabel.save(nibabel.Nifti1Image(VALUES, np.eye(4)), path)
    content = bytearray(path.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(content) - 1), min_size=1, max_size=5)):
        content[position] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        array = load(path, spec((1, 2, 3)))
    except TrtforgeError as error:
        assert error.code.startswith("CAL")
    else:
        assert array.shape == (1, 2, 3)


def test_the_version_of_the_format_is_checked(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", VALUES)
    content = bytearray((tmp_path / "a.npy").read_bytes())
    content[6:8] = struct.pack("BB", 9, 9)
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(SampleUnreadable, match="cannot be read"):
        load(tmp_path / "a.npy", spec())
