"""Blocks as they are launched, against what each kernel is compiled for: a larger one would not start on a GPU, which
nothing else here can tell."""

from __future__ import annotations

import re
from typing import Any

import pytest

from trtforge.plugins.conv3d_small import launch as conv
from trtforge.plugins.instance_norm_relu import launch as norm
from trtforge.plugins.pixel_shuffle_3d import launch as shuffle
from trtforge.plugins.res2 import launch as res2
from trtforge.runtime.windows import cubins, cuda

X, PADS, STRIDES = (1, 32, 8, 8, 8), ([1] * 6, [0] * 6), ([1] * 3, [2] * 3)
DTYPES = ("float32", "float16", "int8")
LAUNCHES = {
    conv.KERNEL_SET: [
        *(conv.launches((1, 1, 8, 8, 8), (32, 1, 3, 3, 3), "int8", PADS[0], each) for each in STRIDES),
        *(conv.launches(X, (3, 32, 1, 1, 1), each, PADS[1], STRIDES[0]) for each in DTYPES[:2]),
    ],
    norm.KERNEL_SET: [norm.launches(X, each, 1e-5, 1, 1) for each in DTYPES],
    shuffle.KERNEL_SET: [shuffle.launches((1, 256, 8, 8, 8), each, 32, 1, 1, 1) for each in DTYPES],
    res2.KERNEL_SET: [res2.launches(mid, 1, 8, 8) for _, mid in res2.WIDTHS],
}


@pytest.mark.parametrize("kernels", LAUNCHES, ids=lambda kernels: kernels.plugin)
def test_a_block_is_as_large_as_its_kernel_is_compiled_for(ptx_of: Any, kernels: Any) -> None:
    launched = {each.kernel: each.block for launches in LAUNCHES[kernels] for each in launches}
    assert bounds(ptx_of(kernels)) == launched


def test_blocks_of_the_window_loop(ptx_of: Any) -> None:
    assert bounds(ptx_of(cubins.WINDOWS)) == dict.fromkeys(cubins.KERNELS, (cuda.THREADS, 1, 1))


def bounds(ptx: dict[str, str]) -> dict[str, tuple[int, ...]]:
    """`.maxntid`, x first."""
    found = {name: re.search(r"\.maxntid (\d+)(?:, (\d+), (\d+))?", text) for name, text in ptx.items()}
    return {name: tuple(int(size or 1) for size in sizes.groups()) for name, sizes in found.items() if sizes}
