"""A GPU through NVIDIA's cuda-core: memory, how arrays get there and back, an execution replayed as a CUDA graph.

Not yet run on hardware; the tests run it through the real cuda-core on a stand-in for the driver.
"""

from __future__ import annotations

import ctypes
from importlib import import_module
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from trtforge.errors.engine import ExecutionFailed
from trtforge.errors.environment import MissingPackage

INSTALL = "pip install 'trtforge[rtx-run]'"
Array = np.ndarray[Any, Any]


def cuda_core() -> Any:
    """Raises MissingPackage."""
    try:
        return import_module("cuda.core")
    except ImportError as error:
        raise MissingPackage("running on the GPU needs NVIDIA's cuda-core", why=str(error), next=INSTALL) from error


def cuda_error() -> type[Exception]:
    """What cuda-core raises when the driver refuses."""
    kind: type[Exception] = import_module("cuda.core._utils.cuda_utils").CUDAError
    return kind


class GpuMemory:
    """Memory on the GPU, by pointer, until the block ends.

    ``put`` and ``get`` carry arrays over once, by the driver's own staged copy. Where CPU and GPU share one memory (an
    SoC) nothing is carried over: such arrays lie in pinned memory, which kernels reach under the same address.
    """

    def __init__(self, core: Any, device: Any, stream: Any) -> None:
        """``core``: the module cuda.core."""
        facts = device.properties
        self.is_shared = bool(facts.integrated and facts.can_map_host_memory and facts.unified_addressing)
        self._core, self._device, self._stream = core, device, stream
        self._buffers: dict[int, Any] = {}
        self._sources: list[Any] = []

    def __enter__(self) -> GpuMemory:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        try:
            self._stream.sync()  # after an error too: what is copied must not go before it is
        finally:
            for buffer in self._buffers.values():
                buffer.close(self._stream)

    def take(self, size: int) -> int:
        """Memory of the GPU alone, uninitialised."""
        return self._keep(self._device.allocate(size, stream=self._stream))

    def take_shared(self, size: int) -> int:
        """Memory that ``put`` and ``get`` reach, uninitialised."""
        if not self.is_shared:
            return self.take(size)
        return self._keep(self._core.LegacyPinnedMemoryResource().allocate(size, stream=self._stream))

    def put(self, array: Array) -> int:
        """A C-contiguous array, on the GPU."""
        pointer = self.take_shared(array.nbytes)
        self.write(pointer, array)
        return pointer

    def write(self, pointer: int, array: Array) -> int:
        """A C-contiguous array into memory of ``take_shared``; the bytes that were copied to the GPU for it."""
        if self.is_shared:
            _at(pointer, array)[...] = array
            return 0
        source = self._host(array)
        self._sources.append(source)  # alive until the copy is over
        self._part(pointer, array.nbytes).copy_from(source, stream=self._stream)
        return array.nbytes

    def get(self, pointer: int, array: Array) -> None:
        """Fill a C-contiguous array with what the stream's work has left at ``pointer``; waits for it."""
        if self.is_shared:
            self._stream.sync()
            array[...] = _at(pointer, array)
        else:
            self._part(pointer, array.nbytes).copy_to(self._host(array), stream=self._stream)
            self._stream.sync()
        self._sources.clear()

    def free(self, pointer: int) -> None:
        """Give memory back before the block ends."""
        self._buffers.pop(pointer).close(self._stream)

    def _part(self, pointer: int, size: int) -> Any:
        """The first bytes of a buffer: cuda-core copies whole buffers of one size only."""
        whole = self._buffers[pointer]
        return whole if whole.size == size else self._core.Buffer.from_handle(pointer, size, owner=whole)

    def _keep(self, buffer: Any) -> int:
        pointer = int(buffer.handle)
        self._buffers[pointer] = buffer
        return pointer

    def _host(self, array: Array) -> Any:
        return self._core.Buffer.from_handle(array.ctypes.data, array.nbytes, owner=array)


def _at(pointer: int, like: Array) -> Array:
    """The memory of the CPU at an address, as an array of the shape and dtype of another."""
    raw = (ctypes.c_uint8 * like.nbytes).from_address(pointer)
    return np.ctypeslib.as_array(raw).view(like.dtype).reshape(like.shape)


class Enqueues(Protocol):
    """An engine that is put into streams."""

    def enqueue(self, stream_handle: int) -> None: ...

    def capturable(self, stream_handle: int) -> bool: ...


class Replay:
    """An engine in a stream, from its second run on as a CUDA graph where that is wanted and possible.

    TensorRT wants one ordinary execution before a capture: what it sets up at the first one cannot be captured.
    """

    def __init__(self, core: Any, engine: Enqueues, stream: Any, graph: bool) -> None:
        self._engine, self._stream, self._handle = engine, stream, int(stream.handle)
        self._wanted, self._ran, self._graph = graph, False, None
        self._options = core.EventOptions(blocking_sync=True)

    def run(self) -> Any:
        """One execution; an event that it is over."""
        if self._graph is None and self._ran and self._wanted:
            self._wanted = self._engine.capturable(self._handle)
            self._graph = self._captured() if self._wanted else None
        if self._graph is None:
            self._engine.enqueue(self._handle)
        else:
            self._graph.launch(self._stream)
        self._ran = True
        return self._stream.record(options=self._options)

    def _captured(self) -> Any:
        """The graph; None when the engine does something that no graph can hold: then it goes on without one."""
        try:
            return self._capture()
        except (ExecutionFailed, cuda_error()):
            self._wanted = False
            return None

    def _capture(self) -> Any:
        builder = self._stream.create_graph_builder().begin_building("thread_local")
        try:
            self._engine.enqueue(self._handle)
        finally:
            builder.end_building()
        return builder.complete()
