"""The block of threads on a CPU (plugins/host_block.hpp): what it does to a kernel that is wrong on a GPU."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.plugins import on_host
from trtforge.kernels.cubins import KernelSet
from trtforge.volumes import aligned

Array = np.ndarray[Any, Any]
THREADS = 40  # the second warp is not whole
NAMES = ("barriers", "half_way", "masks", "lanes", "unwritten", "copied", "sums")

SOURCE = """
#include "instructions.cuh"

#define KERNEL(NAME) extern "C" __global__ void NAME(int *y)

KERNEL(barriers) {  // all wait, but not at the same place
    if (threadIdx.x < 32) __syncthreads();
    if (threadIdx.x >= 32)
        __syncthreads();
    y[threadIdx.x] = 0;
}

KERNEL(half_way) {
    if (threadIdx.x == 0) return;
    __syncthreads();
    y[threadIdx.x] = 0;
}

KERNEL(masks) {  // lanes of one warp, one mask, but some never come
    if (threadIdx.x < 20) y[threadIdx.x] = __reduce_add_sync(0xffffffff, 1);
}

KERNEL(lanes) { y[threadIdx.x] = __reduce_add_sync(0xfffffffe, 1); }

KERNEL(unwritten) {
    __shared__ int shared[64];
    y[threadIdx.x] = shared[threadIdx.x];
    shared[threadIdx.x] = 7;
}

KERNEL(copied) {  // read before it is waited for
    __shared__ uint4 shared;
    if (threadIdx.x > 0) return;
    trtforge::copy_async(&shared, y, true);
    trtforge::commit_copies();
    y[4] = static_cast<int>(shared.x);
    trtforge::wait_copies<0>();
    y[5] = static_cast<int>(shared.x);
}

KERNEL(sums) {  // by two masks at once
    unsigned mask = threadIdx.x % 2 == 0 ? 0x55555555 : 0xaaaaaaaa;
    if (threadIdx.x >= 32) mask = 1u << threadIdx.x % 32;
    y[threadIdx.x] = __reduce_add_sync(mask, static_cast<int>(threadIdx.x));
}
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Array]:
    """One of the kernels with one block; what it writes over a y of 3."""
    folder = tmp_path_factory.mktemp("shim")
    (folder / "kernel.cu").write_text(SOURCE)
    kernels = on_host.compile_for_host(KernelSet("none", ("kernel.cu",), "of this test"), NAMES, folder)

    def of(name: str, order: int = 0, late: bool = False, grid: tuple[int, int, int] = (1, 1, 1)) -> Array:
        y = aligned.empty((64,), np.int32)
        y[:] = 3
        parameters = np.array([y.ctypes.data], np.uint64)
        addresses = np.array([parameters.ctypes.data], np.uint64)
        kernels.launch(name, grid, (THREADS, 1, 1), addresses.ctypes.data, on_host.Schedule(order, late))
        return y

    return of


@pytest.mark.parametrize("order", [0, 1, 7])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("barriers", "wait at different barriers"),
        ("half_way", "they never go on"),
        ("masks", "they never go on"),
        ("lanes", "a lane is not in its own mask"),
    ],
)
def test_what_hangs_or_is_undefined_ends_the_program(run: Any, name: str, why: str, order: int) -> None:
    ended, said = on_host.end_of(lambda: run(name, order))
    assert ended == signal.SIGABRT
    assert why in said


@pytest.mark.parametrize("grid", [(1, 65536, 1), (1, 1, 65536), (2**31, 1, 1)])
def test_a_grid_that_no_gpu_takes_ends_the_program(run: Any, grid: tuple[int, int, int]) -> None:
    ended, said = on_host.end_of(lambda: run("sums", grid=grid))
    assert ended == signal.SIGABRT
    assert "larger than a GPU takes" in said


def test_shared_memory_holds_nonsense_before_each_block(run: Any) -> None:
    for _ in range(2):
        assert (run("unwritten")[:THREADS] == np.int32(-0x5A5A5A5B)).all()


def test_a_copy_may_come_at_once_or_when_it_is_waited_for(run: Any) -> None:
    assert run("copied")[4:6].tolist() == [3, 3]
    assert run("copied", late=True)[4:6].tolist() == [-0x5A5A5A5B, 3]


@pytest.mark.parametrize("order", range(5))
def test_a_sum_is_over_the_lanes_of_its_mask(run: Any, order: int) -> None:
    want = [sum(range(at % 2, 32, 2)) for at in range(32)] + [*range(32, THREADS)]
    assert run("sums", order)[:THREADS].tolist() == want
