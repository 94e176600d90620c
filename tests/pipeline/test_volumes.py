"""Scans through a real engine: labels on the scan's own grid, whatever way it lies; cohorts that go on."""

from __future__ import annotations

import itertools
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

ENGINE = "engines/scan/seg"


@pytest.fixture
def built(ward) -> Any:
    result = ward.build(recipe="scan")
    assert result["engines"][0]["parity"]["metric"] == "dice"
    return ward


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


def test_a_scan_comes_back_as_its_truth(built) -> None:
    done = built.forge(
        "run", ENGINE, "data/case_4/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz",
        "--out", "labels.nii.gz", "--picture", "o.png", "--html", "o.html", "--against", "fp32", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    (case,) = done.json["cases"]
    assert case["dice"]["truth"] == {"organ": 1.0, "lesion": 1.0}
    assert case["composite"]["FP32"] > 0.9
    truth = labels_of(built.root / "data/case_4/segmentation.nii.gz")
    assert (labels_of(built.root / "labels.nii.gz") == truth).all()
    assert case["millilitres"]["organ"] == pytest.approx((truth == 1).sum() * 2 / 1000, abs=1e-3)
    scan, labels = (nibabel.load(built.root / name) for name in ("data/case_4/imaging.nii.gz", "labels.nii.gz"))
    assert (scan.affine == labels.affine).all() and labels.get_data_dtype() == np.uint8
    for field in ("qform_code", "sform_code", "pixdim", "xyzt_units"):
        assert (scan.header[field] == labels.header[field]).all()
    assert (built.root / "o.png").read_bytes().startswith(b"\x89PNG")
    assert "<html" in (built.root / "o.html").read_text()
    assert case["name"] if "name" in case else case["case"] == "case_4"


def test_any_orientation_gives_the_same_labels_in_the_same_places(built) -> None:
    """The scan stored in each of the 48 ways its axes can lie; the network, which knows none of it, sees one."""
    scan = nibabel.load(built.root / "data/case_5/imaging.nii.gz")
    truth = nibabel.load(built.root / "data/case_5/segmentation.nii.gz")
    ways = []
    for axes in itertools.permutations(range(3)):
        for signs in itertools.product((1, -1), repeat=3):
            turn = np.array(list(zip(axes, signs, strict=True)), float)
            name = "".join(map(str, axes)) + "".join("+" if sign > 0 else "-" for sign in signs)
            ways.append(name)
            for kind, image in (("imaging", scan), ("segmentation", truth)):
                folder = built.root / "turned" / name
                folder.mkdir(parents=True, exist_ok=True)
                image.as_reoriented(turn).to_filename(folder / f"{kind}.nii.gz")
    assert len(ways) == 48
    done = built.forge(
        "run", ENGINE, "turned/*/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz",
        "--out-dir", "out", "--json",
    )  # fmt: skip
    assert done.code == 0, done.err
    for case in done.json["cases"]:
        assert case["dice"]["truth"] == {"organ": 1.0, "lesion": 1.0}, case["case"]
    assert len(done.json["cases"]) == 48


def test_what_is_resampled_comes_back_onto_the_scans_grid(built) -> None:
    """At the network's spacing the labels cannot be perfect, but they lie where they belong."""
    built.recipe(
        "fine", (built.root / "recipes/scan.yaml").read_text().replace("std: 100", "std: 100, spacing: [1, 1, 1]")
    )
    built.build(recipe="fine")
    done = built.forge(
        "run", "engines/fine/seg", "data/case_4/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz",
        "--out", "labels.nii.gz", "--probabilities", "soft.nii.gz", "--json",
    )  # fmt: skip
    (case,) = done.json["cases"]
    assert case["grid"] == [20, 12, 9] and case["shape"] == [10, 12, 9]
    assert case["composite"]["truth"] > 0.9
    soft, labels = labels_of(built.root / "soft.nii.gz"), labels_of(built.root / "labels.nii.gz")
    assert soft.shape == (10, 12, 9, 3) and np.allclose(soft.sum(axis=3), 1, atol=1e-4)
    sure = np.sort(soft, axis=3)[..., -1] > 0.6
    assert sure.any() and (soft.argmax(axis=3) == labels)[sure].all()


def test_options_of_the_loop_replace_the_recipes(built) -> None:
    scan = "data/case_4/imaging.nii.gz"
    plain = built.forge("run", ENGINE, scan, "--json").json
    more = built.forge("run", ENGINE, scan, "--overlap", "0.75", "--weights", "monai", "--mirror", "dw", "--json").json
    assert more["windows"] == {"overlap": 0.75, "weights": "monai", "mirror": ["d", "w"]}
    assert more["cases"][0]["windows"] > plain["cases"][0]["windows"]


def test_numpy_gives_the_same_labels(built, monkeypatch: pytest.MonkeyPatch) -> None:
    scan = "data/case_4/imaging.nii.gz"
    assert built.forge("run", ENGINE, scan, "--out", "a.nii.gz", "--json").code == 0
    monkeypatch.setenv("TRTFORGE_NUMPY_WINDOWS", "1")
    done = built.forge("run", ENGINE, scan, "--out", "b.nii.gz", "--json")
    assert done.json["accumulator"] == "numpy"
    assert (built.root / "a.nii.gz").read_bytes() == (built.root / "b.nii.gz").read_bytes()


def test_scans_that_were_calibrated_on_are_told(built) -> None:
    done = built.forge("run", ENGINE, "data/case_1/imaging.nii.gz", "data/case_4/imaging.nii.gz", "--out-dir", "out")
    assert "1 of 2 scans were used for calibration: case_1" in done.err


# -- cohorts ---------------------------------------------------------------------------------------------------

COHORT = ["run", ENGINE, "data/*/imaging.nii.gz", "--truth", "{folder}/segmentation.nii.gz", "--out-dir", "out"]


def test_one_corrupt_case_does_not_stop_the_rest(built) -> None:
    path = built.root / "data/case_2/imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    done = built.forge(*COHORT, "--json")
    assert done.code == 12
    assert [case["case"] for case in done.json["cases"]] == ["case_1", "case_3", "case_4", "case_5"]
    assert done.json["failed"]["case_2"]["code"] == "VOL103"
    assert "error[VOL401]: 1 of 5 scans failed" in done.err
    assert not (built.root / "out/case_2.nii.gz").exists()
    table = (built.root / "out/summary.csv").read_text().splitlines()
    assert len(table) == 6 and table[-1].startswith("case_2,") and "VOL103" in table[-1]


def test_a_missing_truth_fails_its_case_only(built) -> None:
    (built.root / "data/case_3/segmentation.nii.gz").unlink()
    done = built.forge(*COHORT, "--json")
    assert done.code == 12 and list(done.json["failed"]) == ["case_3"]


def test_finished_cases_are_kept_and_only_the_rest_is_done(built) -> None:
    assert built.forge(*COHORT).code == 0
    before = {path.name: path.stat().st_mtime_ns for path in (built.root / "out").glob("*.nii.gz")}
    (built.root / "out/case_1.nii.gz").unlink()
    damaged = built.root / "out/case_2.nii.gz"
    damaged.write_bytes(damaged.read_bytes()[:-3])
    built.write_scan("case_3", 33)
    done = built.forge(*COHORT)
    assert done.code == 0
    kept = {line.split(":")[0] for line in done.err.splitlines() if line.endswith("finished earlier")}
    assert kept == {"case_4", "case_5"}
    after = {path.name: path.stat().st_mtime_ns for path in (built.root / "out").glob("*.nii.gz")}
    assert {name for name in after if after[name] == before[name]} == {"case_4.nii.gz", "case_5.nii.gz"}
    assert "2 finished earlier" in done.out


def test_other_options_make_other_results(built) -> None:
    assert built.forge(*COHORT).code == 0
    done = built.forge(*COHORT, "--overlap", "0.25")
    assert "finished earlier" not in done.err


def test_the_summary_has_the_means(built) -> None:
    done = built.forge(*COHORT, "--json")
    summary = json.loads((built.root / "out/summary.json").read_text())
    assert summary["means"] == done.json["means"] == {"truth": {"organ": 1.0, "lesion": 1.0, "mean": 1.0}}


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGTERM])
def test_killed_in_the_middle_it_goes_on_where_it_was(built, stop: signal.Signals) -> None:
    for number in range(6, 30):
        built.write_scan(f"case_{number}", number)
    process = built.start(*COHORT, "--pictures")
    deadline = time.monotonic() + 60
    out = built.root / "out"
    while len(list(out.glob("case_*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.005)
    os.kill(process.pid, stop)
    process.communicate()
    done_before = {path.stem for path in out.glob("case_*.json")}
    assert 3 <= len(done_before) < 29
    for path in out.glob("*.nii.gz"):
        labels_of(path)  # every file that is there is whole
    done = built.forge(*COHORT, "--pictures")
    assert done.code == 0, done.err
    assert {line.split(":")[0] for line in done.err.splitlines() if "finished earlier" in line} == done_before
    assert len(list(out.glob("*.nii.gz"))) == len(list(out.glob("*.png"))) == 29
    assert not list(out.glob(".*.tmp"))


# -- bounds ----------------------------------------------------------------------------------------------------


def test_a_bound_on_dice_stops_a_build(ward) -> None:
    """With scales that cut all values off, the lesion is lost."""
    assert ward.forge("calibrate", "recipes/scan.yaml").code == 0
    path = ward.root / "seg.scales.json"
    table = json.loads(path.read_text())
    for row in table["ranges"].values():
        row.update({key: value * 0.05 for key, value in row.items() if key in ("min", "max", "amax")})
    path.write_text(json.dumps(table))
    recipe = (ward.root / "recipes/scan.yaml").read_text()
    ward.recipe("scan", recipe.replace("{set: ../data/ward.yaml}", "{scales: ../seg.scales.json}"))
    error = ward.build(recipe="scan", code=8)["error"]
    assert error["code"] == "VER101" and "dice" in error["what"] and "lesion" in error["why"]
    assert not (ward.root / "engines/scan/seg").exists()


def test_a_bound_on_dice_is_held_at_run_time_too(built) -> None:
    """Half a HU is above the organ's threshold, and below INT8's first step."""
    path = built.root / "data/case_4/imaging.nii.gz"
    image = nibabel.load(path)
    nibabel.Nifti1Image(np.full(image.shape, 0.5, np.float32), image.affine).to_filename(path)
    done = built.forge("run", ENGINE, path, "--against", "fp32", "--json")
    assert done.code == 8 and done.json["passed"] is False
    assert "error[VER101]" in done.err


# -- prepare ---------------------------------------------------------------------------------------------------


def test_prepared_scans_go_through_as_they_are(built) -> None:
    """Preprocessed once and run, the labels on the network's grid are those of the scan preprocessed on the way."""
    kits = "kind: volume, spacing: [1.6, 1.2, 1.2], clip: [-79, 304], mean: 101, std: 76.9, pad: -2.2, multiple: 64"
    recipe = (built.root / "recipes/scan.yaml").read_text()
    recipe = recipe.replace("kind: volume, orientation: IPL, clip: [-100, 300], std: 100", kits)
    recipe = recipe.replace("[1, 1, 8, 8, 8]", "[1, 1, 128, 128, 128]").replace("at_least: 0.9", "at_least: 0")
    built.recipe("kits", recipe)
    built.build(recipe="kits")
    assert built.forge("prepare", "kits19", "data", "prepared", "--cases", "case_4").code == 0
    prepared = nibabel.load(built.root / "prepared/case_4/imaging.nii")
    assert prepared.shape == (128, 128, 128) and prepared.get_data_dtype() == np.float32
    assert np.asarray(prepared.dataobj).max() <= np.float32(203 / 76.9)
    done = built.forge(
        "run", "engines/kits/seg", "prepared/case_4/imaging.nii", "--truth", "{folder}/segmentation.nii.gz", "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    (case,) = done.json["cases"]
    assert case["shape"] == case["grid"] == [128, 128, 128]
    direct = built.forge("run", "engines/kits/seg", "data/case_4/imaging.nii.gz", "--json").json["cases"][0]
    for name in ("organ", "lesion"):
        assert case["millilitres"][name] == pytest.approx(direct["millilitres"][name], rel=0.35, abs=0.2)


def test_the_network_affine_puts_voxels_where_they_were(built) -> None:
    from trtforge.volumes.protocols import KITS19, network_affine, place_once
    from trtforge.volumes.read import read_volume

    volume = read_volume(built.root / "data/case_4/imaging.nii.gz")
    for orientation in (None, "RAS", "IPL", "SAR"):
        placed = place_once(volume, KITS19.spec.model_copy(update={"orientation": orientation}), (16, 16, 16))
        affine = network_affine(volume, placed)
        low, high = (np.array([getattr(fit.kept, end) for fit in placed.fits]) for end in ("start", "stop"))
        for corner in itertools.product(*zip(low, high - 1, strict=True)):
            raw = np.array([(at + fit.first) * fit.step for at, fit in zip(corner, placed.fits, strict=True)])
            source = np.zeros(3)
            for axis, (at, fit) in enumerate(zip(raw, placed.fits, strict=True)):
                source[placed.turn.axes[axis]] = fit.raw - 1 - at if placed.turn.flipped[axis] else at
            assert np.allclose(affine @ (*corner, 1), volume.affine @ (*source, 1))


def test_prepare_goes_on_where_it_was(built) -> None:
    assert built.forge("prepare", "kits19", "data", "prepared").code == 0
    assert built.forge("prepare", "kits19", "data", "prepared").err.count("finished earlier") == 5
    (built.root / "prepared/case_2/imaging.nii").write_bytes(b"damaged")
    done = built.forge("prepare", "kits19", "data", "prepared", "--json").json
    assert {case["case"] for case in done["cases"] if not case["reused"]} == {"case_2"}


def test_prepared_bytes_are_reproducible(built) -> None:
    for folder in ("one", "two"):
        assert built.forge("prepare", "kits19", "data", folder, "--cases", "case_1").code == 0
    for name in ("imaging.nii", "segmentation.nii.gz", "prepared.json"):
        assert (built.root / "one/case_1" / name).read_bytes() == (built.root / "two/case_1" / name).read_bytes()


def test_mlperfs_copy_of_a_case(built) -> None:
    (built.root / "data/case_1").rename(built.root / "data/case_00185")
    done = built.forge("prepare", "kits19", "data", "prepared", "--cases", "case_00400", "--cases", "case_00185")
    assert done.code == 0
    one, copy = ((built.root / "prepared" / name / "imaging.nii").read_bytes() for name in ("case_00185", "case_00400"))
    assert one == copy
