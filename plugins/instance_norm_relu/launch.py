"""The launches of InstanceNormalization and Relu, and the workspace between them."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Argument, Launch, ceil_div, ints

SOURCES = ("kernel.cu", "instance_norm_relu.cuh", "instructions.cuh")
KERNEL_SET = KernelSet("instance_norm_relu", SOURCES, "the kernels of instance normalization")
KERNELS = (
    *("sums_float32", "sums_float16", "sums_int8_cdhw32"),
    *("coefficients_float", "coefficients_int8"),
    *("apply_float32", "apply_float16", "apply_int8_cdhw32"),
)

THREADS, MERGING, MERGING_INT8 = 256, 64, 512
"""Of the kernels' own names in instance_norm_relu.cuh."""

SMALLEST_CHUNK, LARGEST_CHUNK = 1024, 65536
"""Voxels one block takes. The int8 kernel's 32-bit sums of squares are exact up to the largest."""

_CHUNKS = {"int8": (512, SMALLEST_CHUNK), "float16": (64, 8 * SMALLEST_CHUNK), "float32": (64, 8 * SMALLEST_CHUNK)}
"""How many a channel has at most, as long as they are not the largest; voxels of the smallest."""

GRID_X, GRID_Y = 2**31 - 1, 65535
LOWEST_SM = "8.0"
"""The int8 kernel adds over a warp by an instruction that is not there before."""


def launches(
    shape: Sequence[int], dtype: str, epsilon: float, input_scale: float = 0.0, output_scale: float = 0.0
) -> tuple[Launch, ...]:
    """Three launches, in order on one stream, for x of ``shape`` [N, C, *spatial].

    ``dtype``: "float32" or "float16" (linear), or "int8" (CDHW32), which needs the two scales. Tensors: ``x``,
    ``scale`` and ``bias`` float32 [C], ``y``; in int8 x and y begin on a multiple of 16. Workspace: ``partial`` and
    ``coefficients`` (`workspace_bytes`). Raises ValueError for a dtype that has no kernels, for int8 without scales,
    and for an empty tensor or one too large for the grid.
    """
    if dtype not in ("float32", "float16", "int8"):
        raise ValueError(f"InstanceNormRelu has no kernels for {dtype}")
    if dtype == "int8" and not (input_scale > 0 and output_scale > 0):
        raise ValueError("InstanceNormRelu in int8 needs the scales of its input and output")
    voxels, planes = prod(shape[2:]), _planes(shape, dtype)
    chunk, chunks = _chunks(voxels, dtype)
    if not (0 < chunks <= GRID_Y and 0 < planes <= GRID_X):
        raise ValueError(f"InstanceNormRelu cannot be launched for a tensor of shape {tuple(shape)}")
    form = "int8_cdhw32" if dtype == "int8" else dtype
    grid, block, size = (planes, chunks, 1), (THREADS, 1, 1), (np.int64(voxels), np.int32(chunk))
    names = ("partial", "scale", "bias", "coefficients")
    merged: tuple[Argument, ...] = (*names, *ints(chunks, shape[1]), np.int64(voxels), np.float32(epsilon))
    if dtype == "int8":
        scales = (np.float32(input_scale), np.float32(output_scale))
        merge = Launch("coefficients_int8", (planes, 1, 1), (MERGING_INT8, 1, 1), (*merged, *scales))
    else:
        merge = Launch("coefficients_float", (planes, 1, 1), (MERGING, 1, 1), merged)
    return (
        Launch(f"sums_{form}", grid, block, ("x", "partial", *size)),
        merge,
        Launch(f"apply_{form}", grid, block, ("x", "coefficients", "y", *size)),
    )


def workspace_bytes(shape: Sequence[int], dtype: str) -> dict[str, int]:
    """Bytes of each piece of workspace, which begins on a multiple of 16: the sums of every chunk, and the coefficients
    of every channel. Neither need be cleared. Enough for any smaller shape too: an engine of dynamic shapes asks for
    the largest one's, and a smaller volume may have more chunks."""
    planes, chunks = _planes(shape, dtype), _most_chunks(prod(shape[2:]), dtype)
    if dtype == "int8":
        return {"partial": planes * chunks * 64 * 4, "coefficients": planes * 32 * 2 * 4}
    return {"partial": planes * chunks * 2 * 8, "coefficients": planes * 3 * 4}


def _planes(shape: Sequence[int], dtype: str) -> int:
    """Channels of all samples, or blocks of 32 of them."""
    return shape[0] * (ceil_div(shape[1], 32) if dtype == "int8" else shape[1])


def _chunks(voxels: int, dtype: str) -> tuple[int, int]:
    """Voxels a block takes, a power of two, and how many blocks that makes a channel: enough for the largest GPUs at
    32 channels of 128^3 (2048 blocks of 64 or 128 KB in float, 512 of 128 KB in int8)."""
    most, smallest = _CHUNKS[dtype]
    wanted = ceil_div(voxels, most)
    chunk = min(max(smallest, 1 << max(wanted - 1, 0).bit_length()), LARGEST_CHUNK)
    return chunk, ceil_div(voxels, chunk)


def _most_chunks(voxels: int, dtype: str) -> int:
    """Of a volume of so many voxels or fewer."""
    most, smallest = _CHUNKS[dtype]
    return min(ceil_div(voxels, smallest), max(most, ceil_div(voxels, LARGEST_CHUNK)))
