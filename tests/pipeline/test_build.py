"""A build: done once for the same inputs, again for any other, published only when its bound is kept."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtforge.pipeline import job as jobs
from trtforge.recipe.load import load

ORIN = (("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))
DLA = (("target: host", "target: orin-agx-64gb/dla"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))


def key(name: str = "host") -> str:
    return jobs.plan(load(Path(f"recipes/{name}.yaml")))[0].key


def engine(result: dict[str, Any]) -> dict[str, Any]:
    (only,) = result["engines"]
    return dict(only)


# -- what decides whether there is something to do ---------------------------------------------------------


def test_a_second_build_does_nothing(workshop) -> None:
    first = engine(workshop.build())
    before = {path: (workshop.root / path).stat().st_mtime_ns for path in workshop.files()}
    second = engine(workshop.build())
    assert (first["status"], first["version"]) == ("built", 1)
    assert (second["status"], second["version"]) == ("up-to-date", 1)
    assert second["key"] == first["key"]
    assert second["parity"] == first["parity"]
    assert {path: (workshop.root / path).stat().st_mtime_ns for path in workshop.files()} == before


def rewrite(path: Path) -> None:
    """The same content with another time."""
    path.write_bytes(path.read_bytes())
    os.utime(path, (1, 1))


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


CHANGES: dict[str, Callable[[Any], object]] = {
    "weights": lambda w: w.write_model(seed=1),
    "graph": lambda w: w.write_model(channels=9),
    "precision": lambda w: replace(w.root / "recipes/host.yaml", "precision: int8", "precision: fp32"),
    "passes": lambda w: replace(w.root / "recipes/host.yaml", "[infer-shapes]", "[]"),
    "shape": lambda w: replace(w.root / "recipes/host.yaml", "[1, 3, 16, 16]", "[2, 3, 16, 16]"),
    "bound": lambda w: replace(w.root / "recipes/host.yaml", "at_least: 0.9", "at_least: 0.8"),
    "samples used": lambda w: replace(w.root / "recipes/host.yaml", "cal.yaml}", "cal.yaml, samples: 5}"),
    "content of a sample": lambda w: w.write_sample(2, scale=2.0),
    "content of a sample to verify with": lambda w: w.write_sample(7, scale=2.0),
    "set": lambda w: w.write_set("cal", range(5)),
    "set to verify with": lambda w: w.write_set("held", range(6, 8)),
}

HARMLESS: dict[str, Callable[[Any], object]] = {
    "time of the model": lambda w: rewrite(w.root / "models/net.onnx"),
    "time of a sample": lambda w: rewrite(w.root / "data/2.npy"),
    "comment in the recipe": lambda w: replace(
        w.root / "recipes/host.yaml", "engines:", "# a comment\nengines: # more"
    ),
    "comment in the set": lambda w: replace(w.root / "data/cal.yaml", "samples:", "# a comment\nsamples:"),
    "order of keys": lambda w: replace(
        w.root / "recipes/host.yaml", "target: host\nbackend: onnxruntime", "backend: onnxruntime\ntarget: host"
    ),
    "value equal to the default": lambda w: replace(
        w.root / "recipes/host.yaml", "precision: int8", "precision: int8\n    workspace: 1GiB"
    ),
    "another path to the same model": lambda w: (
        shutil.move(w.root / "models/net.onnx", w.root / "models/moved.onnx"),
        replace(w.root / "recipes/host.yaml", "net.onnx", "moved.onnx"),
    ),
    "another engine beside it": lambda w: replace(
        w.root / "recipes/host.yaml",
        "engines:\n",
        "engines:\n  other: {model: {onnx: ../models/net.onnx}, inputs: {x: {shape: [1, 3, 9, 9]}}, precision: fp32}\n",
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_every_input_changes_the_key_and_brings_a_new_version(workshop, change: str) -> None:
    first = engine(workshop.build())
    CHANGES[change](workshop)
    second = engine(workshop.build())
    assert second["key"] != first["key"]
    assert (second["status"], second["version"]) == ("built", 2)


@pytest.mark.parametrize("change", HARMLESS)
def test_nothing_else_does(workshop, change: str) -> None:
    first = engine(workshop.build())
    HARMLESS[change](workshop)
    second = engine(workshop.build("--only", "net"))
    assert second["key"] == first["key"]
    assert second["status"] == "up-to-date"


def test_the_working_directory_is_no_input(workshop, monkeypatch) -> None:
    first = engine(workshop.build("--store", workshop.store))
    (workshop.root / "elsewhere").mkdir()
    monkeypatch.chdir(workshop.root / "elsewhere")
    done = workshop.forge("build", "../recipes/host.yaml", "--json", "--store", "../engines/host")
    assert engine(done.json)["status"] == "up-to-date"
    assert engine(done.json)["key"] == first["key"]


def test_the_place_of_the_project_is_no_input(workshop, monkeypatch) -> None:
    before = key()
    moved = workshop.root.parent / "another place"
    shutil.copytree(workshop.root, moved)
    monkeypatch.chdir(moved)
    assert key() == before


def test_versions_of_tools_and_the_target_are_inputs(workshop, monkeypatch) -> None:
    before = key()
    workshop.bend("orin", *ORIN)
    workshop.bend("dla", *DLA)
    assert len({before, key("orin"), key("dla")}) == 3
    installed = jobs.metadata.version
    for tool in jobs.TOOLS:
        with monkeypatch.context() as patch:
            patch.setattr(jobs.metadata, "version", lambda name, tool=tool: "0.0" if name == tool else installed(name))
            assert key() != before, tool
    monkeypatch.setattr(jobs, "source_digest", lambda: "f" * 64)
    assert key() != before


def test_external_weights_are_inputs(workshop) -> None:
    import onnx

    path = workshop.root / "models/net.onnx"
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    first = engine(workshop.build())
    weights = workshop.root / "models/weights.bin"
    data = bytearray(weights.read_bytes())
    data[0] ^= 1  # the lowest bit of a weight: the model still runs
    weights.write_bytes(data)
    second = engine(workshop.build())
    assert second["version"] == 2
    assert second["key"] != first["key"]


def test_force_builds_again_and_reuses_the_calibration(workshop, steady) -> None:
    first = engine(workshop.build())
    done = workshop.forge("build", "recipes/host.yaml", "--force")
    assert "engines/host/net/2: built" in done.out
    assert "calibrated earlier" in done.out
    one, two = (json.loads((workshop.store / f"net/{v}/manifest.json").read_text()) for v in (1, 2))
    assert one["files"] == two["files"]  # the same inputs give the same bytes
    assert one["key_inputs"] == two["key_inputs"]
    assert first["version"] == 1


def test_a_damaged_engine_is_built_again(workshop) -> None:
    workshop.build()
    (workshop.store / "net/1/model.onnx").unlink()
    assert engine(workshop.build())["version"] == 2


# -- options -----------------------------------------------------------------------------------------------


def test_only_builds_the_engine_that_is_named(workshop) -> None:
    text = workshop.bend("host").read_text()
    workshop.recipe("host", text + text.partition("engines:\n")[2].replace("  net:", "  second:"))
    assert engine(workshop.build("--only", "second"))["engine"] == "second"
    assert sorted(path.name for path in workshop.store.glob("[!.]*")) == ["second"]
    built = workshop.build()["engines"]
    assert {item["engine"]: item["status"] for item in built} == {"net": "built", "second": "up-to-date"}


def test_set_overrides_a_value(workshop) -> None:
    done = engine(workshop.build("--set", "engines.net.precision=fp32"))
    manifest = json.loads((workshop.root / done["path"] / "manifest.json").read_text())
    assert manifest["recipe"]["precision"] == "fp32"
    assert manifest["calibration"] is None
    assert done["parity"]["value"] == pytest.approx(1.0, abs=1e-6)
    assert not (workshop.cache / "scales").exists()


def test_a_batch_of_two(workshop) -> None:
    done = engine(workshop.build("--set", "engines.net.inputs.x.shape=[2, 3, 16, 16]"))
    assert done["parity"]["samples"] == 3  # three samples through a batch of two
    ran = workshop.forge("run", done["path"], "data/held.yaml", "--json")
    assert ran.json["passed"] is True


def test_the_lock_pins_and_locked_refuses_any_drift(workshop) -> None:
    lock = workshop.root / "recipes/trtforge.lock"
    assert workshop.build("--locked", code=7)["error"]["code"] == "ENG121"
    assert not lock.exists()
    first = workshop.forge("build", "recipes/host.yaml")
    assert "inputs pinned in recipes/trtforge.lock" in first.err
    assert "->" not in first.err
    pinned = lock.read_bytes()
    assert engine(workshop.build("--locked"))["status"] == "up-to-date"
    assert engine(workshop.build("--locked", "--force"))["status"] == "built"
    workshop.write_model(seed=1)
    refused = workshop.build("--locked", code=7)["error"]
    assert refused["code"] == "ENG122"
    assert "model: " in refused["why"]
    assert " -> " in refused["why"]
    assert not (workshop.store / "net/3").exists()
    assert lock.read_bytes() == pinned
    accepted = workshop.forge("build", "recipes/host.yaml")
    assert "trtforge.lock: model: " in accepted.err
    assert engine(workshop.build("--locked"))["status"] == "up-to-date"


def test_two_builds_at_once_do_the_work_once(workshop) -> None:
    both = [workshop.start("build", "recipes/host.yaml", "--json") for _ in range(2)]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert sorted(engine(json.loads(out))["status"] for out, _, _ in ended) == ["built", "up-to-date"]
    assert [path.name for path in sorted((workshop.store / "net").glob("[0-9]*"))] == ["1"]


def test_two_targets_at_once_calibrate_once(workshop) -> None:
    workshop.bend("second")
    both = [workshop.start("build", f"recipes/{name}.yaml") for name in ("host", "second")]
    ended = [(*process.communicate(timeout=120), process.returncode) for process in both]
    assert [code for _, _, code in ended] == [0, 0], ended
    assert sorted("calibrated now" in out for out, _, _ in ended) == [False, True]


# -- verification ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["host", "orin"])
def test_nothing_is_published_when_the_bound_is_missed(workshop, recipe: str) -> None:
    changes = ORIN if recipe == "orin" else ()
    workshop.bend(recipe, *changes, ("metric: cosine, at_least: 0.9", "metric: sqnr_db, at_least: 500"))
    for _ in range(2):  # nor does it count as done
        error = workshop.build(recipe=recipe, code=8)["error"]
        assert error["code"] == "VER101"
        assert "at least 500" in error["what"]
        store = workshop.root / "engines" / recipe
        assert [file for file in workshop.files(store) if not Path(file).name.startswith(".")] == []
    assert not (workshop.root / "recipes/trtforge.lock").exists()


def test_without_a_bound_nothing_is_compared(workshop) -> None:
    text = workshop.bend("host").read_text().partition("    verify")[0]
    workshop.recipe("host", text)
    assert engine(workshop.build())["parity"] is None


# -- the engine itself -------------------------------------------------------------------------------------


def test_the_manifest_says_how_the_engine_came_to_be(workshop) -> None:
    done = engine(workshop.build())
    manifest = json.loads((workshop.root / done["path"] / "manifest.json").read_text())
    assert manifest["key_inputs"]["engine"] == "net"
    assert manifest["model"]["origin"] == "models/net.onnx"
    assert len(manifest["calibration"]["samples"]) == 6
    assert manifest["parity"]["value"] == done["parity"]["value"]
    assert manifest["tools"]["onnxruntime"]
    assert [report["name"] for report in manifest["surgery"]] == ["infer-shapes"]
    assert str(workshop.root) not in json.dumps(manifest)


def test_no_temporary_file_is_left(workshop) -> None:
    workshop.build()
    workshop.bend("orin", *ORIN)
    workshop.build(recipe="orin", code=10)
    assert list((workshop.cache / "work").glob("build-*")) == []
    assert [file for file in workshop.files() if file.endswith((".part", ".tmp")) or ".staging" in file] == []


@pytest.mark.parametrize("file", ["model.onnx", "scales.json"])
def test_a_flipped_byte_is_refused_before_anything_is_loaded(workshop, monkeypatch, file: str) -> None:
    workshop.build()
    path = workshop.store / "net/1" / file
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 0x10
    path.write_bytes(data)

    def load(*_: object) -> None:
        raise AssertionError("a changed engine was handed to its runtime")

    monkeypatch.setattr("trtforge.backends.onnxruntime_.backend.OnnxruntimeBackend.load", load)
    done = workshop.forge("run", "engines/host/net", "data/held.yaml", "--json")
    assert done.code == 7
    assert done.json["error"]["code"] == "ENG111"
