"""The kernels of a plugin compiled for this CPU, and the functions of a plugin run by onnxruntime.

Memory of a launch lies between guards and comes filled with nonsense. Every launch is run twice, with threads and
blocks in ascending and in descending order: the bits must be the same.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import FunctionProto, TensorProto, helper

from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch
from trtforge.surgery.op import DOMAIN, DOMAIN_VERSION, call

Array = np.ndarray[Any, Any]
FLAGS = (
    *("-std=c++17", "-O2", "-shared", "-fPIC", "-ffp-contract=off", "-fno-strict-aliasing"),
    "-fno-gnu-unique",  # each plugin has a `threadIdx` of its own, although all are loaded into one process
    *("-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"),
)
GUARD = 256
NONSENSE = 0x7D  # 2e37 as float32 (NaN could hide in a conversion to int8), NaN as float16, 125 as an integer

HOST = """
#include "host_shim.hpp"
//
#include "kernel.cu"

extern "C" int launch(const char *name, const unsigned *shape, void *const *parameters, int descending) {{
    const dim3 grid{{shape[0], shape[1], shape[2]}}, block{{shape[3], shape[4], shape[5]}};
{cases}
    return 1;
}}
"""
CASE = '    if (!std::strcmp(name, "{0}")) return trtforge::launch({0}, grid, block, parameters, descending), 0;'


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
    """The kernels of one plugin, run as its `launch` module says."""

    def __init__(self, library: Path) -> None:
        self._launch = ctypes.CDLL(str(library)).launch
        self._launch.argtypes = [ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.c_void_p, ctypes.c_int]

    def __call__(
        self,
        launches: Sequence[Launch],
        tensors: Mapping[str, Array | None],
        output: tuple[Sequence[int], Any],
        workspace: Mapping[str, int] | None = None,
        offset: int = 0,
    ) -> Array:
        """What the launches write to `y`. ``tensors``: inputs; one that is None has the address 0. ``output``: shape
        and dtype. ``offset``: bytes by which tensors miss a multiple of 256."""
        first, again = (self._run(launches, tensors, output, workspace or {}, offset, order) for order in (0, 1))
        assert first.tobytes() == again.tobytes(), "the result depends on the order of the threads"
        return first

    def _run(
        self,
        launches: Sequence[Launch],
        tensors: Mapping[str, Array | None],
        output: tuple[Sequence[int], Any],
        workspace: Mapping[str, int],
        offset: int,
        descending: int,
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
            assert launch.shared == 0
            boxes = [np.array([addresses[each] if isinstance(each, str) else each]) for each in launch.arguments]
            parameters = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
            shape = (ctypes.c_uint * 6)(*launch.grid, *launch.block)
            done = self._launch(launch.kernel.encode(), shape, ctypes.addressof(parameters), descending)
            assert done == 0, f"no kernel {launch.kernel!r}"
        for name, each in memory.items():
            each.check(name)
        for name, array in given.items():
            assert memory[name].array.tobytes() == array.tobytes(), f"a kernel wrote to {name}"
        return memory["y"].array.copy()


def compile_for_host(kernels: KernelSet, names: Sequence[str], folder: Path) -> HostKernels:
    """A plugin's kernels of these names, in a library in ``folder``. Skips without a C++ compiler."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    source, library = folder / "host.cpp", folder / "kernels.so"
    source.write_text(HOST.format(cases="\n".join(map(CASE.format, names))))
    where = [f"-I{kernels.folder}", f"-I{kernels.folder.parent}"]
    command = [compiler, *FLAGS, *where, str(source), "-o", str(library)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return HostKernels(library)


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
        options = [b"-arch=compute_80", b"--std=c++17", f"-I{kernels.folder}".encode()]
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


def evaluated(function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any) -> Array:
    """One function of ours in onnxruntime, as a model that holds nothing else."""
    model = model_of(function, *inputs, dynamic=dynamic, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(zip(function.input, inputs, strict=True)))
    return np.asarray(result)


@pytest.fixture(scope="session")
def run_function() -> Callable[..., Array]:
    """`evaluated`."""
    return evaluated


def model_of(function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any) -> onnx.ModelProto:
    """A model of one call. ``dynamic``: the batch is not known when it is made. Checked, with full shape inference."""

    def shape(array: Array) -> list[int | str]:
        return ["N", *array.shape[1:]] if dynamic and array.ndim > 2 else [*array.shape]

    taken = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape(array))
        for name, array in zip(function.input, inputs, strict=True)
    ]
    given = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph([call(function.name, function.input, ["y"], "call", **attributes)], "g", taken, [given])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    return inferred


@pytest.fixture(scope="session")
def inferred_shape() -> Callable[..., list[int | str]]:
    """The sizes that ONNX infers for a function's result."""

    def infer(function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any) -> list[int | str]:
        sizes = model_of(function, *inputs, dynamic=dynamic, **attributes).graph.output[0].type.tensor_type.shape.dim
        return [size.dim_param or size.dim_value for size in sizes]

    return infer


def cdhw32(array: Array, garbage: bool = False) -> Array:
    """int8 [N, C, D, H, W] -> [N, ceil(C / 32), D, H, W, 32]; channels that fill up get zeros, or anything."""
    n, c, *size = array.shape
    blocks = -(-c // 32)
    padded = np.zeros((n, blocks * 32, *size), np.int8)
    if garbage:
        padded[...] = np.random.default_rng(77).integers(-128, 128, padded.shape)
    padded[:, :c] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, blocks, 32, *size), 2, -1))


def linear(array: Array, channels: int) -> Array:
    """The inverse; channels that fill up must be zero."""
    n, blocks, *size, _ = array.shape
    whole = np.moveaxis(array, -1, 2).reshape(n, blocks * 32, *size)
    assert not whole[:, channels:].any(), "channels that fill up are not zero"
    return whole[:, :channels]


@pytest.fixture(scope="session")
def layout() -> SimpleNamespace:
    """`layout.cdhw32` and `layout.linear`."""
    return SimpleNamespace(cdhw32=cdhw32, linear=linear)
