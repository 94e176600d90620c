"""The res2 kernels on a GPU against Res2Int8 on the CPU, bit for bit. Needs an NVIDIA GPU; not yet run on one.

`python -m tests.gpu.test_res2` runs a few small cases, which is what compute-sanitizer watches.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins.res2 import stage
from trtforge.backends.tensorrt_rtx_.environment import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.gpu import GpuMemory
from trtforge.kernels.tensorrt import Loaded
from trtforge.plugins.res2.function import CONVOLUTIONS, Quantized
from trtforge.plugins.res2.launch import CHANNELS_IN, KERNEL_SET, LOWEST_SM, launches, workspace_bytes
from trtforge.plugins.res2.pack import from_chw32, packed, to_chw32

ROOT = Path(__file__).parents[2]
Array = np.ndarray[Any, Any]


def problem() -> str:
    if why := driver_problem():
        return why
    sm = compute_capability() or "0.0"
    old = float(sm) < float(LOWEST_SM)
    return f"the kernels need SM {LOWEST_SM} or later; this GPU is {sm}" if old else ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(problem()), reason=problem() or "-")]


reference = stage.reference_of()


def on_gpu(x: Array, constants: Quantized) -> Array:
    """x int8 [N, IN, H, W] -> y int8 [N, 4 * MID, H, W]."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    device = core.Device(0)
    device.set_current()
    stream = device.create_stream()
    sm = compute_capability()
    assert sm is not None
    batch, channels_in, height, width = x.shape
    mid = constants.convolutions[CONVOLUTIONS.index("a_2a")].weight.shape[0]
    planned = launches(mid, batch, height, width, channels_in=channels_in)
    made = np.full((batch, mid // 8, height, width, 32), 85, np.int8)
    with GpuMemory(core, device, stream) as memory:
        arrays = {"x": to_chw32(x), "y": made, **packed(constants.inputs())}
        addresses = {name: memory.put(array) for name, array in arrays.items()}
        for name, size in workspace_bytes(mid, batch, height, width).items():
            addresses[name] = memory.take(size)
        Loaded(KERNEL_SET.compile([sm]), device).run(planned, addresses, int(stream.handle))
        memory.get(addresses["y"], made)
    return from_chw32(made)


def check(mid: int, batch: int, height: int, width: int, seed: int = 0) -> None:
    x, constants = stage.images((batch, CHANNELS_IN, height, width), seed), stage.constants_of(mid, seed)
    assert np.array_equal(on_gpu(x, constants), reference(x, constants))


@pytest.mark.parametrize("mid", [32, 64])
@pytest.mark.parametrize("batch", [1, 8, 32])
def test_the_stage_of_the_network(mid: int, batch: int) -> None:
    check(mid, batch, 56, 56, seed=batch)


@pytest.mark.parametrize("mid", [32, 64])
@pytest.mark.parametrize("size", [(1, 1, 1), (3, 7, 9), (2, 3, 50), (5, 57, 8), (2, 100, 75)])
def test_any_size(mid: int, size: tuple[int, int, int]) -> None:
    check(mid, *size)


@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums(value: int) -> None:
    x, constants = np.full((2, CHANNELS_IN, 9, 9), value, np.int8), stage.constants_of(64)
    for each in constants.convolutions:
        each.weight[::2] = 127
        each.weight[1::2] = -128
    assert np.array_equal(on_gpu(x, constants), reference(x, constants))


def test_the_same_each_time() -> None:
    """Many blocks on every SM, again and again: a race would show."""
    x, constants = stage.images((16, CHANNELS_IN, 56, 56)), stage.constants_of(64)
    first = on_gpu(x, constants)
    assert all(np.array_equal(on_gpu(x, constants), first) for _ in range(20))


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on PATH")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", "tests.gpu.test_res2"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


if __name__ == "__main__":
    if why := problem():
        sys.exit(why)
    check(64, 2, 9, 17)
    check(32, 1, 12, 8)
