"""Kernel times of native TensorRT: kept beside the engine, pinned by the lock, and the only ones under `--locked`.

The compiler's process is a stand-in that measures one kernel more than its file has; tests/native holds the real one's
code to NVIDIA's bindings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from trtforge.digest import sha256_file
from trtforge.engines.kit import read_kit

COMPILER = """
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def emit(**event): print(json.dumps(event), file=events)
options = job["options"]
times = Path(options["timing_cache"]) if options["timing_cache"] else None
known = times.read_text() if times and times.exists() else ""
wanted = Path(__file__).with_name("kernels").read_text()
if options["timing_locked"] and known != wanted:
    emit(event="failed", stage="timing", message=f"{known!r} is not {wanted!r}")
    sys.exit(1)
if times:
    times.write_text(wanted)
Path(job["plan"]).write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100))
Path(options["inspect"]).write_text('{"Layers": []}')
def tensor(mode, shape): return {"mode": mode, "dtype": "FLOAT", "format": "linear", "shape": shape}
tensors = {"x": tensor("input", [1, 3, 16, 16]), "y": tensor("output", [1, 4])}
engine = {"layers": 9, "hardware_compatibility": "none", "device_memory": 64, "tensors": tensors, "devices": {}}
emit(event="done", version="10.3.0.26", parse_seconds=0, build_seconds=0, inputs=[], outputs=[], engine=engine,
     placement=[], calibration=None)
"""
PIN = "timing cache of orin-agx-64gb/gpu, TensorRT 10.3.0.26"


def orin_recipe(workshop: Any) -> None:
    workshop.bend(
        "orin",
        ("target: host", "target: orin-agx-64gb/gpu"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "10.3"'),
        ("    verify: {set: ../data/held.yaml, metric: cosine, at_least: 0.9}\n", ""),
    )


@pytest.fixture
def orin(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """A recipe for it, and a switch: is this machine one?"""
    from trtforge.backends.nvidia import process
    from trtforge.backends.tensorrt_ import environment, registry
    from trtforge.pipeline import finish

    orin_recipe(workshop)
    (workshop.root / "stand_in.py").write_text(COMPILER)
    measures(workshop, "one")
    monkeypatch.setenv("PYTHONPATH", str(workshop.root))
    monkeypatch.setattr(process, "_CHILD", "stand_in")
    monkeypatch.setattr(registry, "creators", frozenset)
    monkeypatch.setattr(finish, "compute_capability", lambda: "8.7")

    def here(device: bool) -> None:
        monkeypatch.setattr(environment, "problem", lambda: ("", "") if device else ("there is no GPU", "go there"))
        monkeypatch.setattr(environment, "version", lambda: "10.3.0.26" if device else "")

    here(True)
    return here


def measures(workshop: Any, kernels: str) -> None:
    """What the compiler wants the times of from now on."""
    (workshop.root / "kernels").write_text(kernels)


def pins(workshop: Any) -> dict[str, str]:
    lock = json.loads((workshop.root / "recipes/trtforge.lock").read_text())
    return dict(lock["recipes"]["orin.yaml"]["net"]["inputs"])


def build(workshop: Any, *args: str, code: int = 0) -> Any:
    return workshop.build(*args, recipe="orin", code=code)


def times(workshop: Any, version: int) -> Path:
    return Path(workshop.root / f"engines/orin/net/{version}/timing.cache")


def test_what_a_build_measured_is_pinned(workshop: Any, orin: Any) -> None:
    build(workshop)
    assert times(workshop, 1).read_text() == "one"
    assert pins(workshop)[PIN] == sha256_file(times(workshop, 1))
    manifest = json.loads(times(workshop, 1).with_name("manifest.json").read_text())
    assert manifest["files"]["timing.cache"]["sha256"] == pins(workshop)[PIN]
    assert build(workshop, "--locked")["engines"][0]["status"] == "up-to-date"
    assert build(workshop, "--locked", "--force")["engines"][0]["status"] == "built"
    assert times(workshop, 2).read_text() == "one"


def test_other_builds_for_the_target_do_not_touch_it(workshop: Any, orin: Any) -> None:
    """They add to what this machine knows; the engine's own file is the one that is pinned."""
    build(workshop)
    measures(workshop, "one two")
    build(workshop, "--set", "engines.net.workspace=2GiB", "--store", "elsewhere")
    measures(workshop, "one")
    build(workshop, "--locked", "--force")
    assert times(workshop, 2).read_text() == "one"


def test_a_kernel_without_a_time_is_an_error(workshop: Any, orin: Any) -> None:
    build(workshop)
    measures(workshop, "one two")
    refused = build(workshop, "--locked", "--force", code=6)["error"]
    assert refused["code"] == "BLD224" and "'one' is not 'one two'" in refused["why"]
    before = pins(workshop)[PIN]
    build(workshop, "--force")
    assert pins(workshop)[PIN] != before and times(workshop, 2).read_text() == "one two"
    assert build(workshop, "--locked", "--force")["engines"][0]["status"] == "built"


@pytest.mark.parametrize("damaged", [False, True])
def test_times_that_are_gone(workshop: Any, orin: Any, damaged: bool) -> None:
    build(workshop)
    (shared,) = (workshop.cache / "timing").glob("*.cache")
    kept = times(workshop, 1).read_bytes()
    for path in (shared, times(workshop, 1)):
        path.write_bytes(b"changed") if damaged else path.unlink()
    refused = build(workshop, "--locked", "--force", code=7)["error"]
    assert refused["code"] == "ENG124" and pins(workshop)[PIN] in refused["why"]
    shared.with_name("from-elsewhere.cache").write_bytes(kept)
    assert build(workshop, "--locked", "--force")["engines"][0]["status"] == "built"


def test_an_engine_that_was_built_by_other_times(workshop: Any, orin: Any) -> None:
    """The same inputs, so nothing would be compiled; but it is not the engine that the lock means."""
    build(workshop)
    brought, lock = workshop.cache / "timing" / "pinned.cache", workshop.root / "recipes/trtforge.lock"
    brought.write_text("elsewhere")
    lock.write_text(lock.read_text().replace(pins(workshop)[PIN], sha256_file(brought)))
    refused = build(workshop, "--locked", code=7)["error"]
    assert refused["code"] == "ENG122" and PIN in refused["why"] and "--force" in refused["next"]
    measures(workshop, "elsewhere")
    assert build(workshop, "--locked", "--force")["engines"][0]["status"] == "built"
    assert build(workshop, "--locked")["engines"][0]["status"] == "up-to-date"


def test_a_lock_without_times(workshop: Any, orin: Any) -> None:
    """A kit pins what it is made of; what the device will measure nobody knows yet."""
    orin(False)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    assert PIN not in pins(workshop)
    assert workshop.forge("build", "recipes/orin.yaml", "--locked").code == 10
    refused = workshop.forge("build", "recipes/orin.yaml", "--locked", "--on", "ssh://nobody@localhost:1", "--json")
    assert refused.json["error"]["code"] == "ENG121" and "no timing cache is locked" in refused.json["error"]["what"]


def test_no_times_where_the_recipe_wants_none(workshop: Any, orin: Any) -> None:
    recipe = workshop.root / "recipes/orin.yaml"
    recipe.write_text(recipe.read_text() + "    builder: {timing_cache: false}\n")
    build(workshop)
    assert PIN not in pins(workshop) and not times(workshop, 1).exists()
    assert build(workshop, "--locked", "--force")["engines"][0]["status"] == "built"


def test_a_locked_kit_brings_them(workshop: Any, orin: Any) -> None:
    """So a device that never built the engine makes the same one; a kit that is not locked lets it measure."""
    build(workshop)
    measures(workshop, "one two")
    free = build(workshop, "--kit")["engines"][0]
    assert pins(workshop)[PIN] == sha256_file(times(workshop, 1)), "a kit does not forget what is pinned"
    assert "timing.cache" not in read_kit(Path(free["path"])).info.members
    locked = build(workshop, "--kit", "--locked")["engines"][0]
    assert read_kit(Path(locked["path"])).info.members["timing.cache"].sha256 == pins(workshop)[PIN]
    (workshop.cache / "timing" / "orin-agx-64gb-gpu-tensorrt-10.3.0.26.cache").unlink()
    refused = workshop.forge("finish", locked["path"], "--store", "there", "--json")
    assert refused.json["error"]["code"] == "BLD224"
    measures(workshop, "one")
    assert workshop.forge("finish", locked["path"], "--store", "there").code == 0
    assert (workshop.root / "there/net/1/timing.cache").read_text() == "one"
    assert not list((workshop.cache / "timing").glob("*.cache")), "pinned times are not mixed with this machine's"
    again = build(workshop, "--kit")["engines"][0]
    assert "timing.cache" not in read_kit(Path(again["path"])).info.members
