"""Native TensorRT as a backend: what it can do on this machine, and the refusal where it can do nothing.

Its compiler times kernels on the GPU or DLA it compiles for, so it works on the device only.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trtforge.backends.base import Availability, CompileRequest
from trtforge.errors.backend import NeedsDevice

if TYPE_CHECKING:
    from trtforge.surgery.op import Creator

_WHY = "native TensorRT compiles on the device itself: it times kernels on the GPU or DLA it compiles for"
_NEXT = "`trtforge build` prepares a sealed kit here; copy it to the device"


class NativeTensorRT:
    """Engines in NVIDIA's own plan format, for devices without an ahead-of-time compiler (Orin, Xavier, DLA)."""

    name = "tensorrt"
    platform = "tensorrt_plan"

    def availability(self) -> Availability:
        return Availability(can_compile=False, can_run=False, version=_version(), why=_WHY, next=_NEXT)

    def tool_versions(self) -> dict[str, str]:
        version = _version()
        return {"tensorrt": version} if version else {}

    def creators(self, tensorrt: str | None) -> tuple[frozenset[Creator], bool]:
        """NVIDIA's stock plugins by release, as documented: its registry can only be asked on the device."""
        from trtforge.surgery.documented import documented

        return documented(tensorrt), False

    def compile(self, request: CompileRequest) -> NoReturn:
        """Raises NeedsDevice (KIT101)."""
        raise NeedsDevice(
            f"the engine for {request.target.key} cannot be compiled on this machine", why=_WHY, next=_NEXT
        )

    def load(self, folder: Path, report: Mapping[str, Any]) -> NoReturn:
        """Raises NeedsDevice (KIT101)."""
        raise NeedsDevice("the engine cannot be loaded on this machine", where=str(folder), why=_WHY, next=_NEXT)


def _version() -> str:
    if util.find_spec("tensorrt") is None:
        return ""
    try:
        return metadata.version("tensorrt")
    except metadata.PackageNotFoundError:  # JetPack installs the module without package metadata
        return "installed, version unknown"
