"""The key that signs kits is asked for where a kit is written, and nowhere else."""

from __future__ import annotations

import pytest


def test_a_build_that_writes_no_kit_needs_no_key(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_SIGN_KEY", "gone")
    assert workshop.build()["engines"][0]["status"] == "built"
    assert workshop.build("--kit", code=7)["error"]["code"] == "ENG135"
    assert workshop.build("--out", "net.zst", code=7)["error"]["code"] == "ENG135"


def test_a_key_on_the_command_line_that_signs_nothing_is_a_mistake(workshop) -> None:
    found = workshop.build("--sign", "gone", code=2)["error"]
    assert (found["code"], found["next"]) == ("USE100", "leave it out, or add --kit")
    assert not workshop.store.exists()


def test_where_only_the_device_compiles_the_key_is_needed(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    orin = ("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"')
    workshop.bend("orin", *orin)
    assert workshop.build("--sign", "gone", recipe="orin", code=7)["error"]["code"] == "ENG135"
    monkeypatch.setenv("TRTFORGE_SIGN_KEY", "gone")
    assert workshop.build(recipe="orin", code=7)["error"]["code"] == "ENG135"
