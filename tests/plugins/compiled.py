"""A plugin's kernels compiled for a GPU that is not here, and what ptxas says of them."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from functools import lru_cache

import pytest

from trtforge.kernels.cubins import OPTIONS, KernelSet

SMS = ("8.0", "8.6", "8.7", "8.9", "9.0")


@dataclass(frozen=True)
class Taken:
    """By one kernel. ``shared``: bytes. ``spilled``: bytes of stack and of spill stores and loads."""

    registers: int
    shared: int
    spilled: int


@dataclass(frozen=True)
class Compiled:
    cubin: bytes
    taken: dict[str, Taken]


@lru_cache
def compiled(kernels: KernelSet, sm: str) -> Compiled:
    """Skips without cuda-core. PTX has as many registers as it likes: only here is seen what does not fit."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    arch = f"sm_{sm.replace('.', '')}"
    options = core.ProgramOptions(arch=arch, include_path=kernels.include_path, ptxas_options=["-v"], **OPTIONS)
    log = io.StringIO()
    code = core.Program(kernels.source("kernel.cu").read_text(), "c++", options).compile("cubin", logs=log)
    taken = {}
    for told in log.getvalue().split("Compiling entry function")[1:]:
        name = re.search(r"'(\w+)'", told)
        spilled = re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", told)
        registers, shared = re.search(r"Used (\d+) registers", told), re.search(r"(\d+) bytes smem", told)
        assert name and spilled and registers, told
        taken[name[1]] = Taken(int(registers[1]), int(shared[1]) if shared else 0, sum(map(int, spilled.groups())))
    return Compiled(bytes(code.code), taken)
