"""Windows a second of MLPerf's 3D-UNet on this CPU: trtforge's sessions, onnxruntime as it comes, and OpenVINO.

    python benchmarks/unet3d.py [--filters 4,8,16,32,40,40] [--rounds 3] [--threads 2] [--forms]

Without --filters the network has MLPerf's width: 477 GMAC a window, seconds for each. Weights are random, the window is
noise: this is about speed. All ways alternate in one process; the median counts. OpenVINO is measured where it is
installed. --forms adds every INT8 form that the engine's self-check may choose on this CPU.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from models import unet3d

from trtforge.backends.onnxruntime_.forms import EXACT, candidates
from trtforge.backends.onnxruntime_.lowering import lower
from trtforge.backends.onnxruntime_.session import configured
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.graph.surgery import perform
from trtforge.ort import import_onnxruntime, open_session
from trtforge.recipe.models import Quantize
from trtforge.samples.base import Sample
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.collect import collect
from trtforge.targets.host import host_facts

MLPERF = (32, 64, 128, 256, 320, 320)
SHAPE = (1, 1, 128, 128, 128)
SURGERY = ("upgrade-opset", "fold-constants", "infer-shapes")

Array = np.ndarray[Any, Any]
Run = Callable[[Array], Any]


class OneWindow:
    """The calibration set."""

    name = "noise"

    def __init__(self, window: Array) -> None:
        self._sample = Sample("noise", "0" * 64, {"input": window})

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Any:
        return iter([self._sample])

    def identities(self) -> list[tuple[str, str]]:
        return [("noise", "0" * 64)]

    def describe(self) -> dict[str, Any]:
        return {"inputs": {}}


def networks(filters: tuple[int, ...] | None, window: Array) -> tuple[Model, Model, Any]:
    """FP32 and with Q/DQ, both of fixed shape; and the scales."""
    model = perform(Model(unet3d(filters or MLPERF), None), SURGERY).model
    scales = collect(model, OneWindow(window))
    floating = freeze_inputs(model, {"input": SHAPE})
    return floating, insert(floating, scales, Quantize())[0], scales


def ways(floating: Model, quantized: Model, scales: Any, threads: int, folder: Path, forms: bool) -> dict[str, Run]:
    def trtforge(model: Model, config: Any = EXACT.config) -> Run:
        native = open_session(model.proto, model.folder, configured(config))
        return lambda window: native.run(None, {"input": window})

    def plain(model: Model) -> Run:
        ort = import_onnxruntime()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        native = ort.InferenceSession(model.proto.SerializeToString(), options, ["CPUExecutionProvider"])
        return lambda window: native.run(None, {"input": window})

    found: dict[str, Run] = {
        "FP32, trtforge": trtforge(floating),
        "FP32, onnxruntime as it comes": plain(floating),
        "INT8, trtforge: exact simulation": trtforge(quantized),
        "INT8, onnxruntime on the Q/DQ graph": plain(quantized),
    }
    if forms:
        for form in candidates(host_facts()):
            if form.slack is not None:
                model, _ = lower(quantized, floating, scales, slack=form.slack, signed_weights=form.signed_weights)
                found[f"INT8, trtforge: {form.name}"] = trtforge(model, form.config)
    if find_spec("openvino") is not None:
        for name, model in (("FP32", floating), ("INT8", quantized)):
            path = folder / f"{name}.onnx"
            io.save(model, path)
            found[f"{name}, OpenVINO"] = openvino(path, threads)
    return found


def openvino(path: Path, threads: int) -> Run:
    import openvino as ov  # noqa: PLC0415 - measured where it is installed

    config = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": "f32"}  # not bfloat16
    compiled = ov.Core().compile_model(str(path), "CPU", config)
    request = compiled.create_infer_request()
    return lambda window: request.infer({0: window})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--filters", help="six widths, comma-separated")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--forms", action="store_true")
    options = parser.parse_args()
    os.environ["TRTFORGE_THREADS"] = str(options.threads)
    filters = tuple(map(int, options.filters.split(","))) if options.filters else None
    window = np.random.default_rng(0).normal(0, 1, SHAPE).clip(-2.34, 2.64).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        runs = ways(*networks(filters, window), options.threads, Path(folder), options.forms)
        times: dict[str, list[float]] = {name: [] for name in runs}
        for turn in range(options.rounds + 1):
            for name, run in runs.items():
                started = time.perf_counter()
                run(window)
                if turn > 0:  # the first is a warm-up
                    times[name].append(time.perf_counter() - started)
    first = statistics.median(times["FP32, trtforge"])
    print(f"filters {options.filters or 'of MLPerf'}; {options.threads} threads, {options.rounds} rounds\n")
    print("| way | s a window | windows/s | x FP32 |")
    print("|---|---:|---:|---:|")
    for name, taken in times.items():
        seconds = statistics.median(taken)
        print(f"| {name} | {seconds:.2f} | {1 / seconds:.3f} | {first / seconds:.2f} |")


if __name__ == "__main__":
    main()
