"""The launch of a small 3-D convolution in INT8: a network's first, or its last."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Argument, Launch, ceil_div, ints

SOURCES = ("kernel.cu", "conv3d_small.cuh", "instructions.cuh")
KERNEL_SET = KernelSet("conv3d_small", SOURCES, "the kernels of small 3-D convolutions")
KERNELS = (
    *("first_stride1_int8_cdhw32", "first_stride2_int8_cdhw32"),
    *("last_cdhw32_float32", "last_cdhw32_float16"),
)

THREADS, TILE, MOST_OUTPUTS = 256, (8, 8, 32), 8
"""Of the kernels' own names in conv3d_small.cuh. A tile is D, H, W."""

LANES = 32
GRID_X, GRID_YZ = 2**31 - 1, 65535
LOWEST_SM = "8.0"
"""The first convolution uses a tensor core instruction that is not there before."""


def why_not(weight: Sequence[int], output: str, pads: Sequence[int], strides: Sequence[int]) -> str:
    """A sentence why no kernel computes this convolution, "" when one does.

    ``weight``: its shape [O, C, kD, kH, kW]. ``output``: "int8" is the first convolution (1 channel, 3x3x3, pad 1,
    stride 1 or 2, O a multiple of 32), "float32" and "float16" are the last one (1x1x1, no pad, stride 1, C a multiple
    of 32, at most 8 outputs).
    """
    if output == "int8":
        return _why_not_first(weight, pads, strides)
    if output in ("float32", "float16"):
        return _why_not_last(weight, pads, strides)
    return f"no kernel makes {output}"


def _why_not_first(weight: Sequence[int], pads: Sequence[int], strides: Sequence[int]) -> str:
    outputs, channels, *kernel = weight
    if channels != 1 or kernel != [3, 3, 3] or list(pads) != [1] * 6:
        return "the first convolution's kernel is for 1 channel, 3x3x3, padded by 1"
    if list(strides) not in ([1, 1, 1], [2, 2, 2]):
        return f"the first convolution's kernel is for stride 1 or 2, not {list(strides)}"
    if not outputs or outputs % LANES:
        return f"the first convolution's kernel makes groups of {LANES} channels, not {outputs}"
    return ""


def _why_not_last(weight: Sequence[int], pads: Sequence[int], strides: Sequence[int]) -> str:
    outputs, channels, *kernel = weight
    if kernel != [1, 1, 1] or any(pads) or list(strides) != [1, 1, 1]:
        return "the last convolution's kernel is for 1x1x1, without pads, with stride 1"
    if not channels or channels % LANES:
        return f"the last convolution's kernel takes groups of {LANES} channels, not {channels}"
    if not 1 <= outputs <= MOST_OUTPUTS:
        return f"the last convolution's kernel makes up to {MOST_OUTPUTS} channels, not {outputs}"
    return ""


def launches(
    shape: Sequence[int], weight: Sequence[int], output: str, pads: Sequence[int], strides: Sequence[int]
) -> tuple[Launch, ...]:
    """One launch, for x of ``shape`` [N, C, D, H, W]; the rest as in `why_not`.

    Tensors: ``x`` int8, linear for the first convolution and CDHW32 for the last; ``w`` int8 [O, C, kD, kH, kW],
    ``multiplier`` and ``offset`` float32 [O]; ``y``, CDHW32 in int8 and linear in float. In CDHW32, and ``w`` of the
    last convolution, begin on a multiple of 16. Raises ValueError where `why_not` has a sentence, for channels that
    the weight does not have, and for an empty tensor or one too large for the grid.
    """
    if why := why_not(weight, output, pads, strides):
        raise ValueError(why)
    batch, channels, *size = shape
    if channels != weight[1]:
        raise ValueError(f"the weight is for {weight[1]} channels, and x has {channels}")
    arguments: tuple[Argument, ...] = ("x", "w", "multiplier", "offset", "y")
    if output == "int8":
        made = [(length - 1) // strides[0] + 1 for length in size]
        tiles = prod(ceil_div(length, tile) for length, tile in zip(made, TILE, strict=True))
        grid = (tiles, weight[0] // LANES, batch)
        name, arguments = f"first_stride{strides[0]}_int8_cdhw32", (*arguments, *ints(*size, *made))
    else:
        grid = (ceil_div(prod(size), THREADS), batch, 1)
        name, arguments = f"last_cdhw32_{output}", (*arguments, *ints(channels, weight[0]), np.int64(prod(size)))
    if min(shape) <= 0 or grid[0] > GRID_X or max(grid[1:]) > GRID_YZ:
        raise ValueError(f"Conv3dSmall cannot be launched for a tensor of shape {tuple(shape)}")
    return (Launch(name, grid, (THREADS, 1, 1), arguments),)
