"""Scans through a real engine: labels on the scan's own grid, whatever way it lies; cohorts that go on."""

from __future__ import annotations

import errno
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
    assert case["case"] == "case_4" and case["loop"] in ("compiled", "numpy") and not case["reused"]


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
    assert done.json["cases"][0]["loop"] == "numpy"
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


def test_a_case_that_fails_now_leaves_no_result_of_before(built) -> None:
    assert built.forge(*COHORT, "--pictures").code == 0
    path = built.root / "data/case_2/imaging.nii.gz"
    path.write_bytes(path.read_bytes()[:200])
    assert built.forge(*COHORT, "--pictures").code == 12
    assert not list((built.root / "out").glob("case_2.*"))
    assert len(list((built.root / "out").glob("case_*.nii.gz"))) == 4


def test_a_resumed_summary_is_the_first_ones(built) -> None:
    assert built.forge(*COHORT, "--against", "fp32").code == 0
    first = (built.root / "out/summary.csv").read_text()
    done = built.forge(*COHORT, "--against", "fp32", "--json")
    assert (built.root / "out/summary.csv").read_text() == first
    assert all(case["reused"] for case in done.json["cases"])
    assert first.splitlines()[0].split(",")[3:7] == ["ml organ", "ml lesion", "dice truth organ", "dice truth lesion"]


def test_a_scan_that_cannot_be_read_does_not_hide_the_others(built, monkeypatch: pytest.MonkeyPatch) -> None:
    import trtforge.pipeline.cohort as cohort

    digest = cohort.sha256_file

    def refused(path: Path) -> str:
        if "case_3" in str(path):
            raise OSError(errno.EIO, "Input/output error", str(path))
        return digest(path)

    monkeypatch.setattr(cohort, "sha256_file", refused)
    done = built.forge(*COHORT, "--json")
    assert done.code == 12 and list(done.json["failed"]) == ["case_3"] and len(done.json["cases"]) == 4
    assert done.json["failed"]["case_3"]["code"] == "ENV102"


def test_voxels_beside_a_header_are_part_of_the_scan(built) -> None:
    sitk = pytest.importorskip("SimpleITK")
    (built.root / "detached").mkdir()
    for number in (4, 5):
        image = sitk.ReadImage(str(built.root / f"data/case_{number}/imaging.nii.gz"))
        sitk.WriteImage(image, str(built.root / "detached" / f"{number}.mhd"))
    run = ("run", ENGINE, "detached/4.mhd", "--out-dir", "out", "--json")
    first = built.forge(*run).json["cases"][0]
    assert built.forge(*run).json["cases"][0]["reused"]
    (built.root / "detached/4.raw").write_bytes((built.root / "detached/5.raw").read_bytes())
    second = built.forge(*run).json["cases"][0]
    assert not second["reused"] and second["millilitres"] != first["millilitres"]


def test_a_set_of_scans_is_run_with_its_labels(built) -> None:
    done = built.forge("run", ENGINE, "data/ward_held.yaml", "--out-dir", "out", "--json")
    assert done.code == 0, done.err
    assert [case["composite"] for case in done.json["cases"]] == [{"truth": 1.0}] * 2


def test_one_scan_given_twice_is_one(built) -> None:
    done = built.forge("run", ENGINE, "data/case_4/imaging.nii.gz", "data/../data/case_4/imaging.nii.gz", "--json")
    assert done.code == 0 and len(done.json["cases"]) == 1


def test_a_scan_of_one_value_has_a_picture(built) -> None:
    recipe = (built.root / "recipes/scan.yaml").read_text().replace("clip: [-100, 300], ", "")
    built.recipe("flat", recipe)
    built.build(recipe="flat")
    path = built.root / "data/case_4/imaging.nii.gz"
    image = nibabel.load(path)
    nibabel.Nifti1Image(np.full(image.shape, 7, np.int16), image.affine, image.header).to_filename(path)
    done = built.forge("run", "engines/flat/seg", path, "--picture", "o.png")
    assert done.code == 0, done.err


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


def kits19_recipe(ward: Any, name: str = "kits", window: int = 128) -> None:
    """The ward's network behind the protocol's preprocessing: 50 HU is -0.66 there, 200 HU is 1.29."""
    import onnx

    kits = "kind: volume, orientation: IPL, spacing: [1.6, 1.2, 1.2], clip: [-79, 304], mean: 101, std: 76.9"
    recipe = (ward.root / "recipes/scan.yaml").read_text()
    recipe = recipe.replace(
        "kind: volume, orientation: IPL, clip: [-100, 300], std: 100", f"{kits}, pad: -2.2, multiple: 64"
    )
    recipe = recipe.replace("[1, 1, 8, 8, 8]", f"[1, 1, {window}, {window}, {window}]")
    recipe = recipe.replace("at_least: 0.9", "at_least: 0").replace("seg.onnx", "kits.onnx")
    model = onnx.load(ward.root / "models/seg.onnx")
    bias = onnx.numpy_helper.from_array(np.array([0, 1.2, 0.9], np.float32), "b")
    (old,) = (tensor for tensor in model.graph.initializer if tensor.name == "b")
    old.CopyFrom(bias)  # class 1 above -1.2, class 2 above 0.3
    onnx.save(model, ward.root / "models/kits.onnx")
    ward.recipe(name, recipe)


def test_prepared_scans_go_through_as_they_are(ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Voxel for voxel, the labels of a prepared scan are those of the scan preprocessed on the way."""
    import trtforge.pipeline.segment as pipeline

    kits19_recipe(ward)
    for number in range(1, 6):
        ward.write_scan(f"case_{number}", number, shape=(90, 140, 150))
    ward.build(recipe="kits")
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_4").code == 0
    prepared = nibabel.load(ward.root / "prepared/case_4/imaging.nii")
    assert prepared.shape == (128, 128, 128) and prepared.get_data_dtype() == np.float32
    seen = []
    run = pipeline.Loop.run

    def remembered(loop: Any, session: Any, array: np.ndarray, *args: Any, **rest: Any) -> Any:
        found = run(loop, session, array, *args, **rest)
        seen.append((array.copy(), found.labels.copy()))
        return found

    monkeypatch.setattr(pipeline.Loop, "run", remembered)
    done = ward.forge(
        "run", "engines/kits/seg", "prepared/case_4/imaging.nii", "--truth", "{folder}/segmentation.nii.gz", "--json"
    )  # fmt: skip
    assert done.code == 0, done.err
    (case,) = done.json["cases"]
    assert case["shape"] == case["grid"] == [128, 128, 128]
    assert case["composite"]["truth"] > 0.9
    assert ward.forge("run", "engines/kits/seg", "data/case_4/imaging.nii.gz").code == 0
    (first, labels), (second, again) = seen
    assert (first == second).all() and (labels == again).all() and len(np.unique(labels)) == 3


def test_a_prepared_set_calibrates_as_the_raw_one(ward) -> None:
    kits19_recipe(ward)
    assert ward.forge("prepare", "kits19", "data", "data/prepared").code == 0
    recipe = (ward.root / "recipes/kits.yaml").read_text()
    ward.recipe("again", recipe.replace("ward.yaml", "prepared.yaml"))
    entry = '{file: "prepared/case_[123]/imaging.nii", labels: "{folder}/segmentation.nii.gz"}'
    (ward.root / "data/prepared.yaml").write_text(f"samples:\n  - {entry}\n")
    for name in ("kits", "again"):
        assert ward.forge("calibrate", f"recipes/{name}.yaml", "--out", name).code == 0
    ranges = [json.loads((ward.root / name / "seg.scales.json").read_text())["ranges"] for name in ("kits", "again")]
    assert ranges[0] == ranges[1]


def test_scans_that_lie_otherwise_are_prepared_turned(ward) -> None:
    scan = nibabel.load(ward.root / "data/case_4/imaging.nii.gz")
    truth = nibabel.load(ward.root / "data/case_4/segmentation.nii.gz")
    folder = ward.root / "turned" / "case_4"
    folder.mkdir(parents=True)
    for name, image in (("imaging", scan), ("segmentation", truth)):
        nibabel.as_closest_canonical(image).to_filename(folder / f"{name}.nii.gz")
    assert ward.forge("prepare", "kits19", "data", "one", "--cases", "case_4").code == 0
    done = ward.forge("prepare", "kits19", "turned", "two")
    assert done.code == 0 and "its axes run to RAS, not IPL" in done.err
    for name in ("imaging.nii", "segmentation.nii.gz"):
        assert (labels_of(ward.root / "one/case_4" / name) == labels_of(ward.root / "two/case_4" / name)).all()


def test_a_prepared_scan_of_another_spacing_is_refused(ward) -> None:
    """Its mark is right, but somebody turned the file: the millimetres no longer are where the network wants them."""
    kits19_recipe(ward)
    ward.build(recipe="kits")
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_4").code == 0
    recipe = (ward.root / "recipes/kits.yaml").read_text()
    ward.recipe("stored", recipe.replace("orientation: IPL, ", ""))
    ward.build(recipe="stored")
    image = nibabel.load(ward.root / "prepared/case_4/imaging.nii")
    nibabel.as_closest_canonical(image).to_filename(ward.root / "turned.nii")
    assert ward.forge("run", "engines/kits/seg", "turned.nii").code == 0
    done = ward.forge("run", "engines/stored/seg", "turned.nii")
    assert done.code == 12 and "VOL113" in done.err and "1.6" in done.err


def test_a_single_slice_is_prepared(ward) -> None:
    ward.write_scan("case_6", 6, shape=(1, 40, 40))
    done = ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_6", "--json")
    assert done.code == 0, done.err
    assert done.json["cases"][0]["shape"] == [128, 128, 128]
    affine = nibabel.load(ward.root / "prepared/case_6/imaging.nii").affine
    assert np.abs(np.linalg.det(affine[:3, :3])) > 0


def test_folders_of_any_name_are_prepared_and_none_twice(ward) -> None:
    (ward.root / "data/case_1").rename(ward.root / "data/patient")
    done = ward.forge("prepare", "kits19", "data", "prepared", "--json")
    assert done.code == 0, done.err
    assert [case["case"] for case in done.json["cases"]] == ["case_2", "case_3", "case_4", "case_5", "patient"]
    again = ward.forge("prepare", "kits19", "data", "more", "--cases", "patient", "--cases", "patient", "--json")
    assert len(again.json["cases"]) == 1


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
