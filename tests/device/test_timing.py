"""The kernel times of a device's native TensorRT come back with the engine, and go there again under `--locked`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.device.conftest import Device
from tests.pipeline.test_timing import COMPILER, PIN, orin_recipe, pins
from trtforge.digest import sha256_file

pytestmark = pytest.mark.sshd

TENSORRT = """
from trtforge.backends.nvidia import process
from trtforge.backends.tensorrt_ import environment, registry
process._CHILD = "stand_in"
environment.problem = lambda: ("", "")
environment.version = lambda: "10.3.0.26"
registry.creators = frozenset
"""
"""On the far side only."""


def test_there_and_back(workshop: Any, device: Device) -> None:
    orin_recipe(workshop)
    site = device.folder / "site"
    with (site / "sitecustomize.py").open("a") as stream:
        stream.write(TENSORRT)
    (site / "stand_in.py").write_text(COMPILER)
    (site / "kernels").write_text("one")

    def build(*args: str) -> Any:
        return workshop.forge("build", "recipes/orin.yaml", "--on", device.address, "--json", *args)

    def times(version: int) -> Path:
        return Path(workshop.root / f"engines/orin/net/{version}/timing.cache")

    done = build()
    assert done.code == 0, done.err
    assert times(1).read_text() == "one" and pins(workshop)[PIN] == sha256_file(times(1))
    assert build("--locked").json["engines"][0]["status"] == "up-to-date"
    shutil.rmtree(device.cache / "timing")  # as another device of the kind has it
    (site / "kernels").write_text("one two")
    assert build("--locked", "--force").json["error"]["code"] == "BLD224"
    (site / "kernels").write_text("one")
    assert build("--locked", "--force").json["engines"][0]["status"] == "built"
    assert times(2).read_text() == "one" and not list((device.cache / "timing").glob("*.cache"))
