"""The kernels by name, and how they are launched: one a bottleneck, three for the stage."""

from __future__ import annotations

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch, ceil_div, ints

KERNEL_SET = KernelSet("res2", ("kernel.cu", "res2.cuh", "instructions.cuh"), "the res2 kernels")
CHANNELS_IN = 64
"""Of the stage's input: the max pool of a ResNet-50 has as many, also of one whose bottlenecks are thin."""

WIDTHS = ((CHANNELS_IN, 64), (CHANNELS_IN, 32))
"""Channels of the stage's input and of the inner convolutions (IN, MID) that there are kernels for. The output of each
bottleneck has 4 * MID. A kernel is named by MID, which says all as long as there is one IN."""

KERNELS = tuple(f"res2_{kind}_{mid}" for kind in ("projection", "identity") for _, mid in WIDTHS)
TILE, THREADS = 8, 128
"""Of the kernels' own names in res2.cuh."""

LARGEST_GRID = 65535
"""Blocks along y and z: images, and rows of tiles."""

LOWEST_SM = "8.0"


def served(channels_in: int, mid: int, out: int) -> bool:
    """Whether there are kernels for a stage of so many input, inner and output channels."""
    return (channels_in, mid) in WIDTHS and out == 4 * mid


def launches(mid: int, batch: int, height: int, width: int, *, channels_in: int = CHANNELS_IN) -> tuple[Launch, ...]:
    """The stage: block a from `x` to `y`, b from `y` to `scratch`, c from `scratch` to `y`.

    ``mid``: channels of the inner convolutions; ``channels_in``: of `x`. Tensors, each on a multiple of 16 bytes, none
    overlapping another: ``x`` int8 [N, IN / 32, H, W, 32]; ``y`` int8 [N, MID / 8, H, W, 32]; ``a_weights``,
    ``a_scales`` and so on as `pack.packed` names them; workspace ``scratch`` (`workspace_bytes`). Raises ValueError for
    widths or a size that cannot be launched.
    """
    grid = (ceil_div(width, TILE), ceil_div(height, TILE), batch)
    if not served(channels_in, mid, 4 * mid) or not all(grid) or max(grid[1:]) > LARGEST_GRID:
        raise ValueError(
            f"the res2 kernels cannot be launched for {batch} x {channels_in} x {height} x {width}, "
            f"{mid} inner channels"
        )
    size = ints(height, width)
    steps = (("a", "projection", "x", "y"), ("b", "identity", "y", "scratch"), ("c", "identity", "scratch", "y"))
    return tuple(
        Launch(
            f"res2_{kind}_{mid}",
            grid,
            (THREADS, 1, 1),
            (source, output, f"{block}_weights", f"{block}_scales", *size),
        )
        for block, kind, source, output in steps
    )


def workspace_bytes(mid: int, batch: int, height: int, width: int) -> dict[str, int]:
    """Bytes of the workspace: `scratch` holds block b's output. It need not be cleared."""
    return {"scratch": batch * 4 * mid * height * width}
