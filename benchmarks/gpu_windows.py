"""The window kernels on a GPU: how much of the memory's bandwidth each one reaches, and the loop's share of a window.

    python benchmarks/gpu_windows.py [--shape D H W] [--classes N] [--rounds N]

Needs an NVIDIA GPU and the extra `rtx`; not yet run on one. Windows of 128^3 at overlap 0.5. A kernel's time is that of
a CUDA graph of its launches over all windows of the volume, the least of several rounds; its bytes are those that it
must move, and the bandwidth is held against a copy from the GPU's memory to itself. The last line is the whole loop
with an engine that does nothing, by the clock: what the loop adds to a window beside the engine.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from trtforge.backends.base import TensorSpec
from trtforge.backends.tensorrt_rtx_.environment import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.errors.base import TrtforgeError
from trtforge.gpu import GpuMemory, cuda_core
from trtforge.runtime.windows.cubins import WINDOWS
from trtforge.runtime.windows.cuda import Adder, Feed, Launcher, Slicer, run_on_gpu
from trtforge.runtime.windows.cuda_memory import Layout
from trtforge.runtime.windows.loop import Window
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import Shape, WindowGrid

SIZE = (128, 128, 128)
INPUTS: tuple[tuple[str, str, Layout], ...] = (
    ("int8", "int8", "linear"),
    ("int8", "int8", "cdhw32"),
    ("float32", "int8", "linear"),
    ("float16", "float16", "linear"),
    ("float32", "float32", "linear"),
)
"""Volume, the engine's input, its layout."""


@dataclass(frozen=True)
class Row:
    """``size``: bytes a window, on average over the volume; ``seconds``: a window."""

    name: str
    size: float
    seconds: float


class Bench:
    """A GPU with one volume's grid."""

    def __init__(self, grid: WindowGrid, classes: int, rounds: int) -> None:
        self.grid, self.classes, self.rounds = grid, classes, rounds
        self.weights = WindowWeights.of("mlperf", SIZE)
        self.sm = compute_capability() or ""
        self.cubins = WINDOWS.compile([self.sm])
        self.core = cuda_core()
        self.device = self.core.Device(0)
        self.device.set_current()
        self.stream = self.device.create_stream()
        code = self.core.ObjectCode.from_cubin(self.cubins[self.sm])
        self.launcher = Launcher(self.core, code, self.stream)
        self.window = Window("image", "scores", 1, SIZE, classes)

    def memory(self) -> GpuMemory:
        return GpuMemory(self.core, self.device, self.stream)

    def least(self, launch: Callable[[Shape], None]) -> float:
        """Seconds of a launch for every window, as one graph: how fast the CPU launches does not count."""
        launch(next(iter(self.grid)))  # kernels are loaded at their first launch, which a capture does not like
        self.stream.sync()
        builder = self.stream.create_graph_builder().begin_building()
        for index in self.grid:
            launch(index)
        graph = builder.end_building().complete()
        timed = self.core.EventOptions(timing_enabled=True)
        times = []
        for _ in range(self.rounds):
            begin = self.stream.record(options=timed)
            graph.launch(self.stream)
            end = self.stream.record(options=timed)
            end.sync()
            times.append((end - begin) / 1e3)
        return min(times)

    def zeros(self, pointer: int, size: int, stream: Any) -> None:
        self.core.Buffer.from_handle(pointer, size).fill(0, stream=stream)

    def copy(self) -> Row:
        """256 MiB, which no cache holds."""
        size = 256 << 20
        with self.memory() as memory:
            here, there = (self.core.Buffer.from_handle(memory.take(size), size) for _ in range(2))
            seconds = self.least(lambda _: there.copy_from(here, stream=self.stream))
        return Row("copy of 256 MiB", 2 * size, seconds / len(self.grid))

    def slice(self, volume: str, taken: str, layout: Layout) -> Row:
        values = np.zeros(self.grid.shape, volume)
        feed = Feed.of(values, TensorSpec("image", (1, 1, *SIZE), taken), layout, 0.02)
        with self.memory() as memory:
            slicer = Slicer(self.launcher, memory, feed, self.window, self.grid)
            seconds = self.least(lambda index: slicer.fill([index]))
        size = prod(SIZE) * np.dtype(volume).itemsize + feed.bytes_of(SIZE)
        return Row(f"{feed.kernel} ({volume} volume)", size, seconds / len(self.grid))

    def accumulate(self, given: str) -> Row:
        """Of a voxel under n windows, n - 1 store its sums and n - 1 read them; the last one writes its label."""
        with self.memory() as memory:
            adder = Adder(self.launcher, memory, self.weights, self.window, self.grid, given)
            self.zeros(adder.logits, prod(SIZE) * self.classes * np.dtype(given).itemsize, self.stream)
            seconds = self.least(lambda index: adder.add([index]))
        visits, voxels = len(self.grid) * prod(SIZE), prod(self.grid.shape)
        sums = 2 * (visits - voxels) * max(self.classes - 1, 1) * 4
        size = visits * self.classes * np.dtype(given).itemsize + sums + voxels
        return Row(f"accumulate_{given}, {self.classes} classes", size / len(self.grid), seconds / len(self.grid))

    def loop(self) -> float:
        """Seconds a window, by the clock, with the volume's way there and the labels' way back."""
        volume = np.zeros(self.grid.shape, np.float32)
        times = []
        for _ in range(self.rounds):
            started = time.perf_counter()
            run_on_gpu(Nothing(self), volume, self.grid, self.weights, self.cubins)
            times.append(time.perf_counter() - started)
        return min(times) / len(self.grid)


class Nothing:
    """A DeviceSession whose engine does nothing: the scores are zero from its first execution on."""

    def __init__(self, bench: Bench) -> None:
        self._bench, self._scores = bench, 0
        self.inputs = (TensorSpec("image", (1, 1, *SIZE), "float32"),)
        self.outputs = (TensorSpec("scores", (1, bench.classes, *SIZE), "float32"),)

    def run(self, inputs: Any) -> Any:
        raise NotImplementedError

    def bind(self, name: str, pointer: int) -> None:
        if name == "scores":
            self._scores = pointer

    def enqueue(self, stream_handle: int) -> None:
        if self._scores:
            stream = self._bench.core.Stream.from_handle(stream_handle)
            self._bench.zeros(self._scores, prod(SIZE) * self._bench.classes * 4, stream)
        self._scores = 0

    def capturable(self, stream_handle: int) -> bool:
        return False


def main() -> None:
    options = arguments()
    if problem := driver_problem():
        sys.exit(f"this benchmark needs an NVIDIA GPU: {problem}")
    depth, height, width = options.shape
    bench = Bench(WindowGrid.of((depth, height, width), SIZE, 0.5), options.classes, options.rounds)
    copy = bench.copy()
    rows = [copy, *(bench.slice(*given) for given in INPUTS), *(map(bench.accumulate, ("float16", "float32")))]
    print(f"{bench.device.name}, SM {bench.sm}; {depth} x {height} x {width}, {len(bench.grid)} windows of 128^3\n")
    print("| kernel | MB a window | us a window | GB/s | of the copy |")
    print("|---|---:|---:|---:|---:|")
    for row in rows:
        rate, best = row.size / row.seconds, copy.size / copy.seconds
        print(f"| {row.name} | {row.size / 1e6:.1f} | {row.seconds * 1e6:.1f} | {rate / 1e9:.0f} | {rate / best:.0%} |")
    print(f"| the whole loop, without an engine | | {bench.loop() * 1e6:.1f} | | |")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The window kernels: bandwidth, and the loop's share of a window.")
    parser.add_argument("--shape", type=int, nargs=3, default=(256, 256, 256), help="of the volume, from 128")
    parser.add_argument("--classes", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10)
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except TrtforgeError as error:
        sys.exit(str(error))
