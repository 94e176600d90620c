"""Coming back to a store: to earlier inputs, to a damaged engine, after the cache was emptied, from an experiment."""

from __future__ import annotations

import json
import shutil

import pytest


def engine(done) -> dict:
    (only,) = done.json["engines"]
    return only


def test_earlier_inputs_become_the_newest_version_without_compiling(workshop) -> None:
    first = engine(workshop.forge("build", "recipes/host.yaml", "--json"))
    engine(workshop.forge("build", "recipes/host.yaml", "--json", "--set", "engines.net.precision=fp32"))
    back = engine(workshop.forge("build", "recipes/host.yaml", "--json"))
    again = engine(workshop.forge("build", "recipes/host.yaml", "--json"))
    assert (back["status"], back["version"], back["key"]) == ("republished", 3, first["key"])
    assert (again["status"], again["version"]) == ("up-to-date", 3)
    files = [workshop.store / "net" / version / "model.onnx" for version in ("1", "3")]
    assert files[0].read_bytes() == files[1].read_bytes()
    ran = workshop.forge("run", "host/net", "data/held.yaml", "--json")
    assert (ran.json["precision"], ran.code) == ("int8", 0)


def test_a_flipped_byte_is_built_again(workshop) -> None:
    workshop.forge("build", "recipes/host.yaml")
    path = workshop.store / "net" / "1" / "model.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert workshop.forge("run", "host/net", "data/held.yaml").code == 7
    again = engine(workshop.forge("build", "recipes/host.yaml", "--json"))
    assert (again["status"], again["version"]) == ("built", 2)
    assert workshop.forge("run", "host/net", "data/held.yaml").code == 0


def test_a_damaged_older_version_is_not_published_again(workshop) -> None:
    workshop.forge("build", "recipes/host.yaml")
    workshop.forge("build", "recipes/host.yaml", "--set", "engines.net.precision=fp32")
    manifest = workshop.store / "net" / "1" / "manifest.json"
    path = manifest.with_name("model.onnx")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    # Restored from a backup with its old time: only its digest tells.
    stat = manifest.stat()
    import os

    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns - 1))
    assert engine(workshop.forge("build", "recipes/host.yaml", "--json"))["status"] == "built"


def test_the_reference_is_found_again_after_the_cache_was_emptied(workshop) -> None:
    workshop.forge("build", "recipes/host.yaml")
    shutil.rmtree(workshop.cache)
    lost = workshop.forge("run", "host/net", "data/held.yaml", "--json")
    assert (lost.code, lost.json["error"]["code"]) == (8, "VER105")
    assert "trtforge build" in lost.json["error"]["next"]
    assert engine(workshop.forge("build", "recipes/host.yaml", "--json"))["status"] == "up-to-date"
    assert workshop.forge("run", "host/net", "data/held.yaml").code == 0


def test_an_experiment_does_not_pin(workshop) -> None:
    workshop.forge("build", "recipes/host.yaml")
    lock = workshop.root / "recipes" / "trtforge.lock"
    pinned = json.loads(lock.read_text())
    workshop.forge("build", "recipes/host.yaml", "--set", "engines.net.precision=fp32")
    assert json.loads(lock.read_text()) == pinned
    assert workshop.forge("build", "recipes/host.yaml", "--locked").code == 0


def test_a_lock_that_cannot_be_written_is_a_warning(workshop, monkeypatch) -> None:
    from trtforge.engines import lock

    def refuse(*args: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(lock, "write_json", refuse)
    done = workshop.forge("build", "recipes/host.yaml", "--json")
    assert (done.code, engine(done)["status"]) == (0, "built")
    assert "inputs not pinned" in done.err


@pytest.mark.parametrize(
    ("extra", "flags"),
    [
        ("", "--useDLACore=0 --allowGPUFallback"),
        ("\n    dla: {core: 1, sram: 512KiB, gpu_fallback: false}", "--useDLACore=1 "),
    ],
)
def test_a_kit_for_the_dla_is_finished_on_the_dla(workshop, extra: str, flags: str) -> None:
    workshop.bend(
        "dla",
        ("target: host", "target: orin-agx-64gb/dla"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
        ("    precision: int8", f"    precision: int8{extra}"),
    )
    done = workshop.forge("build", "recipes/dla.yaml")
    assert done.code == 10
    assert flags in done.err
    assert f"dlaSRAM:{'0.5' if extra else '1'}" in done.err
    assert "workspace:1024" in done.err
