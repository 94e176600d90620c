"""What an engine keeps for its loop, and which loop takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge.backends.base import TensorSpec
from trtforge.errors.environment import MissingPackage
from trtforge.kernels.cubins import KernelSet
from trtforge.recipe.models import Windows
from trtforge.runtime.windows import choose, kept
from trtforge.runtime.windows.weights import WindowWeights

WINDOW = (8, 6, 10)


@pytest.mark.parametrize("mode", ["mlperf", "monai", "constant"])
def test_weights_come_back_to_the_bit(tmp_path: Path, mode: str) -> None:
    options = Windows(weights=mode, classes=("none", "some"))
    files = kept.write(tmp_path, options, WINDOW, None)
    assert list(files) == ["windows.json"]
    found, made = kept.weights(tmp_path, options, WINDOW), WindowWeights.of(mode, WINDOW)
    assert found.floor == made.floor
    assert all(
        (one == other).all() and one.dtype == np.float32 for one, other in zip(found.axes, made.axes, strict=True)
    )
    value = json.loads((tmp_path / "windows.json").read_text())
    assert value["classes"] == ["none", "some"] and value["window"] == list(WINDOW) and value["overlap"] == 0.5


def test_the_kept_weights_are_the_ones_used(tmp_path: Path) -> None:
    kept.write(tmp_path, Windows(), WINDOW, None)
    path = tmp_path / "windows.json"
    value = json.loads(path.read_text())
    value["axes"][0][0] = 0.25
    path.write_text(json.dumps(value))
    assert kept.weights(tmp_path, Windows(), WINDOW).axes[0][0] == 0.25
    other = kept.weights(tmp_path, Windows(weights="constant"), WINDOW)  # asked for on the command line
    assert (other.axes[0] == 1).all()


def test_an_engine_of_before_has_none(tmp_path: Path) -> None:
    assert kept.weights(tmp_path, Windows(), WINDOW).axes[0][0] == WindowWeights.of("mlperf", WINDOW).axes[0][0]


def test_without_nvrtc_the_kernels_are_left_out_and_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge.progress import Quiet

    said = []

    class Heard(Quiet):
        def warn(self, message: str) -> None:
            said.append(message)

    def missing(self: KernelSet, sms: list[str]) -> dict[str, bytes]:
        raise MissingPackage("compiling needs NVRTC", why="no module named cuda", next="pip install 'trtforge[rtx]'")

    monkeypatch.setattr(KernelSet, "compile", missing)
    assert list(kept.write(tmp_path, Windows(), WINDOW, "8.0", progress=Heard())) == ["windows.json"]
    assert "no window kernels" in said[0] and "trtforge[rtx]" in said[0]


class Engine:
    """Three scores a voxel, alike for every window."""

    inputs = (TensorSpec("x", (1, 1, *WINDOW), "float32"),)
    outputs = (TensorSpec("y", (1, 3, *WINDOW), "float32"),)

    def run(self, inputs: Any) -> Any:
        return {"y": np.stack([inputs["x"][:, 0] * 0, inputs["x"][:, 0], -inputs["x"][:, 0]], axis=1)}


class OnGpu(Engine):
    def bind(self, name: str, pointer: int) -> None: ...


def test_which_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(KernelSet, "compile", lambda self, sms: dict.fromkeys(sms, b"a cubin"))
    kept.write(tmp_path, Windows(), WINDOW, "8.0")
    loop = choose.Loop.of(tmp_path, Windows(), WINDOW)
    assert dict(loop.cubins) == {"8.0": b"a cubin"}
    volume = np.random.default_rng(0).normal(size=(9, 9, 12)).astype(np.float32)
    gone: list[Any] = []
    monkeypatch.setattr(choose, "run_on_gpu", lambda *args, **rest: gone.append(args) or np.ones((9, 9, 12), np.uint8))
    shape = (1, 1, *WINDOW)
    on_cpu = loop.run(Engine(), volume, shape)
    assert not gone and set(np.unique(on_cpu.labels)) == {1, 2}
    on_gpu = loop.run(OnGpu(), volume, shape)
    assert len(gone) == 1 and on_gpu.windows == on_cpu.windows and (on_gpu.labels == 1).all()
    assert loop.run(OnGpu(), volume, shape, probabilities=True).probabilities is not None and len(gone) == 1
    mirrored = choose.Loop.of(tmp_path, Windows(mirror=("d",)), WINDOW)
    assert not mirrored.on_gpu(OnGpu(), probabilities=False)
    assert not choose.Loop(Windows(), loop.weights).on_gpu(OnGpu(), probabilities=False)
