"""INT8 on the CPU engine: how right each form is, and how fast, on the network and photographs of recipes/host.yaml.

    python benchmarks/int8_cpu.py [--rounds N] [--probes N] [--threads N] [--isa avx2]

Needs the extra `demo`. Per form: the mean SQNR lost against the exact simulation over all quantized tensors (what the
self-check judges, here on the held-out photographs), the lowest cosine of the scores against FP32 on them, and the time
of one image relative to FP32 and to the exact form: medians of alternating runs in one process. `--isa avx2` shows the
forms offered to a CPU without VNNI instead of those for this one; they are right on any CPU, their speed is this one's.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from trtforge.backends.base import TensorSpec
from trtforge.backends.batching import Batch, batches
from trtforge.backends.onnxruntime_.forms import EXACT, Form, candidates
from trtforge.backends.onnxruntime_.lowering import lower
from trtforge.backends.onnxruntime_.selfcheck import SelfCheck
from trtforge.backends.onnxruntime_.session import OnnxruntimeSession, configured
from trtforge.evaluate.parity import compare
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.ort import open_session
from trtforge.pipeline.job import Job, plan
from trtforge.pipeline.prepare import prepare
from trtforge.recipe.load import load
from trtforge.scales.codecs.qdq import insert
from trtforge.targets.host import HostFacts, host_facts

RECIPE = Path(__file__).parent.parent / "recipes" / "host.yaml"
PLAIN = Form("TensorRT's Q/DQ graph as it is", "", slack=None)


@dataclass(frozen=True)
class Row:
    form: str
    right: bool | None
    loss_db: float
    cosine: float
    seconds: float


def main() -> None:
    options = arguments()
    os.environ["TRTFORGE_THREADS"] = str(options.threads)
    (job,) = plan(load(RECIPE), only=["nsfw-resnet50"])
    rows = measure(job, cpu(options.isa), options.rounds, options.probes)
    show(rows, options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="INT8 forms of the CPU engine: right and fast?")
    parser.add_argument("--rounds", type=int, default=15, help="timed runs of each form")
    parser.add_argument("--probes", type=int, default=6, help="held-out photographs for the SQNR")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--isa", choices=("this", "avx2"), default="this")
    return parser.parse_args()


def cpu(isa: str) -> HostFacts:
    return host_facts() if isa == "this" else replace(host_facts(), isa=("avx", "avx2", "fma"))


def measure(job: Job, host: HostFacts, rounds: int, probe_count: int) -> list[Row]:
    """FP32 first, the exact simulation second, then the others."""
    ready = prepare(job)
    assert ready.scales is not None
    assert job.verify_set is not None
    floating = freeze_inputs(ready.model, {name: spec.shape for name, spec in job.engine.inputs.items()})
    quantized, _ = insert(floating, ready.scales, job.engine.quantize)
    models: list[tuple[Form | None, Model]] = [(None, floating), (EXACT, quantized), (PLAIN, quantized)]
    for form in candidates(host)[:-1]:
        assert form.slack is not None
        model, _ = lower(quantized, floating, ready.scales, slack=form.slack, signed_weights=form.signed_weights)
        models.append((form, model))

    inputs = [TensorSpec(name, spec.shape, spec.dtype) for name, spec in job.engine.inputs.items()]
    probes = list(islice(batches(job.verify_set, inputs), probe_count))
    check = SelfCheck(floating, quantized, EXACT.config, probes)
    natives = [
        open_session(model.proto, model.folder, configured(form.config if form else {})) for form, model in models
    ]
    seconds = alternate(natives, probes[0], rounds)
    reference = OnnxruntimeSession(natives[0])
    rows = []
    for (form, model), native, taken in zip(models, natives, seconds, strict=True):
        parity = compare(reference, OnnxruntimeSession(native), job.verify_set)
        if form is None:
            rows.append(Row("FP32", None, math.nan, parity.value, taken))
            continue
        verdict = check.judge(form.name, model, form.config)
        loss = math.nan if verdict.mean_loss_db is None else verdict.mean_loss_db
        rows.append(Row(form.name, verdict.right, loss, parity.value, taken))
    return rows


def alternate(natives: Sequence[Any], probe: Batch, rounds: int) -> list[float]:
    """Median seconds of each session, run in turn so that all meet the same noise. One warm-up run each."""
    times: list[list[float]] = [[] for _ in natives]
    for number in range(rounds + 1):
        for native, taken in zip(natives, times, strict=True):
            before = time.perf_counter()
            native.run(None, probe.arrays)
            if number > 0:
                taken.append(time.perf_counter() - before)
    return [statistics.median(taken) for taken in times]


def show(rows: Sequence[Row], options: argparse.Namespace) -> None:
    fp32, exact = rows[0].seconds, rows[1].seconds
    host = host_facts()
    print(f"{host.model}: {' '.join(host.isa)}; {options.threads} thread(s), {options.rounds} rounds, {sys.platform}\n")
    print("| form | passes the self-check | mean SQNR lost, dB | lowest cosine | ms | x FP32 | x exact |")
    print("|---|---|---:|---:|---:|---:|---:|")
    for row in rows:
        right = {None: "", True: "yes", False: "no"}[row.right]
        loss = "" if math.isnan(row.loss_db) else f"{row.loss_db:.2f}"
        speeds = f"{row.seconds * 1e3:.1f} | {fp32 / row.seconds:.2f} | {exact / row.seconds:.2f}"
        print(f"| {row.form} | {right} | {loss} | {row.cosine:.5f} | {speeds} |")


if __name__ == "__main__":
    main()
