"""A file of another kind than the command takes is called by its name, and the command that takes it is told."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from trtforge import kinds
from trtforge.kinds import kind_at

ORIN = (("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))
ENGINE = "engines/host/net"


@pytest.fixture
def full(workshop):
    """A project that has one of everything."""
    from PIL import Image

    workshop.build()
    workshop.bend("orin", *ORIN)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    assert workshop.forge("scales", "convert", ENGINE, "net.cache", "--to", "trt-cache").code == 0
    Image.new("RGB", (16, 16)).save(workshop.root / "photo.png")
    Image.new("RGB", (16, 16)).save(workshop.root / "camera", format="JPEG")  # content counts, not the name
    (workshop.root / "part.yaml").write_text("# a licence\n\nextends: recipes/host.yaml\n")
    (workshop.root / "flow.yaml").write_text('{"samples": ["data/6.npy"], name: target}\n')
    (workshop.root / "scan.nii.gz").write_bytes(b"\x1f\x8b")
    (workshop.root / "model.plan").write_bytes(b"ftrt" + bytes(60))
    np.savez(workshop.root / "data" / "6.npz", x=np.zeros((3, 16, 16), np.float32))
    return workshop


def test_everything_is_recognised(full) -> None:
    there = {
        "recipes/host.yaml": kinds.RECIPE,
        "part.yaml": kinds.RECIPE,
        "data/cal.yaml": kinds.SAMPLES,
        "flow.yaml": kinds.SAMPLES,
        "models/net.onnx": kinds.MODEL,
        "model.plan": kinds.PLAN,
        "engines/orin/net.kit.tar.zst": kinds.KIT,
        f"{ENGINE}/1/scales.json": kinds.SCALES,
        "net.cache": kinds.SCALES,
        "recipes/trtforge.lock": kinds.LOCK,
        ENGINE: kinds.ENGINE,
        f"{ENGINE}/1": kinds.ENGINE,
        "engines/host": kinds.STORE,
        "photo.png": kinds.IMAGE,
        "camera": kinds.IMAGE,
        "data/6.npy": kinds.ARRAY,
        "data/6.npz": kinds.ARRAY,
        "scan.nii.gz": kinds.SCAN,
        "pyproject.toml": None,
        "data": None,
        "nothing.yaml": None,
    }
    assert {name: kind_at(Path(name)) for name in there} == there


def test_a_pipe_is_left_to_its_reader(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "net.cache")
    assert kind_at(tmp_path / "net.cache") is None  # opening it would wait for a writer for ever


def test_a_json_of_gigabytes_is_not_held_in_memory(tmp_path: Path) -> None:
    """Annotations of a data set beside a mistyped sample set, for one: what is beside it is looked at for its name."""
    (tmp_path / "instances.json").write_bytes(b"{")
    os.truncate(tmp_path / "instances.json", 1 << 30)
    tracemalloc.start()
    try:
        assert kind_at(tmp_path / "instances.json") is None
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("command", "what", "advice"),
    [
        (
            "run recipes/host.yaml data/6.npy",
            "host.yaml is a recipe, not an engine",
            "trtforge build recipes/host.yaml",
        ),
        ("run photo.png engines/host/net", "photo.png is an image, not an engine", "trtforge run ENGINE photo.png"),
        (
            "run engines/orin/net.kit.tar.zst data/6.npy",
            "net.kit.tar.zst is a kit, not an engine",
            "trtforge finish engines/orin/net.kit.tar.zst",
        ),
        (
            "run engines/host/net data/6.npy data/cal.yaml",
            "cal.yaml is a sample set",
            "trtforge run ENGINE data/cal.yaml",
        ),
        ("run engines/host/net data/6.npy --model photo.png", "photo.png is an image, not an ONNX model", ""),
        ("finish recipes/host.yaml", "host.yaml is a recipe, not a kit", "trtforge build recipes/host.yaml --kit"),
        ("finish engines/host/net --only-check", "engines/host/net is an engine, not a kit", "trtforge inspect"),
        ("lint models/net.onnx", "net.onnx is an ONNX model, not a recipe", "trtforge inspect models/net.onnx"),
        ("build data/cal.yaml", "cal.yaml is a sample set, not a recipe", "trtforge run ENGINE data/cal.yaml"),
        ("calibrate engines/host", "engines/host is an engine store, not a recipe", "trtforge inspect engines/host"),
        ("surgery camera", "camera is an image, not a recipe", "trtforge run ENGINE camera"),
        ("tune net.cache", "net.cache is a file of scales, not a recipe", "trtforge scales show net.cache"),
        ("recipe show engines/orin/net.kit.tar.zst", "net.kit.tar.zst is a kit, not a recipe", "trtforge finish"),
        ("scales show recipes/host.yaml", "is a recipe, not a file of scales or an", "trtforge calibrate recipes/host"),
        ("scales diff net.cache data/6.npy", "6.npy is an array, not a file of scales", "trtforge run ENGINE"),
        ("inspect scan.nii.gz", "scan.nii.gz is a scan, not", "trtforge run ENGINE scan.nii.gz"),
    ],
)
def test_each_command_says_what_it_was_given(full, command: str, what: str, advice: str) -> None:
    before = full.files()
    refused = full.forge(*command.split(), "--json")
    assert refused.code == 2
    error = refused.json["error"]
    assert error["code"] == "USE107"
    assert what in error["what"] and error["next"].startswith(advice)
    assert error["where"] in command.split()
    assert full.files() == before


def test_the_advice_for_a_recipe_in_place_of_an_engine_works(full) -> None:
    error = full.forge("run", "recipes/host.yaml", "data/6.npy", "--json").json["error"]
    assert full.forge(*error["next"].split(",")[0].split()[1:]).code == 0


def test_the_advice_can_be_copied(workshop) -> None:
    import shlex

    odd = (workshop.root / "recipes/host.yaml").rename(workshop.root / "recipes/my host.yaml")
    error = workshop.forge("inspect", odd.relative_to(workshop.root), "--json").json["error"]
    assert workshop.forge(*shlex.split(error["next"])[1:]).code == 0


def test_a_file_that_nobody_knows_is_called_by_its_name(full) -> None:
    error = full.forge("run", "pyproject.toml", "data/6.npy", "--json").json["error"]
    assert error["code"] == "ENG106" and error["what"] == "pyproject.toml is no engine"


def test_files_of_an_engine_stand_for_it(full) -> None:
    for file in ("1/manifest.json", "1/model.onnx", "config.pbtxt"):
        assert full.forge("run", f"{ENGINE}/{file}", "data/6.npy").code == 0, file


def test_a_mistyped_recipe_is_told_of_recipes_alone(full) -> None:
    root = full.root / "recipes"
    (root / "hosts.yaml").write_text("samples: [x.npy]\n")
    for typed, advice in (
        ("recipes/host", "did you mean recipes/host.yaml?"),
        ("recipes/hots.yaml", "did you mean recipes/host.yaml?"),
        ("recipes/nope.yaml", "recipes in that folder: host.yaml, orin.yaml"),
        ("recipes", "name a recipe in it: host.yaml, orin.yaml"),
    ):
        assert full.forge("build", typed, "--json").json["error"]["next"] == advice
