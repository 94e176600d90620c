"""What the loop will take, told before it starts."""

from __future__ import annotations

from math import prod

from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.loop import Window
from trtforge.volumes.windows import WindowGrid


def predict(grid: WindowGrid, window: Window, *, mirrored: bool = False, probabilities: bool = False) -> dict[str, int]:
    """Bytes of everything that the loop holds, by name, none of it underestimated.

    The network's own memory is not among it. ``mirrored``: runs are averaged over flips.
    """
    blocks = Blocks.of(grid)
    voxels, batch = prod(grid.shape), window.batch * prod(grid.window) * 4
    parts = {
        "volume": voxels * 4,
        "labels": voxels,
        "accumulator": blocks.most_alive * blocks.slot * max(window.channels - 1, 1) * 4,
        "windows and logits": batch * (2 + (5 if mirrored else 2) * window.channels),
    }
    return parts | ({"probabilities": voxels * window.classes * 4} if probabilities else {})
