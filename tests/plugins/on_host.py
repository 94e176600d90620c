"""The kernels of a plugin compiled for this CPU.

Memory of a launch lies between guards and comes filled with nonsense. Every launch is run under two schedules of its
threads, blocks and copies: the bits must be the same.
"""

from __future__ import annotations

import ctypes
import faulthandler
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any
from zlib import crc32

import numpy as np
import pytest

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch

Array = np.ndarray[Any, Any]
FLAGS = (
    *("-std=c++17", "-O2", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"),
    "-fno-gnu-unique",  # each plugin has a `threadIdx` of its own, although all are loaded into one process
    *("-fsanitize=alignment", "-fsanitize-undefined-trap-on-error"),  # by SIGILL, without a library
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
)
GUARD = 256
NONSENSE = 0x7D  # 2e37 as float32 (NaN could hide in a conversion to int8), NaN as float16, 125 as an integer

HOST = """
#include "host_shim.hpp"
//
#include "kernel.cu"

// The launch, to be run; empty where there is no such kernel.
trtforge::host::Launch prepared(const char *name, dim3 grid, dim3 block, void *const *parameters) {{
{cases}
    return {{}};
}}

// The same for those who do not know the shim.
extern "C" void prepare(const char *name, const unsigned *shape, void *const *parameters, unsigned order, int late,
                        int without, std::function<long()> &made) {{
    const dim3 grid{{shape[0], shape[1], shape[2]}}, block{{shape[3], shape[4], shape[5]}};
    const auto run = prepared(name, grid, block, parameters);
    if (run) made = [=] {{ return run({{order, late != 0, without}}); }};
}}

// Bank conflicts of the matrix loads; -1 where there is no such kernel.
extern "C" long launch(const char *name, const unsigned *shape, void *const *parameters, unsigned order, int late,
                       int without) {{
    std::function<long()> made;
    prepare(name, shape, parameters, order, late, without, made);
    return made ? made() : -1;
}}
"""
CASE = '    if (!std::strcmp(name, "{0}")) return trtforge::host::prepared({0}, grid, block, parameters);'


@dataclass(frozen=True)
class Schedule:
    """``order`` of threads and blocks: 0 the lowest first, 1 the highest, else a seed. ``late``: copies write when they
    are waited for. ``without``: the barrier of this line is taken out."""

    order: int = 0
    late: bool = False
    without: int = 0


FIRST = Schedule()
EVERY = tuple(Schedule(order, late) for order in (0, 1, 7, 8) for late in (False, True))


def another(what: object) -> Schedule:
    """A schedule that is not `FIRST`, always the same for the same thing."""
    return Schedule(1 + crc32(repr(what).encode()) % 5, late=True)


class Memory:
    """An array between guards. ``offset``: bytes by which its address misses a multiple of 256."""

    def __init__(self, shape: Sequence[int], dtype: Any, offset: int = 0) -> None:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        self.whole = np.full(size + 3 * GUARD + offset, NONSENSE, np.uint8)
        self.start = GUARD + -(self.whole.ctypes.data) % 256 + offset
        self.end = self.start + size
        self.array = self.whole[self.start : self.end].view(dtype).reshape(shape)

    def check(self, name: str) -> None:
        assert (self.whole[: self.start] == NONSENSE).all(), f"a kernel wrote in front of {name}"
        assert (self.whole[self.end :] == NONSENSE).all(), f"a kernel wrote behind {name}"


class HostKernels:
    """The kernels of one plugin, run as its `launch` module says. ``conflicts``: bank conflicts of matrix loads."""

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch
        self._launch.restype = ctypes.c_long
        words = ctypes.POINTER(ctypes.c_uint)
        self._launch.argtypes = [ctypes.c_char_p, words, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_int]
        self.conflicts = 0

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], parameters: int, schedule: Schedule) -> None:
        """``parameters``: address of an array of addresses of the arguments, as cuLaunchKernel takes them."""
        shape = (ctypes.c_uint * 6)(*grid, *block)
        order = schedule.order, schedule.late, schedule.without
        found = self._launch(name.encode(), shape, parameters, *order)
        assert found >= 0, f"no kernel {name!r}"
        self.conflicts += found

    def __call__(
        self,
        launches: Sequence[Launch],
        tensors: Mapping[str, Array | None],
        output: tuple[Sequence[int], Any],
        workspace: Mapping[str, int] | None = None,
        offset: int = 0,
        schedules: Sequence[Schedule] = (),
    ) -> Array:
        """What the launches write to `y`. ``tensors``: inputs; one that is None has the address 0. ``output``: shape
        and dtype. ``offset``: bytes by which tensors miss a multiple of 256. ``schedules``: two where none is given."""
        first, *others = (
            self._run(launches, tensors, output, workspace or {}, offset, schedule)
            for schedule in schedules or (FIRST, another(launches))
        )
        assert {each.tobytes() for each in others} <= {first.tobytes()}, "the result depends on the order of threads"
        return first

    def _run(
        self,
        launches: Sequence[Launch],
        tensors: Mapping[str, Array | None],
        output: tuple[Sequence[int], Any],
        workspace: Mapping[str, int],
        offset: int,
        schedule: Schedule,
    ) -> Array:
        memory = {name: Memory((size,), np.uint8) for name, size in workspace.items()}
        memory["y"] = Memory(*output, offset=offset)
        given = {name: array for name, array in tensors.items() if array is not None}
        for name, array in given.items():
            memory[name] = Memory(array.shape, array.dtype, offset)
            memory[name].array[...] = array
        addresses = {name: np.uint64(each.array.ctypes.data) for name, each in memory.items()}
        addresses |= {name: np.uint64(0) for name in tensors if name not in given}
        for launch in launches:
            boxes = [np.array([addresses[each] if isinstance(each, str) else each]) for each in launch.arguments]
            parameters = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
            self.launch(launch.kernel, launch.grid, launch.block, ctypes.addressof(parameters), schedule)
        for name, each in memory.items():
            each.check(name)
        for name, array in given.items():
            assert memory[name].array.tobytes() == array.tobytes(), f"a kernel wrote to {name}"
        return memory["y"].array.copy()


def build(library: Path, source: Path, *options: str) -> Path:
    """A library of a C++ source. Skips without a C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    command = [compiler, *FLAGS, *options, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return library


def build_for_host(kernels: KernelSet, names: Sequence[str], folder: Path) -> Path:
    """A library of a plugin's kernels of these names, made in ``folder``, where sources of its own are taken first."""
    for source in kernels.sources[1:]:  # in a template g++ does not put it where the shim fills it with nonsense
        assert "__shared__" not in kernels.source(source).read_text(), f"shared memory in {source}, not in kernel.cu"
    host = folder / "host.cpp"
    host.write_text(HOST.format(cases="\n".join(map(CASE.format, names))))
    return build(folder / "kernels.so", host, *(f"-I{each}" for each in (folder, *kernels.include_path)))


def compile_for_host(kernels: KernelSet, names: Sequence[str], folder: Path) -> HostKernels:
    return HostKernels(build_for_host(kernels, names, folder))


def unseen_barriers(kernels: KernelSet, *runs: Callable[[Sequence[Schedule]], object]) -> list[int]:
    """Lines of barriers that can be taken out of the source, and every schedule gives the same bits in each run."""

    def seen(line: int, run: Callable[[Sequence[Schedule]], object]) -> bool:
        try:
            run([replace(each, without=line) for each in EVERY])
        except AssertionError as error:
            return "depends on the order" in str(error)
        return False

    lines = (kernels.folder / kernels.sources[1]).read_text().splitlines()
    barriers = [number for number, line in enumerate(lines, 1) if "__syncthreads()" in line]
    assert barriers
    return [line for line in barriers if not any(seen(line, run) for run in runs)]


def end_of(run: Callable[[], object]) -> tuple[int, str]:
    """How a process of its own ends that does this: the signal, 0 where there is none, and what it says."""
    with TemporaryFile() as said:
        if (child := os.fork()) == 0:
            faulthandler.disable()
            os.dup2(said.fileno(), 2)
            run()
            os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        said.seek(0)
        return -status, said.read().decode()
