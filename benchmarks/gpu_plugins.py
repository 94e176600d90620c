"""The plugins' kernels on a GPU, held against what its memory and its tensor cores could do at best.

    python benchmarks/gpu_plugins.py [--batches N ...] [--size N] [--width N] [--rounds N] [--unfused]

Needs an NVIDIA GPU of SM 8.0 or later and the extra `rtx`; not yet run on one. So far: res2, conv2_x of ResNet-50 in
INT8. A time is that of a CUDA graph of many executions, the least of several rounds, and so of a warm L2 cache. Each
launch has two floors: its bytes at the speed of a copy from the GPU's memory to itself, measured here, and its INT8
operations at the tensor cores' dense peak, from the GPU's own clock and number of SMs. A time below the first floor
means that the L2 cache gave what the floor takes from memory. `--unfused` adds the same graph as TensorRT-RTX compiles
it without our plugin; that engine takes and gives float32, and the bytes this costs are printed beside it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, shape_inference

from trtforge.backends.base import CompileRequest
from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend
from trtforge.backends.tensorrt_rtx_.environment import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.errors.base import TrtforgeError
from trtforge.gpu import GpuMemory, cuda_core
from trtforge.graph.model import Model
from trtforge.kernels.tensorrt import Loaded
from trtforge.plugins.res2.function import CONVOLUTIONS, RANGES, float_function, quantized
from trtforge.plugins.res2.launch import CHANNELS_IN, KERNEL_SET, WIDTHS, launches, workspace_bytes
from trtforge.plugins.res2.pack import packed
from trtforge.recipe.models import Engine
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.targets.model import Target

Array = np.ndarray[Any, Any]

OPERATIONS = {"8.0": 4096, "8.6": 2048, "8.7": 4096, "8.9": 2048, "9.0": 8192}
"""INT8 operations of an SM's tensor cores a clock, dense; a product and its addition are two. From the data sheets'
TOPS, SMs and clocks. That of 9.0 takes instructions (wgmma) which these kernels do not use."""

REPEATS = 20
"""Executions in a graph."""


@dataclass(frozen=True)
class Stage:
    """One batch of res2. ``mid``: channels of the inner convolutions; the input has CHANNELS_IN."""

    mid: int
    batch: int
    size: int

    @property
    def pixels(self) -> int:
        return self.batch * self.size * self.size

    def operations(self, block: str) -> int:
        """Of the convolutions, without what tiles compute twice."""
        inner, outer = self.mid, 4 * self.mid
        source = CHANNELS_IN if block == "a" else outer
        products = source * inner + 9 * inner * inner + inner * outer + (source * outer if block == "a" else 0)
        return 2 * products * self.pixels

    def bytes(self, block: str) -> int:
        """Of the activations; the weights are 72 KiB at most."""
        return self.pixels * ((CHANNELS_IN if block == "a" else 4 * self.mid) + 4 * self.mid)

    def constants(self) -> tuple[list[Array], list[Array], list[float]]:
        """Weights, biases and ranges as a trained network's: sums of unit size."""
        rng = np.random.default_rng(0)
        inputs_of = {"a_branch1": CHANNELS_IN, "a_2a": CHANNELS_IN, "b_2a": 4 * self.mid, "c_2a": 4 * self.mid}
        weights = []
        for name in CONVOLUTIONS:
            inputs = inputs_of.get(name, self.mid)
            outputs = 4 * self.mid if name.endswith(("2c", "branch1")) else self.mid
            size = 3 if name.endswith("2b") else 1
            shape = (outputs, inputs, size, size)
            weights.append(rng.normal(0, (2 / (inputs * size * size)) ** 0.5, shape).astype(np.float32))
        return weights, [np.zeros(len(each), np.float32) for each in weights], [4.0] * RANGES

    def arrays(self) -> dict[str, Array]:
        """What lies on the GPU before a launch."""
        shape = (self.batch, CHANNELS_IN // 32, self.size, self.size, 32)
        x = np.random.default_rng(1).integers(0, 128, shape).astype(np.int8)
        return {"x": x, **packed(quantized(*self.constants()).inputs())}

    def scratch(self) -> dict[str, int]:
        """Bytes of what the launches write."""
        return {"y": 4 * self.mid * self.pixels} | workspace_bytes(self.mid, self.batch, self.size, self.size)

    def graph(self) -> Model:
        """The stage as plain float nodes, its weights inside."""
        function = float_function()
        weights, biases, _ = self.constants()
        values = [each for pair in zip(weights, biases, strict=True) for each in pair]
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [self.batch, CHANNELS_IN, self.size, self.size])
        y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
        stored = [numpy_helper.from_array(v, n) for n, v in zip(function.input[1:], values, strict=True)]
        graph = helper.make_graph(list(function.node), "res2", [x], [y], stored)
        proto = helper.make_model(graph, opset_imports=list(function.opset_import), ir_version=9)
        return Model(shape_inference.infer_shapes(proto))


def unfused(stage: Stage, sm: str, folder: Path) -> Any:
    """What TensorRT-RTX compiles the plain graph into, every convolution in INT8. Raises BLD and ENV errors."""
    model = stage.graph()
    names = ["x", *(name for node in model.proto.graph.node for name in node.output)]
    scales = ScaleTable({name: TensorRange(-4.0, 4.0, 1) for name in names})
    shape = [stage.batch, CHANNELS_IN, stage.size, stage.size]
    engine = Engine.model_validate(
        {
            "model": {"onnx": "res2.onnx"},
            "inputs": {"x": {"shape": shape}},
            "precision": "int8",
            "calibration": {"set": "none.yaml"},
        }
    )
    target = Target("here", "this GPU", "discrete", sm=sm)
    return TensorRTRtxBackend().compile(CompileRequest(model, scales, engine, target, folder))


class Bench:
    """GPU 0."""

    def __init__(self, rounds: int) -> None:
        self.rounds = rounds
        self.sm = compute_capability() or ""
        self.core = cuda_core()
        self.device = self.core.Device(0)
        self.device.set_current()
        self.stream = self.device.create_stream()
        self.loaded = Loaded(KERNEL_SET.compile([self.sm]), self.device)

    @property
    def peak(self) -> float:
        """INT8 operations a second."""
        facts = self.device.properties
        return float(OPERATIONS.get(self.sm, 0)) * int(facts.multiprocessor_count) * int(facts.clock_rate) * 1e3

    def memory(self) -> GpuMemory:
        return GpuMemory(self.core, self.device, self.stream)

    def least(self, work: Callable[[], None]) -> float:
        """Seconds of one piece of work."""
        work()  # kernels are loaded at their first launch, which a capture does not like
        self.stream.sync()
        builder = self.stream.create_graph_builder().begin_building()
        for _ in range(REPEATS):
            work()
        graph = builder.end_building().complete()
        return self._clock(lambda: graph.launch(self.stream)) / REPEATS

    def least_without_graph(self, work: Callable[[], None]) -> float:
        """The same for what cannot be captured; short work may be bound by the CPU."""

        def repeated() -> None:
            for _ in range(REPEATS):
                work()

        return self._clock(repeated) / REPEATS

    def _clock(self, work: Callable[[], Any]) -> float:
        timed = self.core.EventOptions(timing_enabled=True)
        times: list[float] = []
        for _ in range(self.rounds):
            begin = self.stream.record(options=timed)
            work()
            end = self.stream.record(options=timed)
            end.sync()
            times.append((end - begin) / 1e3)
        return min(times)

    def bandwidth(self) -> float:
        """Bytes a second, read and written, of a copy of 256 MiB, which no cache holds."""
        size = 256 << 20
        with self.memory() as memory:
            here, there = (self.core.Buffer.from_handle(memory.take(size), size) for _ in range(2))
            return 2 * size / self.least(lambda: there.copy_from(here, stream=self.stream))

    def res2(self, stage: Stage) -> dict[str, float]:
        """Seconds of each bottleneck, and of "all"."""
        planned = launches(stage.mid, stage.batch, stage.size, stage.size)
        handle = int(self.stream.handle)
        with self.memory() as memory:
            addresses = {name: memory.put(array) for name, array in stage.arrays().items()}
            addresses |= {name: memory.take(size) for name, size in stage.scratch().items()}
            self.loaded.run(planned, addresses, handle)  # each bottleneck finds its input there
            times = {
                block: self.least(partial(self.loaded.run, [one], addresses, handle))
                for block, one in zip("abc", planned, strict=True)
            }
            return times | {"all": self.least(lambda: self.loaded.run(planned, addresses, handle))}

    def unfused(self, stage: Stage) -> float:
        """Seconds of TensorRT-RTX's engine of the plain graph."""
        with tempfile.TemporaryDirectory() as folder:
            built = unfused(stage, self.sm, Path(folder))
            session: Any = TensorRTRtxBackend().load(Path(folder), built.report)
        with self.memory() as memory:
            x = np.zeros((stage.batch, CHANNELS_IN, stage.size, stage.size), np.float32)
            session.bind("x", memory.put(x))
            session.bind("y", memory.take(4 * 4 * stage.mid * stage.pixels))
            return self.least_without_graph(lambda: session.enqueue(int(self.stream.handle)))


def rows(stage: Stage, times: dict[str, float], bandwidth: float, peak: float) -> list[str]:
    """Lines of the table: time, both floors, and the larger one's share of the time."""
    made = []
    for name, seconds in times.items():
        blocks = "abc" if name == "all" else name
        moved = sum(stage.bytes(block) for block in blocks)
        by_memory = moved / bandwidth
        by_cores = sum(stage.operations(block) for block in blocks) / peak if peak else 0.0
        share = max(by_memory, by_cores) / seconds
        told = " | ".join(f"{each * 1e6:.1f}" for each in (seconds, by_memory, by_cores))
        made.append(f"| {stage.batch} | {name} | {moved / 1e6:.1f} | {told} | {share:.0%} |")
    return made


def main() -> None:
    options = arguments()
    if problem := driver_problem():
        sys.exit(f"this benchmark needs an NVIDIA GPU: {problem}")
    bench = Bench(options.rounds)
    bandwidth, peak = bench.bandwidth(), bench.peak
    print(f"{bench.device.name}, SM {bench.sm}: copy {bandwidth / 1e9:.0f} GB/s, INT8 peak {peak / 1e12:.0f} TOPS")
    print(
        f"res2, {CHANNELS_IN} input and {options.width} inner channels, {options.size} x {options.size}; us a batch\n"
    )
    print("| batch | block | MB | us | by memory | by tensor cores | larger floor / us |")
    print("|---:|---|---:|---:|---:|---:|---:|")
    stages = [Stage(options.width, batch, options.size) for batch in options.batches]
    for stage in stages:
        print("\n".join(rows(stage, bench.res2(stage), bandwidth, peak)))
    for stage in stages if options.unfused else ():
        floats = 4 * stage.bytes("a")  # as many values as block a reads and writes
        seconds = bench.unfused(stage)
        print(
            f"\nTensorRT-RTX, plain graph, batch {stage.batch}: {seconds * 1e6:.1f} us, of which {floats / 1e6:.1f} MB "
            f"of float32 input and output take {floats / bandwidth * 1e6:.1f} us at least"
        )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="The plugins' kernels against the floors of memory and tensor cores.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32, 128], help="images")
    parser.add_argument("--size", type=int, default=56, help="height and width")
    inner = sorted(mid for _, mid in WIDTHS)
    parser.add_argument("--width", type=int, choices=inner, default=64, help="channels of the inner convolutions")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--unfused", action="store_true", help="TensorRT-RTX without the plugin too")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        main()
    except TrtforgeError as error:
        sys.exit(str(error))
