"""A folder with a libcuda.so.1 that is this CPU: driver.cpp, and the window kernels."""

from __future__ import annotations

from pathlib import Path

from tests.plugins.on_host import build_for_host
from trtforge.runtime.windows.cubins import KERNELS, WINDOWS


def driver_of_the_cpu(folder: Path) -> Path:
    """Makes the library in ``folder``, and returns that. Skips without a C++ compiler."""
    source = Path(__file__).with_name("driver.cpp")
    build_for_host(WINDOWS, KERNELS, folder, "libcuda.so.1", str(source), "-Wl,-soname,libcuda.so.1")
    return folder
