"""The res2 kernels on a GPU against Res2Int8 on the CPU, bit for bit. Needs an NVIDIA GPU; not yet run on one.

`python -m tests.gpu.test_res2` runs a few small cases, which is what compute-sanitizer watches.
"""

from __future__ import annotations

import sys
from functools import cache

import numpy as np
import pytest

from tests.gpu import device
from tests.plugins.res2 import stage
from trtforge.plugins.res2.launch import CHANNELS_IN, KERNEL_SET, LOWEST_SM

PROBLEM = device.problem(KERNEL_SET, LOWEST_SM)
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "-")]

reference = cache(stage.reference_of)
gpu = stage.Kernels(lambda *launched: device.on_gpu(KERNEL_SET, *launched))


def check(mid: int, batch: int, height: int, width: int, seed: int = 0) -> None:
    x, constants = stage.images((batch, CHANNELS_IN, height, width), seed), stage.constants_of(mid, seed)
    assert np.array_equal(gpu(x, constants), reference()(x, constants))


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
    assert np.array_equal(gpu(x, constants), reference()(x, constants))


@pytest.mark.slow
def test_the_last_images_of_a_batch_of_2_gib() -> None:
    image, constants = stage.images((1, CHANNELS_IN, 56, 56)), stage.constants_of(64)
    made = gpu(np.repeat(image, 2700, 0), constants)
    assert made.nbytes > 2**31
    want = reference()(image, constants)
    assert all(np.array_equal(made[at : at + 1], want) for at in (0, 1350, 2698, 2699))


def test_the_same_each_time() -> None:
    """Many blocks on every SM, again and again: a race would show."""
    x, constants = stage.images((16, CHANNELS_IN, 56, 56)), stage.constants_of(64)
    first = gpu(x, constants)
    assert all(np.array_equal(gpu(x, constants), first) for _ in range(20))


@pytest.mark.slow
@pytest.mark.parametrize("tool", device.TOOLS)
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    device.sanitize("tests.gpu.test_res2", tool)


if __name__ == "__main__":
    if PROBLEM:
        sys.exit(PROBLEM)
    check(64, 2, 9, 17)
    check(32, 1, 12, 8)
