"""The kernels of small 3-D convolutions, on this CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plugins.functions import cdhw32, linear
from trtforge.plugins.conv3d_small import launch

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def convolved(host_kernels: Any) -> Any:
    """Runs the launch on logical arrays and gives a logical array, of ``output``'s type."""
    kernels = host_kernels(launch.KERNEL_SET, launch.KERNELS)

    def run(*arrays: Array, output: str, stride: int = 1, shift: int = 0, schedules: Any = ()) -> Array:
        x, w, multiplier, offset = arrays
        first = output == "int8"
        (one,) = launch.launches(x.shape, w.shape, output, [int(first)] * 6, [stride] * 3)
        size = [(length - 1) // stride + 1 for length in x.shape[2:]]
        tensors = {"x": x if first else cdhw32(x), "w": w, "multiplier": multiplier, "offset": offset}
        shape = (len(x), len(w) // 32, *size, 32) if first else (len(x), len(w), *size)
        made: Array = kernels([one], tensors, (shape, output), {}, shift, schedules)
        return linear(made, len(w)) if first else made

    return run
