"""Running a TensorRT-RTX engine on a GPU.

Not yet run on hardware: the TensorRT-RTX calls are checked against the installed bindings, and nothing here has
executed an engine. Every step checks its return value, because the bindings report failure by None and False.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.backends.base import Arrays, TensorSpec
from trtforge.backends.feeds import check_feeds
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.plugins import needed
from trtforge.errors.engine import CannotDeserialize, ExecutionFailed
from trtforge.errors.environment import MissingPackage, NoGpu
from trtforge.kernels.plugin import PluginKind
from trtforge.kernels.tensorrt import register


class RtxSession:
    """A loaded engine with its buffers on GPU 0: static shapes, one stream, one execution at a time.

    ``report``: of the build; it names the plugins that are registered before the engine is read.
    Raises PluginNotHere, NoGpu, MissingPackage, CannotDeserialize.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, plan: Path, report: Mapping[str, Any]) -> None:
        kinds = needed(report, plan)
        if problem := environment.driver_problem():
            raise NoGpu(
                "the engine cannot run on this machine",
                where=str(plan),
                why=problem,
                next="run it on a machine with the GPU it was built for; here it can be inspected: trtforge inspect",
            )
        self._cuda = _Cuda(plan)
        trt, self._log = _tensorrt_rtx()
        self._creators = [register(trt, kind, _cubins(kind, plan.parent)) for kind in kinds.values()]
        self._runtime = trt.Runtime(self._log)
        self._engine = self._deserialize(trt, plan)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise self._refusal(plan, "no execution context could be made; the GPU's memory may be full")
        with ExitStack() as stack:
            self._stream = self._cuda.call("cudaStreamCreate")
            stack.callback(self._cuda.call, "cudaStreamDestroy", self._stream)
            self._buffers = self._allocate(trt, plan, stack)
            self._release = weakref.finalize(self, stack.pop_all().close)

    def _deserialize(self, trt: Any, plan: Path) -> Any:
        data = plan.read_bytes()
        validity, diagnostics = self._runtime.get_engine_validity(data[: self._runtime.engine_header_size])
        if validity == trt.EngineValidity.INVALID:
            reasons = trt.EngineInvalidityDiagnostics.__members__.values()
            flags = [reason.name for reason in reasons if int(diagnostics) & int(reason)]
            raise self._refusal(plan, f"the runtime's check of the header says {', '.join(flags) or diagnostics}")
        engine = self._runtime.deserialize_cuda_engine(data)
        if engine is None:
            raise self._refusal(plan, "")
        return engine

    def _allocate(self, trt: Any, plan: Path, stack: ExitStack) -> dict[str, int]:
        """Device memory for every input and output, bound to the context; freed by the stack."""
        specs: dict[Any, list[TensorSpec]] = {trt.TensorIOMode.INPUT: [], trt.TensorIOMode.OUTPUT: []}
        buffers = {}
        for index in range(self._engine.num_io_tensors):
            name = self._engine.get_tensor_name(index)
            dtype = self._numpy_type(trt, plan, name)
            shape = tuple(self._engine.get_tensor_shape(name))
            if any(size < 0 for size in shape):
                raise self._refusal(plan, f"{name!r} has an open shape {list(shape)}; only fixed shapes are run")
            specs[self._engine.get_tensor_mode(name)].append(TensorSpec(name, shape, dtype.name))
            size = max(1, int(np.prod(shape)) * dtype.itemsize)
            buffers[name] = int(self._cuda.call("cudaMalloc", size))
            stack.callback(self._cuda.call, "cudaFree", buffers[name])
            if not self._context.set_tensor_address(name, buffers[name]):
                raise self._refusal(plan, f"the address of {name!r} was not accepted")
        self.inputs = tuple(specs[trt.TensorIOMode.INPUT])
        self.outputs = tuple(specs[trt.TensorIOMode.OUTPUT])
        return buffers

    def _numpy_type(self, trt: Any, plan: Path, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        try:
            dtype: np.dtype[Any] = np.dtype(trt.nptype(kind))
        except TypeError as error:
            raise self._refusal(plan, f"{name!r} is {kind.name}, a type that numpy does not have") from error
        return dtype

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """Copy in, execute, copy out, wait. Arrays must match :attr:`inputs` in name, shape and dtype.

        Raises WrongFeed, ExecutionFailed.
        """
        check_feeds(self.inputs, inputs)
        kinds = self._cuda.copy_kinds
        feeds = {name: np.ascontiguousarray(array) for name, array in inputs.items()}  # alive until the wait below
        results = {spec.name: np.empty(_fixed(spec), spec.dtype) for spec in self.outputs}
        for name, array in feeds.items():
            self._copy(self._buffers[name], array.ctypes.data, array.nbytes, kinds.cudaMemcpyHostToDevice)
        for name, pointer in self._buffers.items():
            self.bind(name, pointer)  # a caller of `bind` may have set others
        self.enqueue(int(self._stream))
        for name, array in results.items():
            self._copy(array.ctypes.data, self._buffers[name], array.nbytes, kinds.cudaMemcpyDeviceToHost)
        self._cuda.call("cudaStreamSynchronize", self._stream)
        return results

    def bind(self, name: str, pointer: int) -> None:
        """Use this memory of GPU 0 for an input or output in :meth:`enqueue`, until :meth:`run` goes back to its own.

        It must hold the whole tensor, and stay until the executions are over. Raises ExecutionFailed.
        """
        if not self._context.set_tensor_address(name, pointer):
            raise ExecutionFailed(
                f"the engine did not take an address for {name!r}",
                why=self._log.last_words(),
                next="give a name of the engine and memory of the GPU",
            )

    def enqueue(self, stream_handle: int) -> None:
        """Put one execution into a stream, a cudaStream_t, and do not wait for it. Raises ExecutionFailed."""
        if not self._context.execute_async_v3(stream_handle):
            raise ExecutionFailed(
                "the engine did not run", why=self._log.last_words(), next="run `trtforge doctor` on this machine"
            )

    def capturable(self, stream_handle: int) -> bool:
        """May :meth:`enqueue` into this stream be captured into a CUDA graph?

        TensorRT-RTX wants it built with REQUIRE_USER_ALLOCATION, and without control flow or sizes that depend on data.
        """
        return bool(self._context.is_stream_capturable(stream_handle))

    def _copy(self, destination: int, source: int, size: int, kind: Any) -> None:
        self._cuda.call("cudaMemcpyAsync", destination, source, size, kind, self._stream)

    def close(self) -> None:
        """Free the buffers and the stream, as losing the last reference also does; then the session cannot run."""
        self._release()

    def _refusal(self, plan: Path, why: str) -> CannotDeserialize:
        return CannotDeserialize(
            "TensorRT-RTX does not load the engine",
            where=str(plan),
            why=" | ".join(part for part in (why, self._log.last_words()) if part) or "the runtime gave no reason",
            next="rebuild it for the GPU and the TensorRT-RTX of this machine: trtforge build RECIPE",
        )


def _cubins(kind: PluginKind, folder: Path) -> dict[str, bytes]:
    return {sm: path.read_bytes() for sm, path in kind.kernels.files(folder).items()}


def _fixed(spec: TensorSpec) -> tuple[int, ...]:
    return tuple(size or 0 for size in spec.shape)


@cache
def _tensorrt_rtx() -> tuple[Any, Any]:
    """The module and the one logger of this process: TensorRT-RTX ignores a second one."""
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise MissingPackage(
            "running this engine needs TensorRT-RTX", why=str(error), next=environment.INSTALL
        ) from error

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self._errors.append(message)

        def last_words(self) -> str:
            """The errors since the last call."""
            words, self._errors = self._errors, []
            return " | ".join(words)

    return trt, Logger()


class _Cuda:
    """The few CUDA runtime calls a session needs, through NVIDIA's cuda-bindings, with every error raised."""

    def __init__(self, plan: Path) -> None:
        try:
            runtime: Any = import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise MissingPackage(
                "running an engine on the GPU needs NVIDIA's cuda-bindings",
                where=str(plan),
                why=str(error),
                next=environment.CUDA_INSTALL,
            ) from error
        self._runtime = runtime
        self.copy_kinds = runtime.cudaMemcpyKind

    def call(self, function: str, *arguments: Any) -> Any:
        """Raises ExecutionFailed with CUDA's own name of the error."""
        code, *results = getattr(self._runtime, function)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise ExecutionFailed(
                f"the GPU runtime failed in {function}",
                why=f"{code.name} ({int(code)})",
                next="free GPU memory (nvidia-smi), or start a new process; then run it again",
            )
        return results[0] if results else None
