"""The window loop on a GPU against the CPU's accumulator, label for label. Needs an NVIDIA GPU; not yet run on one.

The engine is a kernel of a few lines (network.cu), whose scores NumPy computes to the same bits: one product and one
sum a score. `python -m tests.gpu.test_windows` runs a few small cases, which is what compute-sanitizer watches.
"""

from __future__ import annotations

import sys
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu import device
from trtforge.backends.base import TensorSpec
from trtforge.engines.machine import compute_capability
from trtforge.errors.windows import ScoresNotFinite
from trtforge.gpu import cuda_core
from trtforge.runtime.windows.accumulate import NumpyAccumulator
from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.cubins import WINDOWS
from trtforge.runtime.windows.cuda import run_on_gpu
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid

Array = np.ndarray[Any, Any]

PROBLEM = device.problem(WINDOWS)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "-")]

NETWORK = Path(__file__).with_name("network.cu")
NETWORKS = tuple(f"{taken}_{given}" for taken in ("float32", "int8") for given in ("float32", "float16"))


class KernelSession:
    """A DeviceSession whose engine is one kernel; ``scores`` is the same in NumPy."""

    def __init__(self, batch: int, channels: int, window: Any, taken: str, given: str) -> None:
        core = cuda_core()
        here = core.Device(0)
        here.set_current()
        major, minor = here.compute_capability
        options = core.ProgramOptions(arch=f"sm_{major}{minor}", std="c++17", include_path=WINDOWS.include_path)
        code = core.Program(NETWORK.read_text(), "c++", options).compile("cubin")
        self._core, self._kernel = core, code.get_kernel(f"{taken}_{given}")
        self.inputs = (TensorSpec("image", (batch, 1, *window), taken),)
        self.outputs = (TensorSpec("scores", (batch, channels, *window), given),)
        rng = np.random.default_rng(channels)
        self.gain = rng.normal(size=channels).astype(np.float32)
        self.bias = rng.normal(size=(channels, *window)).astype(np.float32)
        self._stream = here.create_stream()
        self._gain, self._bias = (self._on(here, array) for array in (self.gain, self.bias))
        self._bound: dict[str, int] = {}

    def _on(self, here: Any, array: Array) -> Any:
        buffer = here.allocate(array.nbytes, stream=self._stream)
        host = self._core.Buffer.from_handle(array.ctypes.data, array.nbytes, owner=array)
        buffer.copy_from(host, stream=self._stream)
        self._stream.sync()
        return buffer

    def scores(self, window: Array) -> Array:
        """[channels, D, H, W] of a window [D, H, W]."""
        made: Array = window.astype(np.float32) * self.gain[:, None, None, None] + self.bias
        return made.astype(self.outputs[0].dtype)

    def run(self, inputs: Any) -> Any:
        raise NotImplementedError

    def bind(self, name: str, pointer: int) -> None:
        self._bound[name] = pointer

    def capturable(self, stream_handle: int) -> bool:
        return True

    def enqueue(self, stream_handle: int) -> None:
        batch, channels, *window = self.outputs[0].shape
        voxels = prod(window)
        config = self._core.LaunchConfig(grid=(-(-voxels // 128), batch), block=128)
        pointers = self._bound["image"], int(self._gain.handle), int(self._bias.handle), self._bound["scores"]
        stream = self._core.Stream.from_handle(stream_handle)
        self._core.launch(stream, config, self._kernel, *pointers, np.int32(channels), np.int32(voxels))


def check(
    shape: Any,
    window: Any,
    *,
    overlap: float = 0.5,
    mode: Any = "mlperf",
    channels: int = 3,
    batch: int = 1,
    taken: str = "float32",
    given: str = "float32",
    volume: Array | None = None,
    **options: Any,
) -> None:
    grid, weights = WindowGrid.of(shape, window, overlap), WindowWeights.of(mode, window)
    session = KernelSession(batch, channels, window, taken, given)
    rng = np.random.default_rng(0)
    if volume is None and taken == "int8" and "scale" not in options:
        volume = rng.integers(-127, 128, shape).astype(np.int8)
    elif volume is None:
        volume = rng.normal(size=shape).astype(np.float32)
    sm = compute_capability()
    assert sm is not None
    got = run_on_gpu(session, volume, grid, weights, WINDOWS.compile([sm]), **options)

    fed = volume
    if "scale" in options:
        fed = np.clip(np.rint(volume / np.float32(options["scale"])), -127, 127).astype(np.int8)
    want = np.empty(shape, np.uint8)
    sums = NumpyAccumulator(Blocks.of(grid), weights, channels, labels=want)
    for index in grid:
        sums.push(index, session.scores(fed[grid.slices(index)]).astype(np.float32))
    assert np.array_equal(got, want)


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("mode", ["mlperf", "monai", "constant"])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((70, 90, 81), (32, 32, 32)),  # the last window is shifted in, rows begin anywhere
        ((64, 64, 160), (64, 64, 64)),  # a ring along W
        ((48, 200, 50), (37, 41, 43)),  # along H, no size a multiple of anything
        ((128, 128, 128), (128, 128, 128)),
    ],
)
def test_labels_are_those_of_the_cpu(shape: Any, window: Any, mode: str, batch: int) -> None:
    check(shape, window, mode=mode, batch=batch)


@pytest.mark.parametrize("given", ["float16", "float32"])
@pytest.mark.parametrize("channels", range(1, 7))
def test_any_number_of_classes(channels: int, given: str) -> None:
    check((40, 50, 60), (24, 24, 24), channels=channels, given=given, overlap=0.75, batch=2)


@pytest.mark.parametrize("options", [{}, {"scale": 0.021}])
def test_an_int8_engine_is_fed(options: dict[str, float]) -> None:
    check((64, 70, 96), (32, 32, 32), taken="int8", given="float16", batch=4, **options)


def test_the_engine_as_a_cuda_graph() -> None:
    check((70, 90, 81), (32, 32, 32), batch=2, graph=True)


def test_nan_is_refused() -> None:
    volume = np.zeros((40, 40, 40), np.float32)
    volume[-1, -1, -1] = np.nan
    with pytest.raises(ScoresNotFinite):
        check(volume.shape, (32, 32, 32), volume=volume)


@pytest.mark.slow
@pytest.mark.parametrize("tool", device.TOOLS)
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    device.sanitize("tests.gpu.test_windows", tool)


if __name__ == "__main__":
    if PROBLEM:
        sys.exit(PROBLEM)
    check((20, 33, 41), (16, 16, 16), batch=3)
    check((20, 33, 41), (16, 16, 16), batch=2, taken="int8", given="float16", mode="monai", channels=5)
    check((20, 33, 41), (16, 16, 16), taken="int8", scale=0.03)
