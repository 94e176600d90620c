"""What of TensorRT-RTX is on this machine: packages, the GPU driver, the environment of the compiler's process."""

from __future__ import annotations

import os
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

from trtforge.backends.nvidia.driver import driver_problem
from trtforge.cache import cache_dir
from trtforge.digest import sha256_bytes

__all__ = ["PACKAGES", "child_environment", "cuda_version", "driver_problem", "missing", "versions"]

PACKAGES = ("tensorrt-rtx-cu12", "tensorrt-rtx-cu12-bindings", "tensorrt-rtx-cu12-libs")
LIBRARY = "libtensorrt_rtx.so.1"
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


def _library_alias() -> Path | None:
    """A folder that has `libtensorrt_rtx.so`; None where TensorRT-RTX is not installed."""
    spec = util.find_spec("tensorrt_rtx_libs")
    for root in (spec.submodule_search_locations or ()) if spec is not None else ():
        library = Path(root) / LIBRARY
        if library.is_file():
            folder = cache_dir().absolute() / "tensorrt-rtx" / sha256_bytes(str(library).encode())[:16]
            link = folder / LIBRARY.removesuffix(".1")
            if not link.exists():
                folder.mkdir(parents=True, exist_ok=True)
                link.unlink(missing_ok=True)  # one whose library has gone
                with suppress(FileExistsError):  # another build made it meanwhile
                    link.symlink_to(library)
            return folder
    return None


def child_environment() -> dict[str, str]:
    """The environment of the compiler's process: this one's, without what would make builds differ by user.

    The parser opens `libtensorrt_rtx.so` when it meets a plugin, and aborts without it; the package has that library
    under `libtensorrt_rtx.so.1` only. The missing name is a link in trtforge's own cache.
    """
    environment = dict(os.environ)
    if (folder := _library_alias()) is not None:
        found = environment.get("LD_LIBRARY_PATH")
        environment["LD_LIBRARY_PATH"] = f"{folder}:{found}" if found else str(folder)
    environment["PYTHONUNBUFFERED"] = "1"
    for name in ("PYTHONSTARTUP", "PYTHONINSPECT"):
        environment.pop(name, None)
    return environment
