"""What streaming min-max costs: time against a plain forward pass, and peak memory, beside the usual ways.

    python benchmarks/calibration.py [--quick] [--pairs N] [--networks resnet50 bert unet]

Time: one thread, one process; plain pass and method alternate on the same sample, the ratio is the median over the
pairs of process CPU time, sessions open. Memory: peak resident set of a fresh process that loads the file and runs
two samples. Goals are those of the project's design notes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).parent))

from models import bert_base, resnet50, save_external, unet3d

from trtforge.graph.io import load
from trtforge.ort import import_onnxruntime, session_options
from trtforge.samples.base import Sample
from trtforge.scales.collect import collect
from trtforge.scales.collect_fused import FusedMeter
from trtforge.scales.collect_graph import plan
from trtforge.scales.collect_meter import Meter

Feeds = Mapping[str, np.ndarray]
METHODS = ("all tensors", "fused tensors", "onnxruntime MinMax", "every tensor an output")


@dataclass(frozen=True)
class Network:
    """``goals``: method -> largest ratio of time; ``memory_goal``: of peak memory, None where none is set."""

    name: str
    build: Callable[[], onnx.ModelProto]
    feed: Callable[[int], Feeds]
    goals: Mapping[str, float]
    memory_goal: float | None = None


def networks(quick: bool) -> list[Network]:
    layers, edge = (2, 32) if quick else (12, 128)
    channels = (8, 16, 32) if quick else (32, 64, 128, 256, 320, 320)
    return [
        Network("resnet50", resnet50, _images(3, 224, 224), {"all tensors": 1.3, "fused tensors": 1.05}),
        Network("bert", lambda: bert_base(layers), _tokens(128), {"all tensors": 1.08}, 1.1),
        Network("unet", lambda: unet3d(channels), _images(1, edge, edge, edge), {"all tensors": 1.08}, 1.35),
    ]


def _images(*shape: int) -> Callable[[int], Feeds]:
    return lambda seed: {"input": np.random.default_rng(seed).standard_normal((1, *shape), np.float32)}


def _tokens(length: int) -> Callable[[int], Feeds]:
    def feed(seed: int) -> Feeds:
        ids = np.random.default_rng(seed).integers(0, 30522, (1, length))
        return {"input_ids": ids, "attention_mask": np.ones((1, length), np.int64)}

    return feed


class Samples:
    """A SampleSet of generated inputs."""

    name = "generated"

    def __init__(self, feed: Callable[[int], Feeds], count: int) -> None:
        self._feed, self._count = feed, count

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Sample]:
        for number in range(self._count):
            yield Sample(str(number), f"{number:064x}", self._feed(number))

    def identities(self) -> list[tuple[str, str]]:
        return [(str(number), f"{number:064x}") for number in range(self._count)]

    def describe(self) -> dict[str, Any]:
        return {}


def plain(path: Path) -> Callable[[Feeds], object]:
    session = import_onnxruntime().InferenceSession(str(path), session_options(threads=1), ["CPUExecutionProvider"])
    return lambda feeds: session.run(None, dict(feeds))


def measure_all(path: Path) -> Callable[[Feeds], object]:
    model = load(path)
    meter = Meter(model, plan(model), 1)
    return lambda feeds: meter.measure([Sample("", "", feeds)])


def measure_fused(path: Path) -> Callable[[Feeds], object]:
    model = load(path)
    meter = FusedMeter(model, plan(model), 1)
    return lambda feeds: meter.measure([Sample("", "", feeds)])


def onnxruntime_minmax(path: Path) -> Callable[[Feeds], object]:
    onnxruntime = import_onnxruntime()
    from onnxruntime.quantization.calibrate import CalibrationDataReader, MinMaxCalibrater  # noqa: PLC0415

    class One(CalibrationDataReader):
        def __init__(self, feeds: Feeds) -> None:
            self._left = [dict(feeds)]

        def get_next(self) -> dict[str, np.ndarray] | None:
            return self._left.pop() if self._left else None

    augmented = str(path.with_name(f"{path.stem}.augmented.onnx"))
    external = Path(f"{path}.data").exists()
    calibrator = MinMaxCalibrater(str(path), None, augmented, symmetric=True, use_external_data_format=external)
    calibrator.augment_graph()
    options = session_options(threads=1)  # its own session would take every core
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    calibrator.infer_session = onnxruntime.InferenceSession(augmented, options, ["CPUExecutionProvider"])

    def run(feeds: Feeds) -> object:
        calibrator.collect_data(One(feeds))
        return calibrator.compute_data()

    return run


def all_outputs(path: Path) -> Callable[[Feeds], object]:
    proto = onnx.load(path, load_external_data=False)
    session_path = path.with_name(f"{path.stem}.outputs.onnx")
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for node in proto.graph.node for name in node.output)
    onnx.save(proto, session_path)
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = import_onnxruntime().InferenceSession(str(session_path), options, ["CPUExecutionProvider"])
    return lambda feeds: [(a.min(), a.max()) for a in session.run(None, dict(feeds)) if a.dtype.kind == "f"]


MAKERS = dict(zip(METHODS, (measure_all, measure_fused, onnxruntime_minmax, all_outputs), strict=True))


def ratios(network: Network, path: Path, method: str, pairs: int) -> list[float]:
    """CPU time of the method over that of a plain pass on the same sample, pair by pair."""
    ours, reference = MAKERS[method](path), plain(path)
    ours(network.feed(0))
    reference(network.feed(0))
    found = []
    for number in range(pairs):
        feeds = network.feed(number)
        order = (reference, ours) if number % 2 else (ours, reference)
        times = {run: _cpu_seconds(run, feeds) for run in order}
        found.append(times[ours] / times[reference])
    return found


def _cpu_seconds(run: Callable[[Feeds], object], feeds: Feeds) -> float:
    started = time.process_time()
    run(feeds)
    return time.process_time() - started


def peak_mib(network: str, path: Path, method: str, quick: bool) -> int:
    """Peak resident set of a process of its own, which loads the file and takes two samples."""
    arguments = [sys.executable, __file__, "--peak-of", network, str(path), method, *(["--quick"] if quick else [])]
    done = subprocess.run(arguments, check=True, capture_output=True, text=True)
    return int(json.loads(done.stdout))


def _report_peak(network: Network, path: Path, method: str) -> None:
    if method == "all tensors":
        collect(load(path), Samples(network.feed, 2), threads=1)
    else:
        run = plain(path) if method == "plain" else MAKERS[method](path)
        for number in range(2):
            run(network.feed(number))
    # not ru_maxrss: that one is inherited from the process that started this one
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    print(int(status[status.index("VmHWM:") + 1]) // 1024)


def table(chosen: list[Network], methods: list[str], pairs: int, quick: bool) -> str:
    lines = [
        "| network | method | time / plain (spread) | goal | peak MiB | / plain | goal |",
        "|---|---|---|---|---|---|---|",
    ]
    with tempfile.TemporaryDirectory() as folder:
        for network in chosen:
            path = Path(folder) / f"{network.name}.onnx"
            save_external(network.build(), path)
            base = peak_mib(network.name, path, "plain", quick)
            lines.append(f"| {network.name} | plain | 1 | | {base} | 1 | |")
            for method in methods:
                found = sorted(ratios(network, path, method, pairs))
                peak = peak_mib(network.name, path, method, quick)
                spread = f"{statistics.median(found):.3f} ({found[0]:.3f} to {found[-1]:.3f})"
                goal = network.goals.get(method)
                memory = network.memory_goal if method == "all tensors" else None
                cells = (network.name, method, spread, goal or "", peak, f"{peak / base:.2f}", memory or "")
                lines.append("| " + " | ".join(map(str, cells)) + " |")
                print(lines[-1], file=sys.stderr, flush=True)
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small BERT and UNet: shows that all runs, not the goals")
    parser.add_argument("--pairs", type=int, default=0, help="pairs of runs, at least 5 for a result worth quoting")
    parser.add_argument("--networks", nargs="+", default=["resnet50", "bert", "unet"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--peak-of", nargs=3, metavar=("NETWORK", "PATH", "METHOD"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = {network.name: network for network in networks(options.quick)}
    if options.peak_of:
        name, path, method = options.peak_of
        _report_peak(known[name], Path(path), method)
        return
    chosen = [known[name] for name in options.networks]
    print(table(chosen, options.methods, options.pairs or (5 if options.quick else 9), options.quick))


if __name__ == "__main__":
    main()
