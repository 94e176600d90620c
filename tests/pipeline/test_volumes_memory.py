"""What to do about a scan that does not fit: named by the option or field that makes it so large."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from trtforge.memory import human_bytes

ENGINE = "engines/scan/seg"
ONE = "data/case_4/imaging.nii.gz"


@pytest.fixture
def small(ward, monkeypatch: pytest.MonkeyPatch):
    """A machine with 1000 bytes to spare."""
    ward.build(recipe="scan")
    monkeypatch.setattr("trtforge.memory.available", lambda: 1000)
    return ward


def advice(done) -> str:
    assert done.code == 9
    (line,) = [line for line in done.err.splitlines() if line.startswith("  next:")]
    return line.removeprefix("  next:").strip()


def test_an_overlap_that_takes_too_much_is_named(small, monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has room for the usual overlap, not for this one."""
    assert advice(small.forge("run", ENGINE, ONE)) == "free memory, or run it on a larger machine"
    small.write_scan("case_4", 4, shape=(40, 48, 36))
    monkeypatch.setattr("trtforge.memory.available", lambda: None)
    done = small.forge("run", ENGINE, ONE, "--probabilities", "p.nii.gz", "--json")
    usual = sum(done.json["cases"][0]["memory"].values())
    monkeypatch.setattr("trtforge.memory.available", lambda: usual)
    said = advice(small.forge("run", ENGINE, ONE, "--overlap", "0.9", "--probabilities", "p.nii.gz"))
    assert said == (
        f"lower --overlap, which is 0.9: with 0.5 the scan needs {human_bytes(usual)}, or free memory, "
        "or leave out --probabilities, or run it on a larger machine"
    )


def test_a_spacing_that_makes_it_large_is_named(small, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(small.root)
    monkeypatch.setenv("TRTFORGE_CACHE", str(small.cache))
    recipe = (small.root / "recipes/scan.yaml").read_text()
    small.recipe("fine", recipe.replace("std: 100", "std: 100, spacing: [1, 1, 1]"))
    small.build(recipe="fine")
    monkeypatch.setattr("trtforge.memory.available", lambda: 1000)
    assert "spacing" not in advice(small.forge("run", "engines/fine/seg", ONE))  # voxels of 2 x 1 x 1 mm are usual
    path: Path = small.root / ONE
    image = nibabel.load(path)
    affine = image.affine @ np.diag([200, 1, 1, 1])
    made = nibabel.Nifti1Image(np.asarray(image.dataobj), affine)
    made.header.set_xyzt_units("mm")
    made.to_filename(path)
    said = advice(small.forge("run", "engines/fine/seg", ONE))
    assert said.startswith("check the spacing: the scan's header says 400 x 1 x 1 mm a voxel")
    assert "the recipe's `spacing` of 1 x 1 x 1 mm that is 400 times as many voxels" in said
