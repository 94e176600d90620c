"""Memory of the window loop on a GPU: how much it takes, and how arrays get there and back.

Not yet run on hardware.
"""

from __future__ import annotations

import ctypes
from math import prod
from types import TracebackType
from typing import Any, Literal

import numpy as np

from trtforge.runtime.windows.loop import Window
from trtforge.volumes.windows import Shape, WindowGrid

Layout = Literal["linear", "cdhw32"]
"""Of an engine's input: [N, 1, D, H, W], or [N, D, H, W, 32] of which only the first of 32 channels is not zero."""

Array = np.ndarray[Any, Any]


def ring_size(grid: WindowGrid) -> Shape:
    """The sums' [D, H, W]: the volume's, but along the slowest axis of the loop only a window's length.

    There the planes are used in turn: when the loop moves on, it does not come back to the planes it leaves.
    """
    slowest = grid.order[0]
    z, y, x = (grid.window[axis] if axis == slowest else grid.shape[axis] for axis in range(3))
    return z, y, x


def device_memory(
    grid: WindowGrid, window: Window, *, volume: str, taken: str, given: str, layout: Layout = "linear"
) -> dict[str, int]:
    """Bytes of GPU memory that the loop takes, by name; the engine's own memory is not among it.

    Args:
        volume, taken, given: numpy dtype names of the volume on the GPU, the engine's input and its output.
    """
    voxels, inside = prod(grid.shape), window.batch * prod(grid.window)
    return {
        "volume": voxels * np.dtype(volume).itemsize,
        "labels": voxels,
        "accumulator": max(window.channels - 1, 1) * prod(ring_size(grid)) * 4,
        "windows": inside * np.dtype(taken).itemsize * (32 if layout == "cdhw32" else 1),
        "logits": inside * window.channels * np.dtype(given).itemsize,
    }


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
        if self.is_shared:
            _at(pointer, array)[...] = array
        else:
            source = self._host(array)
            self._sources.append(source)  # alive until the copy is over
            self._buffers[pointer].copy_from(source, stream=self._stream)
        return pointer

    def get(self, pointer: int, array: Array) -> None:
        """Fill a C-contiguous array with what the stream's work has left at ``pointer``; waits for it."""
        if self.is_shared:
            self._stream.sync()
            array[...] = _at(pointer, array)
        else:
            self._buffers[pointer].copy_to(self._host(array), stream=self._stream)
            self._stream.sync()

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
