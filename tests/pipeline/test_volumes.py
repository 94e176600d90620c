"""Scans through a real engine: labels on the scan's own grid, whatever way it lies; cohorts that go on."""

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
    assert "1 of 2 scans was used for calibration: case_1" in done.err


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


@pytest.mark.parametrize(("names", "channels"), [("[a, b, c, d, e]", 3), ("[a, b]", 3), ("[a]", 1), ("[a, b, c]", 1)])
def test_names_of_classes_are_held_against_the_network(ward, names: str, channels: int) -> None:
    """Before calibration, with the recipe's line; one channel is a yes or no, which has two names."""
    if channels == 1:
        one_channel(ward)
    text = (ward.root / "recipes/scan.yaml").read_text().replace("[background, organ, lesion]", names)
    line = text.splitlines().index(next(row for row in text.splitlines() if "classes" in row)) + 1
    ward.recipe("scan", text)
    for command in (("build", "recipes/scan.yaml"), ("calibrate", "recipes/scan.yaml")):
        done = ward.forge(*command, "--json")
        error = done.json["error"]
        assert done.code == 3 and error["code"] == "RCP117"
        assert error["where"].startswith(f"recipes/scan.yaml:{line}:") and "'y' is [1, " in error["why"]
        assert f"write {max(channels, 2)} names" in error["next"]
    assert not (ward.cache / "scales").exists()


@pytest.mark.parametrize("classes", ["", "classes: [background, organ], "])
def test_a_network_of_one_channel_has_two_classes(ward, classes: str) -> None:
    one_channel(ward)
    text = (ward.root / "recipes/scan.yaml").read_text().replace("classes: [background, organ, lesion], ", classes)
    ward.recipe("scan", text)
    ward.build(recipe="scan")
    done = ward.forge("run", ENGINE, "data/case_4/imaging.nii.gz", "--out", "labels.nii.gz", "--json")
    assert list(done.json["cases"][0]["millilitres"]) == ["organ" if classes else "class 1"]
    assert set(np.unique(labels_of(ward.root / "labels.nii.gz"))) == {0, 1}


def one_channel(ward: Any) -> None:
    """The ward's network with the score of the organ alone."""
    import onnx

    path = ward.root / "models/seg.onnx"
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor)[1:2], tensor.name))
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 1
    onnx.save(model, path)


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
