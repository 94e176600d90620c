"""How much memory the window loop takes on a GPU."""

from __future__ import annotations

from math import prod
from typing import Any, Literal

import numpy as np

from trtforge.runtime.windows.loop import Window
from trtforge.volumes.windows import Shape, WindowGrid

Layout = Literal["linear", "cdhw32"]
"""Of an engine's input: [N, 1, D, H, W], or [N, D, H, W, 32] of which only the first of 32 channels is not zero."""

Array = np.ndarray[Any, Any]


def ring_size(grid: WindowGrid) -> Shape:
    """The sums' [D, H, W]: the volume's, but along the slowest axis of the loop only a window's length.

    There the planes are used in turn: when the loop moves on, it does not come back to the planes it leaves.
    """
    slowest = grid.order[0]
    z, y, x = (grid.window[axis] if axis == slowest else grid.shape[axis] for axis in range(3))
    return z, y, x


def device_memory(
    grid: WindowGrid, window: Window, *, volume: str, taken: str, given: str, layout: Layout = "linear"
) -> dict[str, int]:
    """Bytes of GPU memory that the loop takes, by name; the engine's own memory is not among it.

    Args:
        volume, taken, given: numpy dtype names of the volume on the GPU, the engine's input and its output.
    """
    voxels, inside = prod(grid.shape), window.batch * prod(grid.window)
    return {
        "volume": voxels * np.dtype(volume).itemsize,
        "labels": voxels,
        "accumulator": max(window.channels - 1, 1) * prod(ring_size(grid)) * 4,
        "windows": inside * np.dtype(taken).itemsize * (32 if layout == "cdhw32" else 1),
        "logits": inside * window.channels * np.dtype(given).itemsize,
    }
