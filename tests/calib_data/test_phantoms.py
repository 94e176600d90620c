"""Drawn phantoms: the same for a seed, like CT in their numbers, and the committed volumes are those that are drawn."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

COARSE = {"spacing": (5.0, 1.6, 1.6), "shape": (41, 144, 144)}
CASES = {"case_50001": 50_001, "case_50002": 50_002, "case_50003": 50_003, "case_90001": 90_001}
STEP = 8


@pytest.fixture(scope="module")
def several(drawing: ModuleType) -> list[Any]:
    """Phantoms of ten seeds on a coarse grid."""
    return [drawing.draw(seed, **COARSE) for seed in range(1, 11)]


def test_a_seed_is_a_phantom(drawing: ModuleType) -> None:
    first, again, other = (drawing.draw(seed, **COARSE) for seed in (5, 5, 6))
    assert first.image.tobytes() == again.image.tobytes()
    assert first.label.tobytes() == again.label.tobytes()
    assert not np.array_equal(first.label, other.label)


def test_types_and_labels(several: list[Any]) -> None:
    for phantom in several:
        assert (phantom.image.dtype, phantom.label.dtype, phantom.affine.dtype) == (np.int16, np.uint8, np.float64)
        assert phantom.image.shape == phantom.label.shape == COARSE["shape"]
        assert np.unique(phantom.label).tolist() == [0, 1, 2]
        assert -1024 <= phantom.image.min() < -900
        assert 300 < phantom.image.max() <= 3071


def test_tumours_and_kidneys_have_sizes_of_tumours_and_kidneys(several: list[Any]) -> None:
    for phantom in several:
        millilitres = np.bincount(phantom.label.ravel(), minlength=3) * np.prod(COARSE["spacing"]) / 1000
        assert 60 < millilitres[1] < 400
        assert 2 < millilitres[2] < 100
        tumours, count = ndimage.label(phantom.label == 2)
        assert 1 <= count <= 4  # the bulge of one may be cut off by a coarse grid
        for piece in range(1, count + 1):  # each lies in a kidney or on it
            assert (phantom.label[ndimage.binary_dilation(tumours == piece, iterations=2)] == 1).any()


def test_tissues_have_plausible_attenuation(several: list[Any]) -> None:
    for phantom in several:
        image, label = phantom.image, phantom.label
        inside = {value: ndimage.binary_erosion(label == value, np.ones((1, 3, 3))) for value in (1, 2)}
        kidney, tumour = (np.median(image[inside[value]]) for value in (1, 2))
        assert 120 < kidney < 220
        assert 20 < tumour < 115
        assert kidney - tumour > 30
        fat = image[(image > -150) & (image < -60)]
        assert fat.size > 0.05 * image.size
        assert -112 < np.median(fat) < -85
        assert np.mean((image > 250) & (image < 1200)) > 0.005  # bone


def test_noise_is_that_of_a_scanner(several: list[Any]) -> None:
    deviations = []
    for phantom in several:
        smooth = ndimage.uniform_filter(phantom.image.astype(np.float32), (1, 5, 5))
        kidney = ndimage.binary_erosion(phantom.label == 1, np.ones((1, 5, 5)))
        deviations.append((phantom.image - smooth)[kidney].std())
    assert 5 < min(deviations) < max(deviations) < 30
    assert max(deviations) > 1.3 * min(deviations)  # not the same in all


def test_anatomy_does_not_depend_on_the_grid(drawing: ModuleType) -> None:
    coarse = drawing.draw(8, **COARSE)
    fine = drawing.draw(8, spacing=(2.5, 1.6, 1.6), shape=(82, 144, 144))
    for value in (1, 2):
        volumes = [np.count_nonzero(p.label == value) * mm for p, mm in ((coarse, 5.0), (fine, 2.5))]
        assert volumes[0] == pytest.approx(volumes[1], rel=0.05)


def test_grid_by_the_seed(drawing: ModuleType) -> None:
    for seed in drawing.TEST_SEEDS[:3]:
        phantom = drawing.draw(seed)
        spacing = np.array(nibabel.affines.voxel_sizes(phantom.affine))
        assert 2 <= spacing[0] <= 5
        assert spacing[1] == spacing[2] and 0.7 <= spacing[1] <= 1.8
        assert phantom.image.size < 5e6
        resampled = phantom.image.shape * spacing / (1.6, 1.2, 1.2)
        assert (resampled > (115, 179, 179)).all() and (resampled < (222, 286, 286)).all()


def test_seeds_of_training_calibration_and_test_are_apart(drawing: ModuleType) -> None:
    ranges = [set(drawing.TRAIN_SEEDS), set(drawing.CALIBRATION_SEEDS), set(drawing.TEST_SEEDS)]
    assert len(set.union(*ranges)) == sum(map(len, ranges))
    assert len(drawing.TEST_SEEDS) == 20


def test_files_are_as_kits19_has_them(drawing: ModuleType, tmp_path: Path) -> None:
    arguments = ["--seed", "7", "--spacing", "5", "1.6", "1.6", "--shape", "41", "144", "144", tmp_path / "a"]
    subprocess.run([sys.executable, drawing.__file__, *map(str, arguments)], check=True)
    phantom = drawing.draw(7, **COARSE)
    drawing.save(phantom, tmp_path / "b")
    for name, voxels in (("imaging", phantom.image), ("segmentation", phantom.label)):
        path = tmp_path / "a" / f"{name}.nii.gz"
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()
        nifti = nibabel.load(path)
        assert np.array_equal(np.asanyarray(nifti.dataobj), voxels)
        assert nifti.get_data_dtype() == voxels.dtype
        assert nibabel.aff2axcodes(nifti.affine) == ("I", "P", "L")
        assert np.allclose(nifti.header.get_zooms(), COARSE["spacing"])
        assert nifti.header.get_xyzt_units()[0] == "mm"
        assert (int(nifti.header["qform_code"]), int(nifti.header["sform_code"])) == (1, 1)
        assert np.allclose(nifti.header.get_qform(), nifti.header.get_sform(), atol=1e-4)


@pytest.mark.parametrize("case", CASES)
def test_committed_volumes_are_drawn_ones(drawing: ModuleType, folder: Path, case: str) -> None:
    """Rounding differs between builds of NumPy and SciPy, hence a few voxels may be one step off."""
    image, label = (nibabel.load(folder / case / f"{name}.nii.gz") for name in ("imaging", "segmentation"))
    phantom = drawing.draw(CASES[case], step=STEP, **COARSE)
    assert np.allclose(image.affine, phantom.affine) and np.allclose(label.affine, phantom.affine)
    voxels = np.asanyarray(image.dataobj).astype(int)
    assert (voxels % STEP == 0).all()
    assert np.mean(voxels != phantom.image) < 1e-3
    assert np.count_nonzero(np.asanyarray(label.dataobj) != phantom.label) < 20


def test_committed_volumes_are_small_and_not_of_the_training(drawing: ModuleType, folder: Path) -> None:
    assert sorted(path.name for path in folder.glob("case_*")) == sorted(CASES)
    assert sum(path.stat().st_size for path in folder.rglob("*.nii.gz")) < 2_500_000
    held_out = [seed for seed in CASES.values() if seed in drawing.TEST_SEEDS]
    assert held_out == [90_001]
    assert all(seed in drawing.CALIBRATION_SEEDS for seed in CASES.values() if seed not in held_out)
