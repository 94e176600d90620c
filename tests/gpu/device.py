"""The kernels of a plugin on GPU 0, and under compute-sanitizer."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge.backends.nvidia.driver import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.errors.environment import MissingPackage
from trtforge.gpu import GpuMemory, cuda_core
from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch
from trtforge.kernels.tensorrt import Loaded

ROOT = Path(__file__).parents[2]
TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
UNWRITTEN = 0x55
Array = np.ndarray[Any, Any]


def problem(kernels: KernelSet, lowest_sm: str = "0.0") -> str:
    """Why these kernels cannot be run here, "" when they can."""
    if why := driver_problem():
        return why
    sm = compute_capability() or "0.0"
    if tuple(map(int, sm.split("."))) < tuple(map(int, lowest_sm.split("."))):
        return f"the kernels need SM {lowest_sm} or later; this GPU is {sm}"
    try:
        cuda_core()
        kernels.compile([sm])
    except MissingPackage as error:
        return f"{error.what}: {error.why}"
    return ""


def on_gpu(
    kernels: KernelSet,
    launches: Sequence[Launch],
    tensors: Mapping[str, Array],
    output: tuple[Sequence[int], Any],
    workspace: Mapping[str, int],
) -> Array:
    """What the launches write to `y`, of ``output``'s shape and dtype. ``workspace``: bytes by name, not cleared."""
    sm, core = compute_capability(), cuda_core()
    assert sm is not None
    device = core.Device(0)
    device.set_current()
    stream = device.create_stream()
    made = np.empty(output[0], output[1])
    made.view(np.uint8)[...] = UNWRITTEN
    with GpuMemory(core, device, stream) as memory:
        addresses = {name: memory.put(np.ascontiguousarray(array)) for name, array in tensors.items()}
        addresses |= {"y": memory.put(made), **{name: memory.take(size) for name, size in workspace.items()}}
        addresses.setdefault("skip", 0)
        Loaded(kernels.compile([sm]), device).run(launches, addresses, int(stream.handle))
        memory.get(addresses["y"], made)
    return made


def sanitize(module: str, tool: str) -> None:
    """A test module's few small cases under one of compute-sanitizer's tools, which must find nothing."""
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on PATH")
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1"]
    if tool == "memcheck":  # cuda-bindings asks for every function of every driver, and is refused newer ones' names
        command += ["--report-api-errors", "no"]
    command += [sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
