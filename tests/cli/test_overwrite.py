"""No command writes a result over what it reads, nor over another result; under no name of the same file."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import onnx
import pytest

from trtforge.digest import sha256_file

QUANTIZED = Path(__file__).parents[1] / "scales" / "quantized" / "conv_net.modelopt.onnx"
DLA = ["--set", "target=orin-agx-64gb/dla", "--set", "backend=tensorrt", "--set", 'tensorrt="8.6"']

CONVERT = ["scales", "convert", "q.onnx"]
TO_CACHE = ["--to", "trt-cache"]


@pytest.fixture
def shop(workshop):
    """Models, caches and recipes, some under two names: `base.yaml` is extended, `*.link` are links."""
    root = workshop.root
    shutil.copy(QUANTIZED, root / "q.onnx")
    (root / "x.cache").write_text("TRT-8602-MinMaxCalibration\nx: 3c010204\n")
    (root / "fill.cache").write_text("TRT-8602-MinMaxCalibration\nmain_2: 3c010204\n")
    workshop.recipe("top", "extends: host.yaml\n")
    os.link(root / "q.onnx", root / "hard.link")
    (root / "soft.link").symlink_to(root / "models" / "net.onnx")
    proto = onnx.load(root / "models" / "net.onnx")
    path = root / "models" / "wide.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="wide.bin", size_threshold=0)
    workshop.bend("wide", ("net.onnx", "wide.onnx"))
    return workshop


def contents(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): sha256_file(path)
        for path in root.rglob("*")
        if path.is_file() and ".cache/" not in str(path)
    }


def refused(shop, args: list[str], what: str) -> str:
    """The command's error, which has changed nothing."""
    before = contents(shop.root)
    done = shop.forge(*args)
    assert done.code == 2 and f"error[USE111]: {what}" in done.err, done.err
    assert contents(shop.root) == before
    return done.err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        ([*CONVERT, "q.onnx", *TO_CACHE], "OUT would be written over SCALES"),
        ([*CONVERT, "./models/../q.onnx", *TO_CACHE], "OUT would be written over SCALES"),
        ([*CONVERT, "hard.link", *TO_CACHE], "OUT would be written over SCALES"),
        ([*CONVERT, "o", *TO_CACHE, "--plain", "q.onnx"], "--plain would be written over SCALES"),
        ([*CONVERT, "o", *TO_CACHE, "--plain", "o"], "--plain would be written over OUT"),
        ([*CONVERT, "o", *TO_CACHE, "--plain", "p", "--precisions", "p"], "--precisions would be written over --plain"),
        ([*CONVERT, "fill.cache", *TO_CACHE, "--fill", "fill.cache"], "OUT would be written over --fill"),
        (
            ["scales", "convert", "x.cache", "models/net.onnx", "--to", "qdq", "--model", "models/net.onnx"],
            "OUT would be written over --model",
        ),
        (
            ["scales", "convert", "x.cache", "soft.link", "--to", "qdq", "--model", "models/net.onnx"],
            "OUT would be written over --model",
        ),
        (
            ["scales", "convert", "x.cache", "models/wide.bin", "--to", "qdq", "--model", "models/wide.onnx"],
            "OUT would be written over the weights of --model",
        ),
        (["surgery", "recipes/top.yaml", "--out", "models/net.onnx"], "the model after surgery would be written over"),
        (
            ["surgery", "recipes/top.yaml", "--out", "soft.link"],
            "the model after surgery would be written over the mod",
        ),
        (["surgery", "recipes/top.yaml", "--out", "recipes/top.yaml"], "the model after surgery would be written over"),
        (
            ["surgery", "recipes/top.yaml", "--out", "recipes/host.yaml"],
            "the model after surgery would be written over",
        ),
        (
            ["surgery", "recipes/wide.yaml", "--out", "models/wide.bin"],
            "the model after surgery would be written over the weights of the model",
        ),
        (["surgery", "recipes/top.yaml", "--out", "data/0.npy"], "the model after surgery would be written over a sam"),
        (
            ["lint", "recipes/top.yaml", *DLA, "--html", "recipes/host.yaml"],
            "the page would be written over the recipe",
        ),
        (["lint", "recipes/top.yaml", *DLA, "--html", "models/net.onnx"], "the page would be written over the model"),
        (
            ["lint", "recipes/top.yaml", *DLA, "--html", "data/held.yaml"],
            "the page would be written over the verify set",
        ),
        (["build", "recipes/top.yaml", "--out", "recipes/top.yaml"], "the kit would be written over the recipe"),
        (["build", "recipes/top.yaml", "--out", "models/net.onnx"], "the kit would be written over the model"),
        (["build", "recipes/top.yaml", "--out", "data/cal.yaml"], "the kit would be written over the calibration set"),
    ],
)
def test_a_result_over_an_input_is_refused(shop, args: list[str], what: str) -> None:
    refused(shop, args, what)


def test_a_link_is_told_with_the_name_that_was_given(shop) -> None:
    assert "it is the same file as q.onnx" in refused(shop, [*CONVERT, "hard.link", *TO_CACHE], "OUT")
    assert "both have this name" in refused(shop, [*CONVERT, "q.onnx", *TO_CACHE], "OUT")


def test_no_result_goes_over_weights_that_go_with_another(shop) -> None:
    """A model that is written takes its external data along, under its name."""
    q = onnx.load(shop.root / "q.onnx")
    onnx.save(q, shop.root / "far.onnx", save_as_external_data=True, location="far.bin", size_threshold=0)
    (shop.root / "d").mkdir()
    to_plain = ["scales", "convert", "far.onnx", "d/o.cache", *TO_CACHE, "--plain", "d/p.onnx", "--precisions"]
    refused(shop, [*to_plain, "d/far.bin"], "--precisions would be written over the weights of --plain")
    assert shop.forge(*to_plain, "d/layers.json").code == 0
    assert sorted(path.name for path in (shop.root / "d").iterdir()) == ["far.bin", "layers.json", "o.cache", "p.onnx"]


def test_a_sweep_does_not_go_over_its_recipe(shop) -> None:
    (shop.root / "recipes/host.yaml").rename(shop.root / "recipes/cpu.yaml")
    tune = ["tune", "recipes/cpu.yaml", "--batches", "1", "--streams", "1", "--seconds", "0.1", "--out", "recipes"]
    refused(shop, tune, "a result would be written over the recipe")


def test_a_kit_does_not_go_over_its_key(shop) -> None:
    (shop.root / "key.pem").write_text("a key")
    refused(shop, ["build", "recipes/top.yaml", "--out", "key.pem", "--sign", "key.pem"], "the kit would be written ov")


def test_ranges_do_not_go_over_what_they_are_gathered_from(shop) -> None:
    shop.bend("odd", ("net.onnx", "net.scales.json"))
    shutil.copy(shop.root / "models/net.onnx", shop.root / "models/net.scales.json")
    refused(shop, ["calibrate", "recipes/odd.yaml", "--out", "models"], "the scales would be written over the model")
    assert shop.forge("calibrate", "recipes/top.yaml", "--out", "data").code == 0
    assert shop.forge("calibrate", "recipes/top.yaml", "--out", "data").code == 0  # its own are made anew


def test_outputs_do_not_go_over_samples_sets_models_or_the_engine(shop) -> None:
    import numpy as np

    shop.build()
    shutil.copy(shop.root / "models" / "net.onnx", shop.root / "net.json")
    run = ["run", "engines/host/net"]
    version = next((shop.root / "engines/host/net").glob("*/manifest.json"))
    over = "the outputs would be written over "
    shutil.copy("data/0.npy", "a.npy")
    np.savez("a.npy.npz", x=np.load("a.npy"))  # what the outputs of a.npy are called
    refused(shop, [*run, "a.npy", "a.npy.npz", "--out", "."], over + "a sample")
    listed = shop.write_set("set", range(2)).rename(shop.root / "data" / "0.npy.npz.yaml")
    assert shop.forge(*run, str(listed), "--out", "data").code == 0  # beside the samples, over none
    refused(shop, [*run, "data/0.npy", "--out", str(version)], over + "the engine")
    refused(shop, [*run, "data/0.npy", "--model", "net.json", "--out", "net.json"], over + "the FP32 model")
    (shop.root / "a_b.npy").write_bytes((shop.root / "data/0.npy").read_bytes())
    (shop.root / "a").mkdir()
    shutil.copy("a_b.npy", "a/b.npy")
    refused(shop, [*run, "a_b.npy", "a/b.npy", "--out", "outputs"], over + "the outputs")
    assert shop.forge(*run, "data/0.npy", "--out", "outputs").code == 0


def test_labels_do_not_go_over_the_set_the_model_or_the_engine(ward) -> None:
    ward.build(recipe="scan")
    run = ["run", "engines/scan/seg"]
    os.link(ward.root / "data/case_4/imaging.nii.gz", ward.root / "other.nii.gz")
    shutil.copy(ward.root / "models/seg.onnx", ward.root / "page.html")
    refused(
        ward,
        [*run, "data/case_4/imaging.nii.gz", "--out", "other.nii.gz"],
        "the labels would be written over the scan",
    )
    page = [*run, "data/case_4/imaging.nii.gz", "--model", "page.html", "--html", "page.html"]
    refused(ward, page, "the page would be written over the FP32 model")


def test_a_pipe_is_written_to_and_stays_one(shop) -> None:
    """Also `/dev/stdout` and `/dev/null`, which root would take from every other program."""
    pipe, got = shop.root / "pipe", list[bytes]()
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()), daemon=True)
    reader.start()
    done = shop.forge("scales", "convert", "x.cache", "pipe", "--to", "trt-cache")
    assert done.code == 0 and pipe.is_fifo()
    reader.join(10)
    assert got == [(shop.root / "x.cache").read_bytes()]
