"""Which windows stand for a volume in calibration: those that the loop will run, favouring the organ."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtforge.volumes.place import Placed
from trtforge.volumes.volume import Array
from trtforge.volumes.windows import Shape, WindowGrid


def choose(grid: WindowGrid, organ: np.ndarray[Any, np.dtype[np.bool_]], count: int, seed: list[int]) -> list[Shape]:
    """``count`` windows of the grid, the same for the same arguments.

    The first is the one with the most organ voxels. The others are drawn from the rest without replacement, with a
    probability proportional to 1 + n / mean(n), n being a window's organ voxels: half goes by the organ, half to all
    alike, for ranges must also cover what lies around it. A grid with fewer windows gives all, and begins again.

    Args:
        organ: bool [D, H, W] of the grid's shape.
        seed: what numpy's generator is seeded with.
    """
    windows = list(grid)
    held = np.array([np.count_nonzero(organ[grid.slices(window)]) for window in windows], np.float64)
    first = int(held.argmax())
    rest = [at for at in range(len(windows)) if at != first]
    mean = held.mean()
    order = [first]
    if rest:
        likely = 1 + held[rest] / mean if mean else np.ones(len(rest))
        drawn = np.random.default_rng(seed).choice(len(rest), len(rest), replace=False, p=likely / likely.sum())
        order += [rest[at] for at in drawn]
    return [windows[order[at % len(order)]] for at in range(count)]


def organ_of(placed: Placed, labels: Array | None, *, clipped: bool) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Voxels that belong to the organ, bool [D, H, W]: those that ``labels`` [D, H, W] marks.

    Without labels, of the scan's own voxels (padding is none) those above the smallest and below the largest value,
    which of a clipped scan are the soft tissue; of one that was not clipped, those above the mean.
    """
    if labels is not None:
        return np.asarray(labels > 0, np.bool_)
    organ = np.zeros(placed.array.shape, np.bool_)
    kept = tuple(fit.kept for fit in placed.fits)
    own = placed.array[kept]
    organ[kept] = (own > own.min()) & (own < own.max()) if clipped else own > own.mean()
    return organ
