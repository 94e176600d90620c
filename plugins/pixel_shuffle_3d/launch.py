"""The launch of the 3-D pixel shuffle, with or without a skip tensor behind it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch, ceil_div, ints

SOURCES = ("kernel.cu", "pixel_shuffle_3d.cuh", "instructions.cuh")
KERNEL_SET = KernelSet("pixel_shuffle_3d", SOURCES, "the kernels of the 3-D pixel shuffle")
KERNELS = ("shuffle_float32", "shuffle_float16", "shuffle_int8_cdhw32")

THREADS, COPIES = 256, 4
"""Of the kernels' own names in pixel_shuffle_3d.cuh."""

GRID_X, GRID_Y = 2**31 - 1, 65535
LANES = 32
ITEM_BYTES = {"float32": 4, "float16": 2}


def launches(
    shape: Sequence[int],
    dtype: str,
    skip_channels: int = 0,
    input_scale: float = 1.0,
    skip_scale: float = 1.0,
    output_scale: float = 1.0,
) -> tuple[Launch, ...]:
    """One launch, for x of ``shape`` [N, 8K, D, H, W].

    ``dtype``: "float32" or "float16" (linear), or "int8" (CDHW32), which alone uses the scales. ``skip_channels``: of
    a tensor [N, C, 2D, 2H, 2W] that comes behind the shuffled one; 0 for none. Tensors: ``x``, ``skip`` (any address
    where there is none), ``y``; in int8 they begin on a multiple of 16. Raises ValueError for a dtype that has no
    kernel, for channels that are not cubes, for an empty or too large tensor, and in int8 for a skip tensor behind
    channels that do not fill their last group of 32.
    """
    if dtype not in ("float32", "float16", "int8"):
        raise ValueError(f"PixelShuffle3d has no kernel for {dtype}")
    batch, wide, depth, height, width = shape
    channels = wide // 8
    if wide % 8:
        raise ValueError(f"{wide} channels cannot be spread into cubes of 8 voxels")
    if dtype == "int8" and skip_channels and channels % LANES:
        raise ValueError(f"in int8 a skip tensor can only follow whole groups of {LANES} channels, not {channels}")
    shuffling = ceil_div(_items(channels, depth, height, width, dtype), THREADS)
    blocks = shuffling + ceil_div(_copies(skip_channels, 8 * depth * height * width, dtype), THREADS * COPIES)
    if min(shape) <= 0 or blocks * THREADS > GRID_X or batch > GRID_Y:
        raise ValueError(f"PixelShuffle3d cannot be launched for a tensor of shape {tuple(shape)}")
    sizes = ints(channels, skip_channels, depth, height, width, shuffling)
    grid, block = (blocks, batch, 1), (THREADS, 1, 1)
    if dtype != "int8":
        return (Launch(f"shuffle_{dtype}", grid, block, ("x", "skip", "y", *sizes)),)
    ratios = (_ratio(input_scale, output_scale), _ratio(skip_scale, output_scale))
    return (Launch("shuffle_int8_cdhw32", grid, block, ("x", "skip", "y", *sizes, *ratios)),)


def _items(channels: int, depth: int, height: int, width: int, dtype: str) -> int:
    """Threads that shuffle one sample: one for 8 bytes of a row, or for 32 of a voxel."""
    if dtype == "int8":
        return ceil_div(channels, LANES) * 8 * depth * height * width
    return channels * depth * height * ceil_div(width * ITEM_BYTES[dtype], 8)


def _copies(channels: int, voxels: int, dtype: str) -> int:
    """Pieces of 16 bytes in one sample of the skip tensor."""
    if dtype == "int8":
        return ceil_div(channels, LANES) * voxels * 2
    return channels * voxels * ITEM_BYTES[dtype] // 16


def _ratio(scale: float, output_scale: float) -> np.float32:
    """As the ONNX function computes it: a division in float32."""
    with np.errstate(all="ignore"):
        ratio = np.float32(scale) / np.float32(output_scale)
    if not (scale > 0 and output_scale > 0 and np.isfinite(ratio)):
        raise ValueError(f"PixelShuffle3d in int8 needs positive scales, not {scale} to {output_scale}")
    return np.float32(ratio)
