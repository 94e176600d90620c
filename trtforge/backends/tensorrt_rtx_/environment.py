"""What of TensorRT-RTX is on this machine: packages, the GPU driver, the environment of the compiler's process."""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib import metadata

PACKAGES = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs")
INSTALL = "pip install 'trtforge[rtx]'"
CUDA_PACKAGE = "cuda-bindings"
CUDA_INSTALL = "pip install 'cuda-bindings>=12.9,<13'"


def versions() -> dict[str, str]:
    """Package -> version of the TensorRT-RTX packages that are installed. Reads metadata only."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def missing() -> list[str]:
    """Packages that compiling needs and that are not installed."""
    found = versions()
    return [package for package in PACKAGES if package not in found]


def cuda_version() -> str | None:
    """Version of the package that gives Python the CUDA calls; only running needs it."""
    try:
        return metadata.version(CUDA_PACKAGE)
    except metadata.PackageNotFoundError:
        return None


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


def child_environment() -> dict[str, str]:
    """The environment of the compiler's process: this one's, without what would make builds differ by user."""
    environment = dict(os.environ)
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("PYTHONSTARTUP", "PYTHONINSPECT"):
        environment.pop(name, None)
    return environment
