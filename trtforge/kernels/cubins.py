"""CUDA binaries of a plugin's kernels, compiled without a GPU and kept with the engine they serve.

One cubin a compute capability, byte for byte the same from the same sources, options and NVRTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import trtforge
from trtforge.cache import cache_dir
from trtforge.digest import digest_json, sha256_bytes, sha256_file
from trtforge.errors.backend import KernelNotCompiled
from trtforge.errors.engine import ForeignGpu
from trtforge.errors.environment import MissingPackage
from trtforge.files import write_bytes

OPTIONS = {"std": "c++17"}
"""Beside the architecture: fields of cuda-core's ProgramOptions."""

SOC = frozenset({"7.2", "8.7", "10.1", "11.0"})
"""Xavier, Orin and Thor. Cubins of discrete GPUs do not run there, nor theirs elsewhere (CUDA programming guide,
"binary compatibility")."""

PLUGINS = Path(trtforge.__file__).parent / "plugins"

INSTALL = "pip install 'trtforge[rtx]'"

T = TypeVar("T")


@dataclass(frozen=True)
class Brought:
    """Binaries that were compiled elsewhere. ``files``: by name, as `KernelSet.file_name` has it. ``taken``: the
    digests of those that were used."""

    files: Mapping[str, Path] = field(default_factory=dict)
    taken: dict[str, str] = field(default_factory=dict)

    def has(self, name: str) -> bool:
        return name in self.files

    def take(self, name: str) -> bytes:
        """Raises OSError."""
        content = self.files[name].read_bytes()
        self.taken[name] = sha256_bytes(content)
        return content


_BROUGHT: ContextVar[Brought] = ContextVar("brought", default=Brought())  # noqa: B039 - the default has no files to take


@contextmanager
def brought(files: Mapping[str, Path]) -> Iterator[Brought]:
    """Within, `KernelSet.compile` takes these binaries where NVRTC is missing.

    Nobody here can tell whether a binary is what its sources say. So it serves the one build that it came with, and
    never goes into the cache, from which every other build would take it.
    """
    token = _BROUGHT.set(Brought(files))
    try:
        yield _BROUGHT.get()
    finally:
        _BROUGHT.reset(token)


@dataclass(frozen=True)
class KernelSet:
    """The kernels of one plugin. ``sources``: files in its folder, the one to compile first, then what it includes;
    those that all plugins share lie beside their folders. ``title``: what a person calls them, for messages.
    """

    plugin: str
    sources: tuple[str, ...]
    title: str

    @property
    def folder(self) -> Path:
        return plugin_folder(self.plugin)

    @property
    def include_path(self) -> list[str]:
        return [str(self.folder), str(PLUGINS)]

    def source(self, name: str) -> Path:
        """Where one of ``sources`` lies."""
        own = self.folder / name
        return own if own.is_file() else PLUGINS / name

    def digests(self) -> dict[str, str]:
        """Source file -> its sha256. Raises OSError."""
        return {name: sha256_file(self.source(name)) for name in self.sources}

    def compile(self, sms: Sequence[str]) -> dict[str, bytes]:
        """Compute capability ("8.0") -> cubin, from trtforge's cache where it was compiled before.

        Where NVRTC is missing, those of the kit that is being finished (`brought`). Raises MissingPackage,
        KernelNotCompiled.
        """
        try:
            nvrtc = _Nvrtc(self)
        except MissingPackage:
            names, there = {sm: self.file_name(sm) for sm in sms}, _BROUGHT.get()
            if not all(there.has(name) for name in names.values()):
                raise
            return {sm: there.take(name) for sm, name in names.items()}
        return {sm: _kept(self, sm, nvrtc) for sm in sms}

    def file_name(self, sm: str) -> str:
        """What the cubin for a compute capability is called beside an engine: `windows.sm80.cubin`."""
        return f"{self.plugin}.sm{sm.replace('.', '')}.cubin"

    def files(self, folder: Path) -> dict[str, Path]:
        """Compute capability -> cubin of these kernels in an engine's folder, sorted."""
        pattern = re.compile(rf"{re.escape(self.plugin)}\.sm(\d+)(\d)\.cubin")
        found = ((pattern.fullmatch(path.name), path) for path in folder.glob(f"{self.plugin}.sm*"))
        files = {f"{match[1]}.{match[2]}": path for match, path in found if match}
        return dict(sorted(files.items(), key=lambda item: _version(item[0])))


def plugin_folder(name: str) -> Path:
    """Where a plugin's sources lie."""
    return PLUGINS / name


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
            "the kernels kept with the engine do not run on this GPU",
            why=f"the GPU is SM {sm}; kernels are here for {here}",
            next="build the engine again from the recipe of this device's target: trtforge build RECIPE",
        )
    return cubins["{}.{}".format(*max(runs))]


def _version(sm: str) -> tuple[int, int]:
    major, _, minor = sm.partition(".")
    return int(major), int(minor)


class _Nvrtc:
    """NVRTC through cuda-core. Raises MissingPackage."""

    def __init__(self, kernels: KernelSet) -> None:
        self._kernels = kernels
        try:
            from cuda.bindings import nvrtc
            from cuda.core import Program, ProgramOptions

            _, *version = nvrtc.nvrtcVersion()
            _, known = nvrtc.nvrtcGetSupportedArchs()
        except (ImportError, RuntimeError) as error:  # RuntimeError: the bindings are here, NVRTC itself is not
            raise MissingPackage(
                f"compiling {kernels.title} needs NVIDIA's cuda-core and NVRTC", why=str(error), next=INSTALL
            ) from error
        self._program, self._options = Program, ProgramOptions
        self.version = ".".join(map(str, version))
        self.known = tuple(f"{arch // 10}.{arch % 10}" for arch in known)

    def compile(self, sm: str) -> bytes:
        """Raises KernelNotCompiled."""
        kernels = self._kernels
        source = kernels.folder / kernels.sources[0]
        if sm not in self.known:
            raise KernelNotCompiled(
                f"{kernels.title} cannot be compiled for SM {sm}",
                why=f"NVRTC {self.version} compiles for {', '.join(self.known)}",
                next="install the NVRTC of a CUDA release that knows this GPU",
            )
        arch = f"sm_{sm.replace('.', '')}"
        options = self._options(name=source.name, arch=arch, include_path=kernels.include_path, **OPTIONS)
        try:
            binary: Any = self._program(source.read_text(), "c++", options).compile("cubin").code
        except Exception as error:  # NVRTCError, whose module is private
            raise KernelNotCompiled(
                f"{kernels.title} do not compile for SM {sm}",
                where=str(source),
                why=_first_error(str(error)),
                next=f"correct the source, or install trtforge again: {INSTALL}",
            ) from error
        return bytes(binary)


def _first_error(log: str) -> str:
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line and "NVRTC_ERROR" not in line), lines[0] if lines else "")


def _kept(kernels: KernelSet, sm: str, nvrtc: _Nvrtc) -> bytes:
    path = cache_dir() / "cubins" / f"{_digest(kernels, sm, nvrtc)}.cubin"
    if not path.is_file():
        write_bytes(path, nvrtc.compile(sm))
    return path.read_bytes()


def _digest(kernels: KernelSet, sm: str, nvrtc: _Nvrtc) -> str:
    """Of everything the bytes of a cubin depend on."""
    try:
        package = metadata.version("nvidia-cuda-nvrtc-cu12")  # NVRTC itself does not tell its last number
    except metadata.PackageNotFoundError:
        package = ""
    sources = kernels.digests()
    return digest_json(
        {"sources": sources, "options": OPTIONS, "sm": sm, "nvrtc": nvrtc.version, "nvrtc package": package}
    )
