"""This machine, as far as it decides which engines run here."""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtforge.targets.host import host_facts

if TYPE_CHECKING:
    from trtforge.backends.base import Availability, Backend

# Names and numbers of the CUDA driver API (cuda.h, CUdevice_attribute).
_MAJOR, _MINOR = 75, 76


@dataclass(frozen=True)
class Machine:
    """``backends``: name -> what it can do here. ``sm``: of the first GPU, "8.6"; None without one.

    ``isa``: CPU instruction sets, spelled as in :mod:`trtforge.targets.host`.
    """

    backends: Mapping[str, Availability]
    sm: str | None
    isa: frozenset[str]


def this_machine(backends: Iterable[Backend]) -> Machine:
    """Look at this machine. Asks only the driver and the CPU; imports nothing of any backend's library."""
    availabilities = {backend.name: backend.availability() for backend in backends}
    return Machine(availabilities, compute_capability(), frozenset(host_facts().isa))


def compute_capability() -> str | None:
    """Compute capability of the first visible GPU, such as "8.6", from the driver; None without a working one."""
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    refused = (
        driver.cuInit(0)
        or driver.cuDeviceGet(ctypes.byref(device), 0)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, device)
    )
    return None if refused else f"{major.value}.{minor.value}"
