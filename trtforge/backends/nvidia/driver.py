"""NVIDIA's driver on this machine, asked itself, never through TensorRT."""

from __future__ import annotations

import ctypes
from functools import cache


@cache
def driver_problem() -> str:
    """Why no GPU can be used here, "" when one can: asks the driver itself, never TensorRT."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return "the driver's library libcuda.so.1 cannot be loaded"
    if code := driver.cuInit(0):
        return f"the driver does not start: cuInit returned {code}"
    count = ctypes.c_int()
    if code := driver.cuDeviceGetCount(ctypes.byref(count)):
        return f"the driver cannot list its devices: cuDeviceGetCount returned {code}"
    return "" if count.value else "the driver is installed and shows no device"
