"""Compiling the window kernels for GPUs that are not here, and choosing among the results."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trtforge.errors.backend import KernelNotCompiled
from trtforge.errors.engine import ForeignGpu
from trtforge.errors.environment import MissingPackage
from trtforge.kernels import cubins
from trtforge.kernels.cubins import fitting, plugin_folder
from trtforge.runtime.windows.cubins import KERNELS, WINDOWS

SMS = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0")
ELF_CUDA = 190  # e_machine


def missing() -> str:
    try:
        cubins._Nvrtc(WINDOWS)
    except MissingPackage as error:
        return error.why
    return ""


needs_nvrtc = pytest.mark.skipif(bool(missing()), reason=missing() or "-")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cubins"


@needs_nvrtc
def test_every_gpu_gets_every_kernel() -> None:
    made = WINDOWS.compile(SMS)
    assert tuple(made) == SMS
    for sm, binary in made.items():
        assert binary[:4] == b"\x7fELF"
        assert int.from_bytes(binary[18:20], "little") == ELF_CUDA
        assert binary[48] == int(sm.replace(".", ""))  # the lowest byte of e_flags
        found = set(re.findall(rb"\.text\.(\w+)\0", binary))
        assert found == {name.encode() for name in KERNELS}
    assert len(set(made.values())) == len(SMS)


@needs_nvrtc
def test_the_same_source_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another folder, in another process, and not from the cache."""
    first = WINDOWS.compile(["8.0"])["8.0"]
    copy = tmp_path / "elsewhere"
    shutil.copytree(plugin_folder("windows"), copy)
    code = (
        "import sys; from pathlib import Path\n"
        "from trtforge.kernels import cubins\n"
        "from trtforge.runtime.windows.cubins import WINDOWS\n"
        f"cubins.plugin_folder = lambda name: Path({str(copy)!r})\n"
        "sys.stdout.buffer.write(cubins._Nvrtc(WINDOWS).compile('8.0'))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, timeout=120).stdout == first


@needs_nvrtc
def test_a_cubin_is_compiled_once(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = WINDOWS.compile(["8.6"])
    (kept,) = empty_cache.iterdir()
    assert kept.read_bytes() == first["8.6"]

    def again(*_: Any) -> bytes:
        raise AssertionError("compiled twice")

    with monkeypatch.context() as patch:
        patch.setattr(cubins._Nvrtc, "compile", again)
        assert WINDOWS.compile(["8.6"]) == first
        patch.setattr(cubins, "OPTIONS", {"std": "c++20"})
        with pytest.raises(AssertionError, match="compiled twice"):
            WINDOWS.compile(["8.6"])


def test_no_float_arithmetic_is_fused(ptx_of) -> None:
    """In PTX as NVRTC writes it: a rounding that is spelled out (.rn) is kept by the assembler too."""
    ptx = "".join(ptx_of(WINDOWS).values())
    assert not re.findall(r"\bfma\.", ptx)
    floats = re.findall(r"\b((?:add|sub|mul|div)\.(?:\w+\.)?f32)\b", ptx)
    assert {"add.rn.f32", "sub.rn.f32", "mul.rn.f32", "div.rn.f32"} == set(floats)
    assert ".local" not in ptx  # no array is indexed in memory
    assert "ld.global.nc.v4.u32" in ptx  # rows of a window go 16 bytes at a time


@needs_nvrtc
def test_a_gpu_that_nvrtc_does_not_know_is_refused() -> None:
    with pytest.raises(KernelNotCompiled, match=r"SM 3\.5") as caught:
        WINDOWS.compile(["3.5"])
    assert "8.0" in caught.value.why


@needs_nvrtc
def test_a_mistake_in_the_source_is_told_in_nvrtcs_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "windows"
    shutil.copytree(plugin_folder("windows"), broken)
    with (broken / "kernel.cu").open("a") as source:
        source.write("__device__ int wrong = nothing;\n")
    monkeypatch.setattr(cubins, "plugin_folder", lambda name: broken)
    with pytest.raises(KernelNotCompiled) as caught:
        WINDOWS.compile(["8.0"])
    assert re.fullmatch(r'kernel\.cu\(\d+\): error: identifier "nothing" is undefined', caught.value.why)
    assert caught.value.where == str(broken / "kernel.cu")


def test_without_the_compiler_the_command_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.core", None)
    with pytest.raises(MissingPackage) as caught:
        WINDOWS.compile(["8.0"])
    assert caught.value.next == "pip install 'trtforge[rtx]'"


def test_plugins_lie_in_the_package() -> None:
    assert all(WINDOWS.source(name).is_file() for name in (*WINDOWS.sources, "README.md"))


def test_files_beside_an_engine_are_found_by_name(tmp_path: Path) -> None:
    for sm in ("12.0", "8.0", "8.7"):
        (tmp_path / WINDOWS.file_name(sm)).write_bytes(sm.encode())
    for other in ("windows.sm80.txt", "model.plan", "windows.sm8.cubin"):
        (tmp_path / other).touch()
    found = WINDOWS.files(tmp_path)
    assert list(found) == ["8.0", "8.7", "12.0"]
    assert found["8.7"] == tmp_path / "windows.sm87.cubin"


@pytest.mark.parametrize(
    ("here", "gpu", "chosen"),
    [
        ("8.0 8.6 8.7", "8.6", "8.6"),
        ("8.0 8.6 8.7 9.0", "8.9", "8.6"),  # not Orin's, not another major version's
        ("8.0 9.0", "8.6", "8.0"),
        ("8.6", "8.0", None),  # older than the cubin
        ("8.0 8.6", "8.7", None),  # an SoC runs only its own
        ("8.0 8.7", "8.7", "8.7"),
        ("8.7", "8.9", None),
        ("9.0 8.0", "10.0", None),
        ("", "8.0", None),
    ],
)
def test_the_best_cubin_that_runs_is_chosen(here: str, gpu: str, chosen: str | None) -> None:
    kept = {sm: f"for {sm}" for sm in here.split()}
    if chosen is None:
        with pytest.raises(ForeignGpu, match="do not run on this GPU") as caught:
            fitting(kept, gpu)
        assert f"SM {gpu}" in caught.value.why
        assert "trtforge build" in caught.value.next
    else:
        assert fitting(kept, gpu) == f"for {chosen}"
