"""`trtforge prepare`: scans that went through a protocol once, and what is said of those that did not."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

ENGINE = "engines/scan/seg"


def labels_of(path: Path) -> np.ndarray:
    return np.asarray(nibabel.load(path).dataobj)


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


def test_a_case_that_fails_leaves_nothing_for_a_pattern_to_find(ward) -> None:
    """Its scan was written when its truth turned out to be of another shape; and a file of a run long ago."""
    truth = ward.root / "data/case_2/segmentation.nii.gz"
    nibabel.Nifti1Image(np.zeros((3, 3, 3), np.uint8), np.eye(4)).to_filename(truth)
    (ward.root / "data/case_3/imaging.nii.gz").write_bytes(b"no scan")
    for case in ("case_3", "case_9"):
        (ward.root / "prepared" / case).mkdir(parents=True)
        (ward.root / "prepared" / case / "imaging.nii").write_bytes(b"of before")
    done = ward.forge("prepare", "kits19", "data", "prepared", *(f"--cases=case_{n}" for n in (1, 2, 3, 9)), "--json")
    assert done.code == 12 and set(done.json["failed"]) == {"case_2", "case_3", "case_9"}
    names = ("imaging.nii", "prepared.json", "segmentation.nii.gz")
    assert ward.files(ward.root / "prepared") == [*(f"case_1/{name}" for name in names), "summary.json"]
    assert [path.name for path in (ward.root / "prepared").iterdir() if path.is_dir()] == ["case_1"]


def test_a_prepared_case_stays_when_its_scan_was_deleted_since(ward) -> None:
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_1").code == 0
    before = ward.files(ward.root / "prepared")
    (ward.root / "data/case_1/imaging.nii.gz").unlink()
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_1").code == 12
    assert ward.files(ward.root / "prepared") == before


def test_a_link_to_the_raw_case_is_not_prepared_over(ward) -> None:
    (ward.root / "prepared").mkdir()
    (ward.root / "prepared/case_1").symlink_to(ward.root / "data/case_1")
    done = ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_1", "--json")
    assert done.json["failed"]["case_1"]["code"] == "USE111"
    assert ward.files(ward.root / "data/case_1") == ["imaging.nii.gz", "segmentation.nii.gz"]


def test_a_truth_that_is_gone_is_gone_from_the_prepared_case(ward) -> None:
    assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_1").code == 0
    (ward.root / "data/case_1/segmentation.nii.gz").unlink()
    done = ward.forge("prepare", "kits19", "data", "prepared", "--cases", "case_1")
    assert done.code == 0 and ward.files(ward.root / "prepared/case_1") == ["imaging.nii", "prepared.json"]
    assert "warning: 1 case (case_1) has no segmentation.nii.gz; prepared without truth" in done.err


def test_the_summary_of_prepared_cases_has_all_of_them(ward) -> None:
    for case in ("case_2", "case_1"):
        assert ward.forge("prepare", "kits19", "data", "prepared", "--cases", case).code == 0
    summary = json.loads((ward.root / "prepared/summary.json").read_text())
    assert [(case["case"], case["reused"]) for case in summary["cases"]] == [("case_1", False), ("case_2", True)]
    assert set(summary["cases"][1]["sha256"]) == {"imaging.nii", "segmentation.nii.gz"}


def test_folders_that_are_no_cases_are_told(ward) -> None:
    (ward.root / "data/case_2/imaging.nii.gz").unlink()
    (ward.root / "data/empty").mkdir()
    for _ in range(2):  # the second time, the prepared cases lie among the raw ones
        done = ward.forge("prepare", "kits19", "data", "data/prepared")
        assert done.code == 0
        warned = [line for line in done.err.splitlines() if line.startswith("warning")]
        assert warned == [
            "warning: 1 folder (case_2) has segmentation.nii.gz but no imaging.nii.gz; skipped",
            "warning: 1 folder (empty) has no imaging.nii.gz; skipped",
        ]


def test_cases_that_are_not_there_are_told_in_one_line(ward) -> None:
    done = ward.forge("prepare", "kits19", "data", "prepared", "--cases", "infer", "--cases", "case_1", "--json")
    assert done.code == 12 and len(done.json["failed"]) == 43
    (warned,) = [line for line in done.err.splitlines() if line.startswith("warning")]
    assert warned == (
        "warning: 43 of 44 cases are not there (case_00000, case_00003, case_00005 and 40 more): no imaging.nii.gz in "
        "data"
    )
    assert done.json["failed"]["case_00003"]["where"] == "data/case_00003/imaging.nii.gz"
    assert "why:   VOL101: case_00000, case_00003, case_00005 and 40 more\n" in done.err
    shown = ward.forge("prepare", "kits19", "data", "prepared", "--cases", "infer", "--cases", "case_1").out
    assert "prepared: 1 case prepared by kits19" in shown
    assert shown.count("FAILED") == 1 and "(data/case_00000/imaging.nii.gz)\n  next: fetch it" in shown


def test_a_file_where_prepared_cases_should_go_is_one_error(ward) -> None:
    (ward.root / "prepared").write_text("a file")
    done = ward.forge("prepare", "kits19", "data", "prepared")
    assert done.code == 9 and done.err.count("ENV102") == 2 and "warning" not in done.err  # the error, and its page


def test_preparing_tells_what_a_header_leaves_open(ward) -> None:
    path = ward.root / "data/case_1/imaging.nii.gz"
    image = nibabel.load(path)
    image.header.set_xyzt_units(0)
    nibabel.Nifti1Image(image.get_fdata(), image.affine, image.header).to_filename(path)
    assert "case_1: the header names no unit" in ward.forge("prepare", "kits19", "data", "prepared").err
