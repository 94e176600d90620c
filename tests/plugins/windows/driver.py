"""A folder with a libcuda.so.1 that is this CPU: driver.cpp, and kernels compiled for it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.plugins.on_host import build, build_for_host
from trtforge.kernels.cubins import KernelSet
from trtforge.runtime.windows.cubins import KERNELS, WINDOWS

LIBRARY = "libcuda.so.1"


def driver_of_the_cpu(folder: Path, kernels: Mapping[KernelSet, Sequence[str]] | None = None) -> Path:
    """Makes the library in ``folder``, and returns that. ``kernels``: their names; None: the window loop's. Skips
    without a C++ compiler."""
    for each, names in (kernels or {WINDOWS: KERNELS}).items():
        (folder / each.plugin).mkdir()
        build_for_host(each, names, folder / each.plugin)
    build(folder / LIBRARY, Path(__file__).with_name("driver.cpp"), f"-Wl,-soname,{LIBRARY}")
    return folder


def environment(driver: Path, **more: str) -> dict[str, str]:
    """Of a process that finds the library in ``driver``."""
    path = os.pathsep.join([str(driver), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    return os.environ | {"LD_LIBRARY_PATH": path, **more}
