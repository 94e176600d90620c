"""What of native TensorRT is on this machine. It is not imported: without a driver that may crash."""

from __future__ import annotations

import os
import re
from functools import cache
from importlib import metadata, util

from trtforge.backends.nvidia.driver import driver_problem

INSTALL = (
    "on a Jetson: sudo apt-get install python3-libnvinfer (JetPack's own); elsewhere: pip install 'trtforge[tensorrt]'"
)
_PACKAGES = ("tensorrt", "tensorrt-cu12", "tensorrt-cu13")


@cache
def installed() -> bool:
    """Is there a module, and not only a folder of type stubs under its name?"""
    spec = util.find_spec("tensorrt")
    return spec is not None and spec.origin is not None


def version() -> str:
    """Of the package, its numbers alone; JetPack installs the module with or without its record. "" without it."""
    if not installed():
        return ""
    for package in _PACKAGES:
        try:
            found = metadata.version(package)
            return match[0] if (match := re.match(r"\d+(\.\d+){0,3}", found)) else found  # not "8.6.1.post1"
        except metadata.PackageNotFoundError:
            continue
    return "installed, version unknown"


def problem() -> tuple[str, str]:
    """Why nothing can be compiled or run here, and what to do; two empty texts when it can."""
    if not installed():
        return "TensorRT's Python module is not installed", INSTALL
    if why := driver_problem():
        return why, "build on the device: copy the kit there, or `trtforge build RECIPE --on ssh://USER@DEVICE`"
    return "", ""


def child_environment() -> dict[str, str]:
    """The environment of the compiler's process: this one's, without what would make builds differ by user."""
    environment = dict(os.environ) | {"PYTHONUNBUFFERED": "1"}
    for name in ("PYTHONSTARTUP", "PYTHONINSPECT"):
        environment.pop(name, None)
    return environment
