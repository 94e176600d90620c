"""Streaming min-max calibration on any CPU: one pass over the samples, constant memory, resumable.

Every float activation is covered, graph inputs included. Names are the model's own: the graph runs at
onnxruntime's basic level, where no observed tensor is fused away, and ranges equal those of a naive run that
outputs every tensor, bit for bit. They depend neither on the order of the samples nor on how they are grouped.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from trtforge import __version__
from trtforge.digest import digest_json, set_digest
from trtforge.errors.calibration import EmptySet
from trtforge.graph.digests import digests
from trtforge.graph.model import Digests, Model
from trtforge.progress import QUIET, Progress
from trtforge.samples.base import Sample, SampleSet, Skippable
from trtforge.scales.collect_fused import FusedMeter
from trtforge.scales.collect_graph import Plan, plan
from trtforge.scales.collect_meter import Meter
from trtforge.scales.collect_state import Checkpoint, Running
from trtforge.scales.derive import resolve
from trtforge.scales.table import Receipt, ScaleTable, TensorRange

METHOD = "minmax"
METHOD_FUSED = "minmax-fused"
"""Names in the receipt; tables of the two are not merged."""


def collect(
    model: Model,
    samples: SampleSet,
    *,
    progress: Progress = QUIET,
    checkpoint: Path | None = None,
    threads: int | None = None,
    checkpoint_every: float = 2.0,
    fused: bool = False,
) -> ScaleTable:
    """The range of every float activation of ``model`` over ``samples``, with a receipt.

    A model with a fixed batch N > 1 gets samples in groups of N, the last one filled up by repeating, which no
    range notices. Tensors that only move or clip the values of others are derived, not measured.

    Args:
        model: the float graph the engine is built from; weights in external files are left there.
        samples: arrays with a batch axis of 1, in the inputs' types.
        checkpoint: a file that holds the state; a killed or interrupted run given the same file continues, and
            one whose model, preprocessing or samples changed starts anew and says why. It stays when the
            run is complete: remove it once the table is saved.
        threads: CPU threads; None takes those this process may use.
        checkpoint_every: seconds between two writes of the checkpoint.
        fused: measure only what is left when onnxruntime fuses the graph: faster on convolutional networks, see
            ``trtforge.scales.collect_fused`` for what it costs.

    Raises: CAL102 no samples, CAL121 samples do not fit the model, CAL122 a tensor became NaN or infinite,
        CAL123 the model does not run, CAL124 nothing to calibrate, and what iterating the samples raises.
    """
    total = len(samples)
    if total == 0:
        raise EmptySet("there is no sample to calibrate with", where=samples.name, next="add samples to the set")
    chosen = plan(model)
    meter = FusedMeter(model, chosen, threads) if fused else Meter(model, chosen, threads)
    method = METHOD_FUSED if fused else METHOD
    identity = digests(model)
    preprocessing = _preprocessing(samples)
    keeper = Checkpoint(
        checkpoint,
        {
            "model graph": identity.graph,
            "model weights": identity.weights,
            "preprocessing": digest_json(preprocessing),
            "method": method,
            "tools": digest_json(_tools()),
        },
        progress,
        checkpoint_every,
    )
    listed = dict(samples.identities()) if checkpoint is not None and checkpoint.exists() else {}
    running = keeper.resume(meter.tensors, listed)
    try:
        with progress.task("calibrate", total) as task:
            task.advance(len(running.done))
            for group in _groups(_remaining(samples, running.done), meter.batch):
                task.note(group[-1].id)
                low, high = meter.measure(group)
                running.add(low, high, {sample.id: sample.digest for sample in group})
                keeper.follow(running)
                task.advance(len(group))
    finally:
        keeper.write(running)  # Ctrl-C and errors keep what is done
    receipt = _receipt(method, running, identity, preprocessing)
    drawn = samples.describe().get("windows")
    return _table(meter.plan, running, receipt, {"set": samples.name} | ({"windows": drawn} if drawn else {}))


def _groups(samples: Iterable[Sample], size: int) -> Iterator[list[Sample]]:
    group: list[Sample] = []
    for sample in samples:
        group.append(sample)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def _remaining(samples: SampleSet, done: Mapping[str, str]) -> Iterable[Sample]:
    if isinstance(samples, Skippable):
        return samples.without(done)  # neither read nor decoded again
    return (sample for sample in samples if sample.id not in done)


def _preprocessing(samples: SampleSet) -> dict[str, Any]:
    """What was done to the samples, without which set they came from: tables of two sets can be merged."""
    described = samples.describe()
    return dict(described.get("inputs", described))


def _tools() -> dict[str, str]:
    packages = ("numpy", "onnx", "onnxruntime", "pillow")
    return {"trtforge": __version__} | {name: metadata.version(name) for name in packages}


def _receipt(method: str, running: Running, identity: Digests, preprocessing: dict[str, Any]) -> Receipt:
    return Receipt(
        method=method,
        samples=dict(sorted(running.done.items())),
        set_digest=set_digest(list(running.done.values())),
        preprocessing=preprocessing,
        model_graph=identity.graph,
        model_weights=identity.weights,
        tools=_tools(),
    )


def _table(chosen: Plan, running: Running, receipt: Receipt, notes: dict[str, Any]) -> ScaleTable:
    """Measured and derived ranges by name; what has none is listed in the receipt."""
    bounds = running.bounds()
    counts = dict(zip(running.tensors, running.count.tolist(), strict=True))
    for name, derived in resolve(chosen.derived, bounds).items():
        bounds[name] = derived
        counts[name] = max(counts[source] for source in chosen.derived[name][0])
    ranges = {name: TensorRange(*seen, counts[name]) for name, seen in sorted(bounds.items()) if seen is not None}
    uncovered = {*chosen.hidden, *(name for name, seen in bounds.items() if seen is None)}
    notes = notes | {"derived": len(chosen.derived)}
    return ScaleTable(ranges, replace(receipt, uncovered=tuple(sorted(uncovered))), notes)
