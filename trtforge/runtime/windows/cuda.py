"""A volume through an engine, window by window, on a GPU: for equal logits the labels of the loop on the CPU.

The volume crosses the bus once, and so do its labels. For each batch of windows one `slice` a window fills the engine's
input, the engine runs, and one `accumulate` a window adds its logits to the sums; a voxel's label is written by the
last window over it. All of it goes into one stream, in order: the kernels take about a hundredth of the engine's time
(plugins/windows/README.md), so there is little to win by overlapping them with it.

Engines here have float32 inputs and outputs in TensorRT's linear layout, so of the kernels those are in use. The others
(INT8 and vectorised layouts) wait for engines that take INT8, which is native TensorRT's.

Not yet run on hardware: the tests run this code and the real cuda-core under it on a stand-in for the driver, with the
kernels compiled for the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Protocol

import numpy as np

from trtforge.backends.base import Session, TensorSpec
from trtforge.errors.engine import ExecutionFailed, WrongFeed
from trtforge.gpu import GpuMemory, Replay, cuda_core, cuda_error
from trtforge.kernels.cubins import fitting
from trtforge.progress import QUIET, Progress
from trtforge.runtime.windows.accumulate import Labels
from trtforge.runtime.windows.cuda_memory import Array, Layout, ring_size
from trtforge.runtime.windows.loop import Window, scores_not_finite
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import Shape, WindowGrid

INSTALL = "pip install 'trtforge[rtx-run]'"
AHEAD = 2
"""Batches in the stream before the CPU waits for the oldest: the GPU never idles, and progress is what it has done."""

THREADS = 256
"""Of a block; the kernels are compiled for no more."""


class DeviceSession(Session, Protocol):
    """A loaded engine of fixed shapes that also works on memory of GPU 0."""

    def bind(self, name: str, pointer: int) -> None:
        """Use this memory for an input or output in ``enqueue``, until ``run`` goes back to its own.

        Raises ENG errors.
        """

    def enqueue(self, stream_handle: int) -> None:
        """Put one execution into a stream, a cudaStream_t, and do not wait for it. Raises ENG errors."""

    def capturable(self, stream_handle: int) -> bool:
        """May ``enqueue`` into this stream be captured into a CUDA graph?"""


def run_on_gpu(
    session: DeviceSession,
    volume: Array,
    grid: WindowGrid,
    weights: WindowWeights,
    cubins: Mapping[str, bytes],
    *,
    layout: Layout = "linear",
    scale: float | None = None,
    graph: bool = False,
    progress: Progress = QUIET,
) -> Labels:
    """Labels of a volume, uint8 [D, H, W].

    Args:
        session: input [N, 1, *grid.window] of int8, float16 or float32, output [N, channels, *grid.window] of float16
            or float32.
        volume: [D, H, W] of ``grid.shape``, preprocessed: int8 or, with ``scale``, floats for an INT8 engine, floats
            for any other.
        cubins: compute capability -> cubin of the window kernels, as `WINDOWS.compile` makes them.
        layout: of an INT8 engine's input.
        scale: what an INT8 engine gets is a float volume / scale, rounded half to even, clipped to [-127, 127].
        graph: capture the engine's execution into a CUDA graph and replay it, where the session allows: it helps
            engines of many short kernels, which the CPU cannot launch as fast as they run. The window kernels stay
            outside, because their arguments differ from window to window.

    Raises: ENG304 the output is not voxelwise, ENG208 no kernel fits the volume or the tensors, ENG206 no cubin fits
        the GPU, ENG305 the scores are NaN, ENG209 the GPU failed, ENV101 cuda-core is missing.
    """
    (taken,) = session.inputs
    window = Window.of(session, [size or 0 for size in taken.shape])
    (given,) = (spec for spec in session.outputs if spec.name == window.output)
    if volume.shape != grid.shape or window.size != grid.window:
        raise ValueError(f"volume {volume.shape} and engine {window.size}: the grid is {grid.shape} of {grid.window}")
    feed = Feed.of(volume, taken, layout, scale)
    if given.dtype not in ("float16", "float32"):
        raise _no_kernel(f"the engine gives {given.dtype} scores; the GPU adds up float16 and float32")

    core = cuda_core()
    try:
        device = core.Device(0)
        device.set_current()
        major, minor = device.compute_capability
        code = core.ObjectCode.from_cubin(fitting(cubins, f"{major}.{minor}"))
        stream = device.create_stream()
        launcher = Launcher(core, code, stream)
        with GpuMemory(core, device, stream) as memory:
            slicer = Slicer(launcher, memory, feed, window, grid)
            adder = Adder(launcher, memory, weights, window, grid, given.dtype)
            session.bind(window.input, slicer.windows)
            session.bind(window.output, adder.logits)
            engine = Replay(core, session, stream, graph)
            _run(slicer, engine, adder, grid, window.batch, progress)
            return adder.labels()
    except cuda_error() as error:
        raise ExecutionFailed(
            "the GPU failed in the window loop",
            why=str(error),
            next="free GPU memory (nvidia-smi), or start a new process; then run it again",
        ) from error


def _run(slicer: Slicer, engine: Replay, adder: Adder, grid: WindowGrid, batch: int, progress: Progress) -> None:
    windows = list(grid)
    groups = [windows[first : first + batch] for first in range(0, len(windows), batch)]
    under_way: deque[tuple[Any, int]] = deque()
    with progress.task("windows", len(windows)) as task:
        for group in groups:
            slicer.fill(group)
            under_way.append((engine.run(), len(group)))
            adder.add(group)
            if len(under_way) > AHEAD:
                done, count = under_way.popleft()
                done.sync()
                task.advance(count)
        for done, count in under_way:
            done.sync()
            task.advance(count)


@dataclass(frozen=True)
class Feed:
    """What lies on the GPU as the volume, and the kernel that makes windows of it."""

    values: Array
    kernel: str
    dtype: str
    layout: Layout
    scale: float

    @classmethod
    def of(cls, volume: Array, taken: TensorSpec, layout: Layout, scale: float | None) -> Feed:
        """Raises WrongFeed."""
        floats = np.issubdtype(volume.dtype, np.floating)
        if taken.dtype == "int8" and volume.dtype == np.int8:
            kernel, dtype = "slice_int8", "int8"
        elif taken.dtype == "int8" and floats and scale is not None:
            kernel, dtype = "quantize_int8", "float32"
        elif taken.dtype in ("float16", "float32") and floats and layout == "linear":
            kernel, dtype = f"slice_{taken.dtype}", taken.dtype
        else:
            scaled = "with" if scale is not None else "without"
            raise _no_kernel(
                f"the engine takes {taken.dtype} in the layout {layout}, the volume is {volume.dtype} {scaled} a scale"
            )
        kernel += "_cdhw32" if layout == "cdhw32" else ""
        return cls(np.ascontiguousarray(volume, dtype), kernel, taken.dtype, layout, scale or 1.0)

    def bytes_of(self, window: Shape) -> int:
        return prod(window) * np.dtype(self.dtype).itemsize * (32 if self.layout == "cdhw32" else 1)

    def threads(self, window: Shape) -> Shape:
        """Along D, H and W of a window: 16 bytes of the engine's input are a thread's work."""
        depth, height, width = window
        across = 2 * width if self.layout == "cdhw32" else -(-width * np.dtype(self.dtype).itemsize // 16)
        return depth, height, across


class Slicer:
    """Fills the engine's input. ``windows``: where it lies."""

    def __init__(self, launcher: Launcher, memory: GpuMemory, feed: Feed, window: Window, grid: WindowGrid) -> None:
        self._feed, self._batch, self._grid = feed, window.batch, grid
        self._volume = memory.put(feed.values)
        self.windows = memory.take(window.batch * feed.bytes_of(grid.window))
        self._launch = launcher.kernel(feed.kernel, feed.threads(grid.window))

    def fill(self, group: Sequence[Shape]) -> None:
        """Places of a batch that the last group leaves over repeat its last window; nobody reads what comes of them."""
        feed, grid = self._feed, self._grid
        nothing = feed.values.dtype.type(0)  # a grid's windows never leave the volume
        for place in range(self._batch):
            starts = tuple(at.start for at in grid.slices(group[min(place, len(group) - 1)]))
            into = self.windows + place * feed.bytes_of(grid.window)
            sizes = _ints(*grid.shape, *grid.window, *starts)
            self._launch(self._volume, into, *sizes, nothing, np.float32(feed.scale))


class Adder:
    """Adds logits to the sums. ``logits``: where the engine's output lies."""

    def __init__(
        self,
        launcher: Launcher,
        memory: GpuMemory,
        weights: WindowWeights,
        window: Window,
        grid: WindowGrid,
        dtype: str,
    ) -> None:
        self._memory, self._weights, self._window, self._grid = memory, weights, window, grid
        self._ring = ring_size(grid)
        self._bytes = window.channels * prod(grid.window) * np.dtype(dtype).itemsize
        self.logits = memory.take(window.batch * self._bytes)
        self._axes = memory.put(np.concatenate(weights.axes))
        self._sums = memory.take(max(window.channels - 1, 1) * prod(self._ring) * 4)
        self._labels = memory.take_shared(prod(grid.shape))
        self._met_nan = memory.put(np.zeros(1, np.int32))
        self._launch = launcher.kernel(f"accumulate_{dtype}", grid.window)

    def add(self, group: Sequence[Shape]) -> None:
        _, height, width = self._grid.shape
        for place, index in enumerate(group):
            starts = [at.start for at in self._grid.slices(index)]
            slot = [start % size for start, size in zip(starts, self._ring, strict=True)]
            before, after = zip(*(self._neighbours(axis, at) for axis, at in enumerate(index)), strict=True)
            self._launch(
                self.logits + place * self._bytes,
                self._axes,
                self._sums,
                self._labels + (starts[0] * height + starts[1]) * width + starts[2],
                self._met_nan,
                *_ints(self._window.channels),
                np.float32(self._weights.floor),
                *_ints(*self._grid.window, *self._ring, *slot, *before, *after, height * width, width),
            )

    def _neighbours(self, axis: int, at: int) -> tuple[int, int]:
        """Along an axis, in the window: the end of what the window before it covers, the start of the next one."""
        starts, length = self._grid.starts[axis], self._grid.window[axis]
        before = starts[at - 1] + length - starts[at] if at > 0 else 0
        after = starts[at + 1] - starts[at] if at + 1 < len(starts) else length
        return before, after

    def labels(self) -> Labels:
        """Waits for the last window. Raises ScoresNotFinite."""
        labels, met_nan = np.empty(self._grid.shape, np.uint8), np.empty(1, np.int32)
        self._memory.get(self._met_nan, met_nan)
        if met_nan[0]:
            raise scores_not_finite(self._window)
        self._memory.get(self._labels, labels)
        return labels


class Launcher:
    """Kernels of a loaded cubin, on one stream."""

    def __init__(self, core: Any, code: Any, stream: Any) -> None:
        self._core, self._code, self._stream = core, code, stream

    def kernel(self, name: str, threads: Shape) -> Callable[..., None]:
        """Launches the kernel with pointers as int and all else as NumPy scalars of the very types it is compiled for.

        ``threads``: how many it needs along D, H and W.
        """
        kernel = self._code.get_kernel(name)
        grid, block = launch_shape(threads)
        config = self._core.LaunchConfig(grid=grid, block=block)

        def launch(*arguments: Any) -> None:
            self._core.launch(self._stream, config, kernel, *arguments)

        return launch


def launch_shape(threads: Shape) -> tuple[Shape, Shape]:
    """Grid and block, x first. A block is some rows of threads, as long as wastes fewest at the end of a row."""
    depth, height, width = threads
    x = 1 << (width - 1).bit_length() if width <= 32 else min((128, 64, 32), key=lambda size: -width % size)
    y = THREADS // x
    return (-(-width // x), -(-height // y), depth), (x, y, 1)


def _ints(*values: int) -> list[np.int32]:
    return [np.int32(value) for value in values]


def _no_kernel(why: str) -> WrongFeed:
    return WrongFeed(
        "the window loop on the GPU has no kernel for this engine and this volume",
        why=why,
        next="give an INT8 engine an int8 volume or a scale, any other engine floats; or run it on the CPU",
    )
