"""What the tests of every plugin share: kernels for this CPU, NVRTC."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.plugins.on_host import HostKernels, compile_for_host
from trtforge.kernels.cubins import KernelSet


@pytest.fixture(scope="session")
def host_kernels(tmp_path_factory: pytest.TempPathFactory) -> Callable[[KernelSet, Sequence[str]], HostKernels]:
    """Compiles a plugin's kernels of these names."""
    return lambda kernels, names: compile_for_host(kernels, names, tmp_path_factory.mktemp(kernels.plugin))


@pytest.fixture(scope="session")
def nvrtc() -> Any:
    """NVRTC's bindings; skips where they, or the library, are not installed."""
    bindings = pytest.importorskip("cuda.bindings.nvrtc", reason="cuda-core is not installed")
    try:
        bindings.nvrtcVersion()
    except RuntimeError as error:
        pytest.skip(str(error))
    return bindings


@pytest.fixture(scope="session")
def ptx_of(nvrtc: Any) -> Callable[[KernelSet], dict[str, str]]:
    """Kernel -> its PTX for compute capability 8.0, as NVRTC writes it: a rounding that is spelled out is kept by the
    assembler too."""

    def compiled(kernels: KernelSet) -> dict[str, str]:
        source = (kernels.folder / kernels.sources[0]).read_bytes()
        _, program = nvrtc.nvrtcCreateProgram(source, b"kernel.cu", 0, [], [])
        options = [b"-arch=compute_80", b"--std=c++17", *(f"-I{each}".encode() for each in kernels.include_path)]
        (failed,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
        assert failed == nvrtc.nvrtcResult.NVRTC_SUCCESS
        _, size = nvrtc.nvrtcGetPTXSize(program)
        text = bytearray(size)
        nvrtc.nvrtcGetPTX(program, text)
        return dict(re.findall(r"\.entry (\w+)\((.*?)\n}", text.decode(errors="ignore"), re.S))

    return compiled


@pytest.fixture
def kernels_in_cubin(
    nvrtc: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[KernelSet, str], set[str]]:
    """Names of the kernels in the cubin for a compute capability, compiled now."""
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))

    def found(kernels: KernelSet, sm: str) -> set[str]:
        binary = kernels.compile([sm])[sm]
        assert binary[:4] == b"\x7fELF"
        assert binary[48] == int(sm.replace(".", ""))  # the lowest byte of e_flags
        return {name.decode() for name in re.findall(rb"\.text\.(\w+)\0", binary)}

    return found
