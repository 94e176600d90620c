"""CUDA binaries of the window kernels (plugins/windows), compiled without a GPU and kept with the engine they serve.

One cubin a compute capability, byte for byte the same from the same source, options and NVRTC.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import trtforge
from trtforge.cache import cache_dir
from trtforge.digest import digest_json, sha256_file
from trtforge.errors.backend import KernelNotCompiled
from trtforge.errors.engine import ForeignGpu
from trtforge.errors.environment import MissingPackage
from trtforge.files import write_bytes

SOURCES = ("kernel.cu", "windows.cuh")
KERNELS = (
    "slice_int8",
    "slice_float16",
    "slice_float32",
    "quantize_int8",
    "slice_int8_cdhw32",
    "quantize_int8_cdhw32",
    "accumulate_float16",
    "accumulate_float32",
)
OPTIONS = {"std": "c++17"}
"""Beside the architecture: fields of cuda-core's ProgramOptions."""

SOC = frozenset({"7.2", "8.7", "10.1", "11.0"})
"""Xavier, Orin and Thor. Cubins of discrete GPUs do not run there, nor theirs elsewhere (CUDA programming guide,
"binary compatibility")."""

INSTALL = "pip install 'trtforge[rtx]'"

T = TypeVar("T")


def plugin_folder(name: str) -> Path:
    """Where a plugin's sources lie: in the installed package, or beside it in a source tree."""
    package = Path(trtforge.__file__).parent
    inside = package / "plugins"
    return (inside if inside.is_dir() else package.parent / "plugins") / name


def source_digests() -> dict[str, str]:
    """Source of the kernels -> its sha256. Raises OSError."""
    return {name: sha256_file(plugin_folder("windows") / name) for name in SOURCES}


def compile_cubins(sms: Sequence[str]) -> dict[str, bytes]:
    """Compute capability ("8.0") -> cubin, from trtforge's cache where it was compiled before.

    Raises MissingPackage, KernelNotCompiled.
    """
    nvrtc = _Nvrtc()
    return {sm: _kept(sm, nvrtc) for sm in sms}


def file_name(sm: str) -> str:
    """What the cubin for a compute capability is called beside an engine: `windows.sm80.cubin`."""
    return f"windows.sm{sm.replace('.', '')}.cubin"


def cubin_files(folder: Path) -> dict[str, Path]:
    """Compute capability -> cubin of the window kernels in an engine's folder, sorted."""
    found = ((re.fullmatch(r"windows\.sm(\d+)(\d)\.cubin", path.name), path) for path in folder.glob("windows.sm*"))
    files = {f"{match[1]}.{match[2]}": path for match, path in found if match}
    return dict(sorted(files.items(), key=lambda item: _version(item[0])))


def fitting(cubins: Mapping[str, T], sm: str) -> T:
    """The cubin, or its file, that a GPU of compute capability ``sm`` runs best.

    A cubin runs on GPUs of its own major version and of its minor version or a higher one; on an SoC, only its own.
    Raises ForeignGpu.
    """
    major, minor = _version(sm)
    runs = [
        _version(have)
        for have in cubins
        if have == sm or (not {have, sm} & SOC and _version(have)[0] == major and _version(have)[1] <= minor)
    ]
    if not runs:
        here = ", ".join(cubins) or "none at all"
        raise ForeignGpu(
            "the window kernels kept with the engine do not run on this GPU",
            why=f"the GPU is SM {sm}; kernels are here for {here}",
            next="build the engine again from the recipe of this device's target: trtforge build RECIPE",
        )
    return cubins["{}.{}".format(*max(runs))]


def _version(sm: str) -> tuple[int, int]:
    major, _, minor = sm.partition(".")
    return int(major), int(minor)


class _Nvrtc:
    """NVRTC through cuda-core. Raises MissingPackage."""

    def __init__(self) -> None:
        try:
            from cuda.bindings import nvrtc
            from cuda.core import Program, ProgramOptions

            _, *version = nvrtc.nvrtcVersion()
            _, known = nvrtc.nvrtcGetSupportedArchs()
        except (ImportError, RuntimeError) as error:  # RuntimeError: the bindings are here, NVRTC itself is not
            raise MissingPackage(
                "compiling the window kernels needs NVIDIA's cuda-core and NVRTC", why=str(error), next=INSTALL
            ) from error
        self._program, self._options = Program, ProgramOptions
        self.version = ".".join(map(str, version))
        self.known = tuple(f"{arch // 10}.{arch % 10}" for arch in known)

    def compile(self, folder: Path, sm: str) -> bytes:
        """Raises KernelNotCompiled."""
        source = folder / SOURCES[0]
        if sm not in self.known:
            raise KernelNotCompiled(
                f"the window kernels cannot be compiled for SM {sm}",
                why=f"NVRTC {self.version} compiles for {', '.join(self.known)}",
                next="install the NVRTC of a CUDA release that knows this GPU",
            )
        options = self._options(name=source.name, arch=f"sm_{sm.replace('.', '')}", include_path=str(folder), **OPTIONS)
        try:
            binary: Any = self._program(source.read_text(), "c++", options).compile("cubin").code
        except Exception as error:  # NVRTCError, whose module is private
            raise KernelNotCompiled(
                f"the window kernels do not compile for SM {sm}",
                where=str(source),
                why=_first_error(str(error)),
                next=f"correct the source, or install trtforge again: {INSTALL}",
            ) from error
        return bytes(binary)


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line and "NVRTC_ERROR" not in line), lines[0] if lines else "")


def _kept(sm: str, nvrtc: _Nvrtc) -> bytes:
    folder = plugin_folder("windows")
    path = cache_dir() / "cubins" / f"{_digest(sm, nvrtc)}.cubin"
    if not path.is_file():
        write_bytes(path, nvrtc.compile(folder, sm))
    return path.read_bytes()


def _digest(sm: str, nvrtc: _Nvrtc) -> str:
    """Of everything the bytes of a cubin depend on."""
    try:
        package = metadata.version("nvidia-cuda-nvrtc-cu12")  # NVRTC itself does not tell its last number
    except metadata.PackageNotFoundError:
        package = ""
    sources = source_digests()
    return digest_json(
        {"sources": sources, "options": OPTIONS, "sm": sm, "nvrtc": nvrtc.version, "nvrtc package": package}
    )
