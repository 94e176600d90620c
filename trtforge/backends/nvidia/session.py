"""A plan on a GPU or a DLA: buffers, shapes, formats, streams; the same for TensorRT and TensorRT-RTX.

Outside, tensors are plain arrays in the graph's own type. Inside they lie as the engine has them: INT8 by a scale,
FP16, channels in groups. Where CPU and GPU share one memory nothing is copied to the device: arrays are packed straight
into pinned memory that the engine reads, and `traffic` counts what was copied nevertheless.

Not yet run on hardware. Every step looks at its answer, because the bindings report failure by None and False.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from trtforge.backends.base import Arrays, TensorSpec
from trtforge.backends.feeds import check_feeds
from trtforge.backends.nvidia.allocator import output_allocator
from trtforge.backends.nvidia.formats import packed, packed_shape, unpacked
from trtforge.errors.engine import CannotDeserialize, ExecutionFailed
from trtforge.gpu import GpuMemory, Replay, cuda_core, cuda_error

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Border:
    """One input or output of the engine. ``dtype``, ``format``, ``scale``: how the engine has it.

    ``outside``: dtype of the arrays that a caller gives and gets. ``shape``: -1 where it is open.
    """

    name: str
    taken: bool
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    outside: np.dtype[Any]
    format: str
    scale: float | None

    def inside(self, array: Array) -> Array:
        """An array of a caller, as the engine reads it."""
        if self.dtype == np.int8 and self.outside != np.int8:
            assert self.scale is not None
            array = np.clip(np.rint(array / np.float32(self.scale)), -128, 127)
        return packed(array.astype(self.dtype, copy=False), self.format)

    def back(self, array: Array, shape: tuple[int, ...]) -> Array:
        """What the engine wrote, for a caller."""
        plain = unpacked(array, self.format, shape)
        if self.dtype == np.int8 and self.outside != np.int8:
            assert self.scale is not None
            scaled: Array = plain.astype(self.outside) * self.outside.type(self.scale)
            return scaled
        return plain.astype(self.outside, copy=False)

    def room(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of its buffer for a tensor of ``shape``."""
        return packed_shape(shape, self.format, self.dtype.itemsize)


class PlanSession:
    """A deserialized engine with memory on GPU 0, one stream, one execution at a time.

    Args:
        trt: the module. log: its logger, with ``last_words()``.
        engine: an ICudaEngine. where: the plan, for messages.
        scales: of INT8 inputs and outputs that are floats outside.
        outside: dtype names of those that are not what the engine has.
        dla: the engine runs on a DLA: no CUDA graph, and an address is taken back before another is set.

    Raises CannotDeserialize, ExecutionFailed, MissingPackage.
    """

    def __init__(
        self,
        trt: Any,
        log: Any,
        engine: Any,
        where: str,
        *,
        scales: Mapping[str, float] | None = None,
        outside: Mapping[str, str] | None = None,
        dla: bool = False,
    ) -> None:
        self.kept: Any = None
        self._trt, self._log, self._engine, self._where, self._dla = trt, log, engine, where, dla
        self.traffic = {"host_to_device": 0, "device_to_host": 0, "executions": 0}
        self._context = engine.create_execution_context()
        if self._context is None:
            raise self._refusal("no execution context could be made; the GPU's memory may be full")
        self._borders = self._read_borders(scales or {}, outside or {})
        self.inputs = tuple(_spec(border) for border in self._borders.values() if border.taken)
        self.outputs = tuple(_spec(border) for border in self._borders.values() if not border.taken)
        self._core = cuda_core()
        self._device = self._core.Device(0)
        self._device.set_current()
        with ExitStack() as stack:
            self._stream = self._device.create_stream()
            stack.callback(self._stream.close)
            self._memory = stack.enter_context(GpuMemory(self._core, self._device, self._stream))
            self._buffers: dict[str, tuple[int, int]] = {}
            self._allocators: dict[str, Any] = {}
            self._shapes: dict[str, tuple[int, ...]] = {}
            self._replay = self._new_replay()
            self._release = weakref.finalize(self, stack.pop_all().close)

    def _read_borders(self, scales: Mapping[str, float], outside: Mapping[str, str]) -> dict[str, Border]:
        engine, borders = self._engine, {}
        for index in range(engine.num_io_tensors):
            name = engine.get_tensor_name(index)
            if engine.get_tensor_location(name) == self._trt.TensorLocation.HOST:
                raise self._refusal(
                    f"{name!r} is sizes, which the engine wants in the CPU's memory; only data is run here"
                )
            dtype, layout = self._numpy_type(name), engine.get_tensor_format(name).name.lower()
            seen = np.dtype(outside.get(name, dtype.name))
            if dtype == np.int8 and seen != np.int8 and name not in scales:
                raise self._refusal(f"{name!r} is INT8 in the engine, and the engine's record has no scale for it")
            mode = engine.get_tensor_mode(name) == self._trt.TensorIOMode.INPUT
            shape = tuple(int(size) for size in engine.get_tensor_shape(name))
            borders[name] = Border(name, mode, shape, dtype, seen, layout, scales.get(name))
        return borders

    def _numpy_type(self, name: str) -> np.dtype[Any]:
        kind = self._engine.get_tensor_dtype(name)
        try:
            dtype: np.dtype[Any] = np.dtype(self._trt.nptype(kind))
        except TypeError as error:
            raise self._refusal(f"{name!r} is {kind.name}, a type that numpy does not have") from error
        return dtype

    @property
    def borders(self) -> Mapping[str, Border]:
        """Inputs and outputs as the engine has them: what memory that is bound to it must hold."""
        return self._borders

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """One execution, waited for. Open sizes are taken from the arrays. Raises WrongFeed, ExecutionFailed."""
        check_feeds(self.inputs, inputs)
        try:
            self._device.set_current()  # CUDA's current device is a thread's own
            self._set_shapes({name: tuple(array.shape) for name, array in inputs.items()})
            for name, (pointer, _) in self._buffers.items():
                self.bind(name, pointer)  # a caller of `bind` may have set others
            for name, array in inputs.items():
                self._fill(name, self._borders[name].inside(array))
            self._replay.run()
            return {border.name: self._fetch(border) for border in self._borders.values() if not border.taken}
        except cuda_error() as error:
            raise ExecutionFailed(
                "the GPU failed while the engine ran",
                where=self._where,
                why=str(error),
                next="free GPU memory (nvidia-smi), or start a new process; then run it again",
            ) from error

    def _set_shapes(self, shapes: dict[str, tuple[int, ...]]) -> None:
        """Bind buffers for inputs of these shapes and the outputs that follow from them; nothing when they stay."""
        if shapes == self._shapes:
            return
        self._shapes = {}  # until all of this has gone well
        for name, shape in shapes.items():
            if -1 in self._borders[name].shape and not self._context.set_input_shape(name, shape):
                raise self._failed(f"it does not take {name!r} as {list(shape)}")
        for border in self._borders.values():
            shape = shapes.get(border.name) or tuple(int(n) for n in self._context.get_tensor_shape(border.name))
            if -1 in shape:
                self._allocate_later(border)
            else:
                self._bind_own(border, shape)
        self._shapes = shapes
        self._replay = self._new_replay()

    def _new_replay(self) -> Replay:
        """By a weak reference: the session would hold itself, and its memory, else."""
        graph = not (self._dla or self._allocators)
        return Replay(self._core, weakref.proxy(self), self._stream, graph=graph)

    def _allocate_later(self, border: Border) -> None:
        """An output whose size depends on data."""
        if border.name not in self._allocators:
            allocator = output_allocator(self._trt, self._memory.take_shared, self._memory.free)
            if not self._context.set_output_allocator(border.name, allocator):
                raise self._failed(f"it did not take an allocator for {border.name!r}")
            self._allocators[border.name] = allocator

    def _bind_own(self, border: Border, shape: tuple[int, ...]) -> None:
        size = max(1, prod(border.room(shape)) * border.dtype.itemsize)
        pointer, there = self._buffers.get(border.name, (0, 0))
        if size <= there:
            return
        if there:
            del self._buffers[border.name]  # first: when there is no room for the new one, the old one is gone too
            self._memory.free(pointer)
        self._buffers[border.name] = (self._memory.take_shared(size), size)

    def _fill(self, name: str, array: Array) -> None:
        self.traffic["host_to_device"] += self._memory.write(self._buffers[name][0], array)

    def _fetch(self, border: Border) -> Array:
        if (allocator := self._allocators.get(border.name)) is not None:
            self._stream.sync()  # the size is told while the engine runs
            pointer, shape = allocator.pointer, allocator.shape
        else:
            pointer, _ = self._buffers[border.name]
            shape = tuple(int(size) for size in self._context.get_tensor_shape(border.name))
        raw = np.empty(border.room(shape), border.dtype)
        if raw.nbytes:
            self._memory.get(pointer, raw)
        if not self._memory.is_shared:
            self.traffic["device_to_host"] += raw.nbytes
        return border.back(raw, shape)

    def bind(self, name: str, pointer: int) -> None:
        """Use this memory of GPU 0 for an input or output in :meth:`enqueue`, until :meth:`run` goes back to its own.

        It must hold the whole tensor as the engine has it, and stay until the executions are over.
        Raises ExecutionFailed.
        """
        if self._dla:
            self._context.set_tensor_address(name, 0)  # a DLA's registration must go before another comes
        if not self._context.set_tensor_address(name, pointer):
            raise self._failed(f"it did not take an address for {name!r}")

    def enqueue(self, stream_handle: int) -> None:
        """Put one execution into a stream, a cudaStream_t, and do not wait for it. Raises ExecutionFailed."""
        if not self._context.execute_async_v3(stream_handle):
            for allocator in self._allocators.values():
                if allocator.problem is not None:
                    raise self._failed(f"no memory for an output: {allocator.problem}") from allocator.problem
            raise self._failed("it did not run")
        self.traffic["executions"] += 1

    def capturable(self, stream_handle: int) -> bool:
        """May :meth:`enqueue` into this stream be captured into a CUDA graph?

        TensorRT-RTX says so itself. TensorRT does not: it can where all work is the GPU's and no size depends on data.
        """
        if hasattr(self._context, "is_stream_capturable"):
            return bool(self._context.is_stream_capturable(stream_handle))
        return not self._dla

    def close(self) -> None:
        """Free the buffers and the stream, as losing the last reference also does; then the session cannot run."""
        self._release()

    def _failed(self, what: str) -> ExecutionFailed:
        return ExecutionFailed(
            f"the engine cannot be run: {what}",
            where=self._where,
            why=self._log.last_words() or "TensorRT gave no reason",
            next="`trtforge inspect` shows what the engine takes; `trtforge doctor` looks at this machine",
        )

    def _refusal(self, why: str) -> CannotDeserialize:
        return CannotDeserialize(
            "the engine cannot be loaded",
            where=self._where,
            why=" | ".join(part for part in (why, self._log.last_words()) if part),
            next="build it again for this machine: trtforge build RECIPE",
        )


def _spec(border: Border) -> TensorSpec:
    return TensorSpec(border.name, tuple(None if n < 0 else n for n in border.shape), border.outside.name)
