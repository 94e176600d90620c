"""The kernels of the 3-D pixel shuffle, on this CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plugins.functions import cdhw32, linear
from trtforge.plugins.pixel_shuffle_3d import launch

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def shuffled(host_kernels: Any) -> Any:
    """Runs the launch on x [N, 8K, D, H, W] and skip, logical arrays, and gives a logical array."""
    kernels = host_kernels(launch.KERNEL_SET, launch.KERNELS)

    def run(x: Array, skip: Array | None = None, *scales: float, offset: int = 0, schedules: Any = ()) -> Array:
        n, wide, *size = x.shape
        behind = 0 if skip is None else skip.shape[1]
        channels, doubled = wide // 8, [2 * each for each in size]
        (one,) = launch.launches(x.shape, x.dtype.name, behind, *scales)
        if x.dtype != np.int8:
            output = (n, channels + behind, *doubled), x.dtype
            made: Array = kernels([one], {"x": x, "skip": skip}, output, {}, offset, schedules)
            return made
        tensors = {"x": cdhw32(x, garbage=True), "skip": None if skip is None else cdhw32(skip)}
        blocks = -(-channels // 32) + -(-behind // 32)
        output = (n, blocks, *doubled, 32), np.dtype(np.int8)
        got: Array = linear(kernels([one], tensors, output, {}, offset, schedules), channels + behind)
        return got

    return run
