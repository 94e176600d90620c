"""The window loop without a network: time against the memory traffic it cannot avoid, and against two other loops.

The network is a template copied into one buffer; that copy is measured by itself and taken off. Everything is timed in
one run, round by round, on one thread, in CPU time, and compared by its ratio. Peak memory is of a process each.

    python benchmarks/windows.py [--rounds 5] [--quick]

`reference` is the MLPerf reference's way in numpy: a float32 result, a map of the weights' sums of the same size, a
division and an argmax. MONAI's `sliding_window_inference` is measured where monai and torch are installed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

import numpy as np  # noqa: E402

from trtforge.recipe.models import Windows  # noqa: E402
from trtforge.runtime.windows.accumulate import NumpyAccumulator, accumulator  # noqa: E402
from trtforge.runtime.windows.blocks import Blocks  # noqa: E402
from trtforge.runtime.windows.compiled import native_module  # noqa: E402
from trtforge.runtime.windows.weights import Mode, WindowWeights  # noqa: E402
from trtforge.volumes import aligned  # noqa: E402
from trtforge.volumes.windows import WindowGrid  # noqa: E402

SHAPES = [(128, 192, 320), (256, 256, 256), (320, 448, 448)]
WINDOW = (128, 128, 128)
CLASSES = 3
GOALS = {"x own limit": 1.4, "x floor": 2.0, "speed-up over reference": 12.0, "MiB, 320x448x448": 160.0}

Array = np.ndarray[Any, Any]


class Network:
    """A network that costs one copy of its logits. ``window``: the buffer it takes its input from."""

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.template = aligned.empty((1, CLASSES, *WINDOW), np.float32)
        self.template[:] = rng.normal(0, 4, self.template.shape)
        self.logits = aligned.empty(self.template.shape, np.float32)
        self.window = aligned.empty((1, 1, *WINDOW), np.float32)
        self.seconds = 0.0

    def __call__(self, window: Array) -> Array:
        started = time.process_time()
        np.copyto(self.logits, self.template)
        self.seconds += time.process_time() - started
        return self.logits


def volume_of(shape: tuple[int, int, int]) -> Array:
    volume = aligned.empty(shape, np.float32)
    volume[:] = np.random.default_rng(1).normal(0, 1, shape)
    return volume


def streaming(make: Callable[..., Any]) -> Callable[[Array, Network], Array]:
    """The loop of trtforge, on one thread: cut, run, add, one after the other."""

    def run(volume: Array, network: Network) -> Array:
        grid = WindowGrid.of(volume.shape, WINDOW, 0.5)
        labels = aligned.empty(volume.shape, np.uint8)
        sums = make(Blocks.of(grid), WindowWeights.of("mlperf", WINDOW), CLASSES, labels=labels)
        for index in grid:
            network.window[0, 0] = volume[grid.slices(index)]
            sums.push(index, network(network.window)[0])
        return labels

    return run


def reference(volume: Array, network: Network) -> Array:
    """The MLPerf reference's way."""
    grid = WindowGrid.of(volume.shape, WINDOW, 0.5)
    patch = WindowWeights.of("mlperf", WINDOW).dense()
    image = volume[None, None]
    result = np.zeros((1, CLASSES, *volume.shape), np.float32)
    norm = np.zeros_like(result)
    for index in grid:
        voxels = (slice(None), slice(None), *grid.slices(index))
        window = np.ascontiguousarray(image[voxels])
        result[voxels] += network(window) * patch
        norm[voxels] += patch
    result /= norm
    return np.argmax(result, axis=1).astype(np.uint8)[0]


def monai(volume: Array, network: Network) -> Array:
    """MONAI's loop with its Gaussian, and an argmax; its labels are of other weights."""
    import torch  # noqa: PLC0415 - measured where it is installed
    from monai.inferers import sliding_window_inference  # noqa: PLC0415

    torch.set_num_threads(1)
    logits = sliding_window_inference(
        torch.from_numpy(volume[None, None]),
        WINDOW,
        1,
        lambda window: torch.from_numpy(network(window.numpy())),
        overlap=0.5,
        mode="gaussian",
    )
    return logits.argmax(1).to(torch.uint8).numpy()[0]


WAYS: dict[str, Callable[[Array, Network], Array]] = {
    "trtforge": streaming(accumulator),
    "trtforge, NumPy": streaming(NumpyAccumulator),
    "reference": reference,
    "MONAI": monai,
}


def copy_bandwidth() -> float:
    """Bytes read and written a second, by a copy far larger than the caches."""
    source, target = (aligned.empty((64 << 20,), np.float32) for _ in range(2))
    source.fill(1), target.fill(0)
    times = []
    for _ in range(7):
        started = time.process_time()
        np.copyto(target, source)
        times.append(time.process_time() - started)
    return 2 * source.nbytes / statistics.median(times)


def limits(shape: tuple[int, int, int], bandwidth: float) -> tuple[float, float]:
    """Seconds: what nobody can do without, and what this algorithm moves: its blocks read and written as well."""
    grid = WindowGrid.of(shape, WINDOW, 0.5)
    voxels, window = int(np.prod(shape)), int(np.prod(WINDOW)) * 4
    floor = len(grid) * window * (2 + CLASSES) + voxels
    covered = len(grid) * int(np.prod(WINDOW))
    sums = 2 * (covered - voxels) * (CLASSES - 1) * 4  # a voxel under m windows is written and read m - 1 times
    return floor / bandwidth, (floor + sums) / bandwidth


def gaussians_differ() -> float:
    """Share of voxels whose label depends on which Gaussian it is, when each window's scores are noise of its own."""
    grid = WindowGrid.of((256, 256, 256), WINDOW, 0.5)
    found = []
    modes: list[Mode] = ["mlperf", "monai"]
    for mode in modes:
        rng = np.random.default_rng(2)
        labels = np.empty(grid.shape, np.uint8)
        sums = accumulator(Blocks.of(grid), WindowWeights.of(mode, WINDOW), CLASSES, labels=labels)
        for index in grid:
            sums.push(index, rng.standard_normal((CLASSES, *WINDOW), np.float32) * 4)
        found.append(labels)
    return float((found[0] != found[1]).mean())


def overhead(way: Callable[[Array, Network], Array], volume: Array, network: Network) -> float:
    network.seconds = 0
    started = time.process_time()
    way(volume, network)
    return time.process_time() - started - network.seconds


def extra_memory(name: str, shape: tuple[int, int, int]) -> float:
    """MiB beyond the volume and the network, labels included: a process that does one loop, at its peak."""
    code = [sys.executable, __file__, "--memory", name, *map(str, shape)]
    done = subprocess.run(code, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def _measure_memory(name: str, shape: tuple[int, int, int]) -> float:
    network, volume = Network(), volume_of(shape)
    network(volume)
    small = volume_of(WINDOW)
    WAYS[name](small, network)  # imports and lazily made tables
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak begins anew
    before = _status("VmRSS")
    WAYS[name](volume, network)
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="trtforge only, three rounds")
    parser.add_argument("--memory", nargs=4, metavar=("WAY", "D", "H", "W"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    if options.memory:
        name, *sides = options.memory
        depth, height, width = map(int, sides)
        print(json.dumps(_measure_memory(name, (depth, height, width))))
        return
    names = ["trtforge"] if options.quick else [n for n in WAYS if n != "MONAI" or (find_spec("monai") is not None)]
    print(f"accumulator: {'compiled' if native_module() is not None else 'NumPy'}; {Windows().weights} weights\n")
    print("| volume | windows | loop | ms | x floor | x own limit | x reference | extra MiB |")
    print("|---|---:|---|---:|---:|---:|---:|---:|")
    for shape in SHAPES:
        table(shape, names, 3 if options.quick else options.rounds)
    if not options.quick:
        print(f"\nthe two Gaussians give other labels to {gaussians_differ():.1%} of the voxels (random scores, 256^3)")
    print("\ngoals: " + ", ".join(f"{name} {value:g}" for name, value in GOALS.items()))


def table(shape: tuple[int, int, int], names: list[str], rounds: int) -> None:
    volume, network = volume_of(shape), Network()
    bandwidths, times = [], {name: [] for name in names}
    for _ in range(rounds):
        bandwidths.append(copy_bandwidth())
        for name in names:
            times[name].append(overhead(WAYS[name], volume, network))
    floor, own = limits(shape, statistics.median(bandwidths))
    medians = {name: statistics.median(measured) for name, measured in times.items()}
    by = "x".join(map(str, shape))
    for name, seconds in medians.items():
        ratio = f"{medians['reference'] / seconds:.1f}" if "reference" in medians else ""
        limit = f"{seconds / own:.2f}" if name.startswith("trtforge") else ""
        windows = len(WindowGrid.of(shape, WINDOW, 0.5))
        memory = extra_memory(name, shape)
        cells = [by, windows, name, f"{seconds * 1e3:.0f}", f"{seconds / floor:.2f}", limit, ratio, f"{memory:.0f}"]
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)
    print(f"| {by} | | copy bandwidth, GB/s | {statistics.median(bandwidths) / 1e9:.1f} | | | | |")


if __name__ == "__main__":
    main()
