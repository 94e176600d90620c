"""The kernels of InstanceNormalization and Relu, on this CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trtforge.plugins.instance_norm_relu import launch

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def normalized(host_kernels: Any) -> Any:
    """Runs the three launches on x as it lies in memory: linear, or CDHW32 of ``channels``."""
    kernels = host_kernels(launch.KERNEL_SET, launch.KERNELS)

    def run(
        x: Array, scale: Array, bias: Array, epsilon: float, *scales: float, offset: int = 0, schedules: Any = ()
    ) -> Array:
        shape, dtype = (x.shape[0], len(scale), *x.shape[2:5]), x.dtype.name
        launches = launch.launches(shape, dtype, epsilon, *scales)
        tensors = {"x": x, "scale": scale, "bias": bias}
        output, workspace = (x.shape, x.dtype), launch.workspace_bytes(shape, dtype)
        result: Array = kernels(launches, tensors, output, workspace, offset, schedules)
        return result

    return run
