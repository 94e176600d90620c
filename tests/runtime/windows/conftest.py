"""The window loop as one formula in float64, for the implementations to be held against."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import Shape, WindowGrid

Logits = dict[Shape, np.ndarray]


def random_logits(grid: WindowGrid, channels: int, seed: int) -> Logits:
    rng = np.random.default_rng(seed)
    return {window: rng.normal(0, 4, (channels, *grid.window)).astype(np.float32) for window in grid}


def averaged(grid: WindowGrid, weights: WindowWeights, logits: Logits) -> np.ndarray:
    """float64 [classes, D, H, W]: sum(weight * logit) / sum(weight); one channel is class 1 against 0."""
    z, y, x = (axis.astype(np.float64) for axis in weights.axes)
    weight = np.maximum(z[:, None, None] * y[:, None] * x, weights.floor)
    channels = next(iter(logits.values())).shape[0]
    total, norm = np.zeros((channels, *grid.shape)), np.zeros(grid.shape)
    for window in grid:
        voxels = grid.slices(window)
        total[(slice(None), *voxels)] += weight * logits[window]
        norm[voxels] += weight
    mean = total / norm
    return np.concatenate([np.zeros_like(mean), mean]) if channels == 1 else mean


def gap(scores: np.ndarray) -> np.ndarray:
    """How far the largest class is above the second, [D, H, W]."""
    ordered = np.sort(scores, axis=0)
    return ordered[-1] - ordered[-2]


@pytest.fixture(scope="session")
def formula() -> SimpleNamespace:
    return SimpleNamespace(random_logits=random_logits, averaged=averaged, gap=gap)
