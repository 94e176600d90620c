"""The instructions of instructions.cuh, as host_shim.hpp and NVRTC have them, against what others say they do.

The kernels and the shim were written by the same hands from the same pages of the PTX manual. The layouts here are a
second statement: the strides that NVIDIA's CUTLASS has for these instructions (`SM80_16x8x32_S32S8S8S32_TN` in
cute/atom/mma_traits_sm80.hpp, `SM75_U32x4_LDSM_N` in copy_traits_sm75.hpp).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.plugins import on_host
from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch

Array = np.ndarray[Any, Any]
NAMES = ("product", "matrices", "packed", "to_half", "to_float")
SOURCE = """
#include "instructions.cuh"

using namespace trtforge;

#define KERNEL(NAME, FROM, TO) extern "C" __global__ void NAME(const FROM *x, TO *y)

KERNEL(product, unsigned, int) {  // a lane has 4 registers of a, 2 of b, 4 sums
    const unsigned *own = x + 10 * threadIdx.x;
    const unsigned a[4] = {own[0], own[1], own[2], own[3]};
    int sums[4];
    for (int i = 0; i < 4; ++i) sums[i] = static_cast<int>(own[6 + i]);
    mma_s8(sums, a, own[4], own[5]);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = sums[i];
}

KERNEL(matrices, uint4, unsigned) {
    __shared__ uint4 rows[32];
    rows[threadIdx.x] = x[threadIdx.x];
    __syncthreads();
    unsigned made[4];
    load_matrices(made, rows + threadIdx.x);
    for (int i = 0; i < 4; ++i) y[4 * threadIdx.x + i] = made[i];
}

KERNEL(packed, int, unsigned) { *y = pack_s8(x[0], x[1], x[2], x[3]); }

KERNEL(to_half, float, half) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    y[at] = float_to_half(x[at]);
}

KERNEL(to_float, half, float) {
    const unsigned at = blockIdx.x * blockDim.x + threadIdx.x;
    y[at] = half_to_float(x[at]);
}
"""
LANE, BYTE, REGISTER = np.arange(32)[:, None, None], np.arange(4), np.arange(4)[:, None]
A = LANE % 4 * 64 + LANE // 4 + BYTE * 16 + REGISTER % 2 * 8 + REGISTER // 2 * 256  # row + 16 * k
B = LANE % 4 * 32 + LANE // 4 + BYTE * 8 + REGISTER[:2] * 128  # column + 8 * k
SUMS = LANE[..., 0] % 4 * 32 + LANE[..., 0] // 4 + BYTE % 2 * 16 + BYTE // 2 * 8  # row + 16 * column
VALUES = [-(2**31), -129, -128, -1, 0, 5, 127, 128, 2**31 - 1]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> KernelSet:
    folder = tmp_path_factory.mktemp("instructions")
    (folder / "kernel.cu").write_text(SOURCE)
    return KernelSet(str(folder), ("kernel.cu",), "the kernels of this test")


@pytest.fixture(scope="module")
def ptx(source: KernelSet, ptx_of: Callable[[KernelSet], dict[str, str]]) -> dict[str, str]:
    return ptx_of(source)


@pytest.fixture(scope="module")
def run(source: KernelSet) -> Callable[..., Array]:
    """One of the kernels on x; ``size`` and ``dtype`` of what it writes."""
    kernels = on_host.compile_for_host(source, NAMES, source.folder)

    def of(name: str, x: Array, size: int, dtype: Any, blocks: int = 1, threads: int = 32) -> Array:
        launch = Launch(name, (blocks, 1, 1), (threads, 1, 1), ("x", "y"))
        return kernels([launch], {"x": x}, ((size,), dtype))

    return of


def test_a_product_of_matrices(run: Any) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-128, 128, size).astype(np.int8) for size in (16 * 32, 8 * 32))  # both by columns
    c = rng.integers(-(10**6), 10**6, 16 * 8).astype(np.int32)
    taken = [np.ascontiguousarray(each).view(np.uint32).reshape(32, -1) for each in (a[A], b[B], c[SUMS])]
    got = run("product", np.concatenate(taken, 1), 32 * 4, np.int32).reshape(32, 4)
    made = a.reshape(32, 16).T.astype(int) @ b.reshape(32, 8) + c.reshape(8, 16).T
    assert np.array_equal(got, made.T.reshape(-1)[SUMS])


def test_a_load_of_matrices(run: Any) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (32, 16)).astype(np.uint8)
    got = run("matrices", rows, 32 * 4, np.uint32).reshape(32, 4)
    words = rows.view("<u4").reshape(-1)
    assert np.array_equal(got, words[np.arange(32)[:, None] + 32 * np.arange(4)])


def cvt_pack(a: int, b: int, c: int) -> int:
    """The PTX manual: b is the lowest byte, a the next, then the lower half of c."""
    low, next_ = (min(max(each, -128), 127) & 0xFF for each in (b, a))
    return (c & 0xFFFF) << 16 | next_ << 8 | low


def test_four_bytes_are_packed_in_order(run: Any, ptx: dict[str, str]) -> None:
    """By the shim, and by the instructions that NVRTC makes, one after the other."""
    text, pack = ptx["packed"], r"cvt\.pack\.sat\.s8\.s32\.b32 (%r\d+), (\S+), (\S+), (\S+);"
    loads = re.findall(r"ld\.global\S*\s+(%r\d+), \[%rd\d+\+?(\d*)\]", text)
    assert len(loads) == 4
    for seed in range(20):
        x = np.random.default_rng(seed).choice(VALUES, 4).astype(np.int32)
        want = np.clip(x, -128, 127).astype(np.int8).view(np.uint32)
        known = {register: int(x[int(at or 0) // 4]) for register, at in loads}
        for to, *taken in re.findall(pack, text):
            known[to] = cvt_pack(*(known[each] if each in known else int(each) for each in taken))
        (stored,) = re.findall(r"st\.global\.u32\s+\[%rd\d+\], (%r\d+);", text)
        assert known[stored] == want[0]
        assert run("packed", x, 1, np.uint32, threads=1)[0] == want[0]


def test_every_half_becomes_the_float_of_its_value(run: Any) -> None:
    x = np.arange(65536, dtype=np.uint16)
    got, want = run("to_float", x, 65536, np.float32, 2048), x.view(np.float16).astype(np.float32)
    assert np.array_equal(got, want, equal_nan=True)
    assert np.array_equal(np.signbit(got), np.signbit(want))


def test_a_float_becomes_the_nearest_half(run: Any, ptx: dict[str, str]) -> None:
    """All halves, what lies between two, and their neighbours."""
    halves = np.arange(0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    halves[-1] = 65536  # as if there were one more
    between = (halves[1:] + halves[:-1]) / 2
    x = np.concatenate([halves, between, *(np.nextafter(between, np.float32(to)) for to in (-1, 1e9))])
    x = np.concatenate([x, -x, np.float32([np.inf, -np.inf, np.nan, 1e9, 1e-30])])
    x = np.resize(x, -(-len(x) // 32) * 32)
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    got = run("to_half", x, len(x), np.uint16, len(x) // 32)
    assert np.array_equal(got[~np.isnan(x)], want.view(np.uint16)[~np.isnan(x)])
    assert np.isnan(got.view(np.float16)[np.isnan(x)]).all()
    assert "cvt.rn.f16.f32" in ptx["to_half"] and "cvt.f32.f16" in ptx["to_float"]  # no .ftz
