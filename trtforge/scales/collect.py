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

import numpy as np

from trtforge import __version__
from trtforge.digest import digest_json, set_digest
from trtforge.errors.calibration import EmptySet, ModelDoesNotRun, ModelInputMismatch, TensorNotFinite
from trtforge.graph.digests import digests
from trtforge.graph.model import Digests, Model
from trtforge.ort import import_onnxruntime, session_options
from trtforge.progress import QUIET, Progress
from trtforge.samples.base import Sample, SampleSet
from trtforge.samples.load import FileSamples
from trtforge.scales.collect_graph import Activation, Plan, grouped, measuring_model, open_measuring, plan, read_outputs
from trtforge.scales.collect_state import Checkpoint, Running
from trtforge.scales.derive import resolve
from trtforge.scales.table import Receipt, ScaleTable, TensorRange

METHOD = "minmax"

_NUMPY = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}


def collect(
    model: Model,
    samples: SampleSet,
    *,
    progress: Progress = QUIET,
    checkpoint: Path | None = None,
    threads: int | None = None,
    checkpoint_every: float = 2.0,
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

    Raises: CAL102 no samples, CAL121 samples do not fit the model, CAL122 a tensor became NaN or infinite,
        CAL123 the model does not run, CAL124 nothing to calibrate, and what iterating the samples raises.
    """
    total = len(samples)
    if total == 0:
        raise EmptySet("there is no sample to calibrate with", where=samples.name, next="add samples to the set")
    chosen = plan(model)
    identity = digests(model)
    preprocessing = _preprocessing(samples)
    keeper = Checkpoint(
        checkpoint,
        {
            "model graph": identity.graph,
            "model weights": identity.weights,
            "preprocessing": digest_json(preprocessing),
            "method": METHOD,
            "tools": digest_json(_tools()),
        },
        progress,
        checkpoint_every,
    )
    meter = Meter(model, chosen, threads)
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
    receipt = _receipt(running, identity, preprocessing)
    return _table(chosen, running, receipt, samples.name)


class Meter:
    """A session of the measuring graph, opened on the first group."""

    def __init__(self, model: Model, chosen: Plan, threads: int | None) -> None:
        self._model = model
        self._plan = chosen
        self._threads = threads
        self._order: list[Activation] = [item for group in grouped(chosen.measured) for item in group]
        self._exact: frozenset[str] = frozenset()
        self._session: Any = None
        self.tensors = tuple(item.name for item in self._order)
        self.batch = _fixed_batch(chosen)

    def measure(self, group: list[Sample]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Minima and maxima over a group, [tensors] each. Raises CAL121, CAL122, CAL123."""
        for sample in group:
            _check_fits(sample, self._plan)
        low, high, guard = self._run(group)
        overflowed = self._suspects(low, high, guard) - self._exact
        if overflowed:  # NaN, infinity, or a sum too large for its type: settle it with exact guards
            self._exact |= overflowed
            self._session = None
            low, high, guard = self._run(group)
        if self._suspects(low, high, guard):
            raise self._not_finite(group)
        return low, high

    def _run(self, group: list[Sample]) -> np.ndarray[Any, Any]:
        if self._session is None:
            self._session = self._open()
        feeds = {name: _stacked(name, group, self.batch) for name in self._plan.inputs}
        try:
            return read_outputs(self._session.run(None, feeds), self._order)
        except Exception as error:  # onnxruntime raises a dozen unrelated classes; all mean the same here
            raise ModelDoesNotRun(
                "onnxruntime stopped while running the model",
                where=", ".join(sample.id for sample in group),
                why=" ".join(str(error).split()),
                next="compare the input shapes of the recipe with what the model accepts: `trtforge inspect MODEL`",
            ) from error

    def _open(self) -> Any:
        options = session_options(threads=self._threads)
        onnxruntime = import_onnxruntime()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.execution_order = onnxruntime.ExecutionOrder.PRIORITY_BASED
        return open_measuring(measuring_model(self._model, self._plan.measured, self._exact), self._model, options)

    def _suspects(self, low: Any, high: Any, guard: Any) -> set[str]:
        """Tensors that hold, or may hold, a value that is not finite. An empty tensor is (inf, -inf) and sums to 0."""
        empty = (low == np.inf) & (high == -np.inf) & (guard == 0)
        finite = np.isfinite(low) & np.isfinite(high) & np.isfinite(guard)
        return {self.tensors[position] for position in np.flatnonzero(~(finite | empty))}

    def _not_finite(self, group: list[Sample]) -> TensorNotFinite:
        """The error for the first tensor in graph order, on the sample that shows it."""
        for sample in group:
            low, high, guard = self._run([sample])
            suspects = self._suspects(low, high, guard)
            if suspects:
                break
        else:
            raise AssertionError("a group is not finite although each of its samples is")
        first = next(item.name for item in self._plan.measured if item.name in suspects)
        position = self.tensors.index(first)
        kind = "infinite" if np.isinf([low[position], high[position]]).any() else "NaN"
        return TensorNotFinite(
            f"tensor `{first}` became {kind}",
            where=f"sample {sample.id}",
            why=f"{len(suspects)} of {len(self.tensors)} measured tensors are not finite on it; this is the first",
            next="look at the node that makes this tensor, and at the value range of the sample",
        )


def _check_fits(sample: Sample, chosen: Plan) -> None:
    """Names, types and shapes of a sample against the graph's inputs. Raises ModelInputMismatch (CAL121)."""
    if set(sample.inputs) != set(chosen.inputs):
        raise ModelInputMismatch(
            "the sample does not feed the inputs of the model",
            where=f"sample {sample.id}",
            why=f"it has {sorted(sample.inputs)}, the model takes {sorted(chosen.inputs)}",
            next="name these inputs under `inputs` of the recipe",
        )
    for name, (kind, shape) in chosen.inputs.items():
        array = sample.inputs[name]
        reason = ""
        if _NUMPY.get(kind) != array.dtype.name:
            reason = f"it is {array.dtype.name}, the model takes {_NUMPY.get(kind, kind)}"
        elif array.shape[:1] != (1,):
            reason = f"its shape is {list(array.shape)}; a sample has a batch axis of 1"
        elif len(array.shape) != len(shape) or any(
            wanted not in (None, found) for wanted, found in zip(shape[1:], array.shape[1:], strict=True)
        ):
            taken = ["?" if size is None else size for size in shape]
            reason = f"its shape is {list(array.shape)}, the model takes {taken}".replace("'", "")
        if reason:
            raise ModelInputMismatch(
                f"the sample does not fit input `{name}`",
                where=f"sample {sample.id}",
                why=reason,
                next=f"correct `inputs.{name}` of the recipe, or change the model by surgery",
            )


def _fixed_batch(chosen: Plan) -> int:
    """The batch the graph is fixed to; 1 when it is open: larger batches are not faster and cost memory."""
    fixed = {name: shape[0] for name, (_, shape) in chosen.inputs.items() if shape and shape[0] is not None}
    if len(set(fixed.values())) > 1:
        raise ModelInputMismatch(
            "the inputs of the model are fixed to different batches",
            why=", ".join(f"`{name}`: {size}" for name, size in fixed.items()),
            next="export the model with one batch size, or an open one",
        )
    return next(iter(fixed.values()), None) or 1


def _stacked(name: str, group: list[Sample], batch: int) -> np.ndarray[Any, Any]:
    """One input of a group, filled up to the batch by repeating the last sample."""
    arrays = [sample.inputs[name] for sample in group]
    if batch == 1:
        return np.ascontiguousarray(arrays[0])
    return np.concatenate(arrays + arrays[-1:] * (batch - len(arrays)))


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
    if isinstance(samples, FileSamples):
        return samples.without(done)  # neither read nor decoded again
    return (sample for sample in samples if sample.id not in done)


def _preprocessing(samples: SampleSet) -> dict[str, Any]:
    """What was done to the samples, without which set they came from: tables of two sets can be merged."""
    described = samples.describe()
    return dict(described.get("inputs", described))


def _tools() -> dict[str, str]:
    packages = ("numpy", "onnx", "onnxruntime", "pillow")
    return {"trtforge": __version__} | {name: metadata.version(name) for name in packages}


def _receipt(running: Running, identity: Digests, preprocessing: dict[str, Any]) -> Receipt:
    return Receipt(
        method=METHOD,
        samples=dict(sorted(running.done.items())),
        set_digest=set_digest(list(running.done.values())),
        preprocessing=preprocessing,
        model_graph=identity.graph,
        model_weights=identity.weights,
        tools=_tools(),
    )


def _table(chosen: Plan, running: Running, receipt: Receipt, set_name: str) -> ScaleTable:
    """Measured and derived ranges by name; what has none is listed in the receipt."""
    bounds = running.bounds()
    counts = dict(zip(running.tensors, running.count.tolist(), strict=True))
    for name, derived in resolve(chosen.derived, bounds).items():
        bounds[name] = derived
        counts[name] = min(counts[source] for source in chosen.derived[name][0])
    ranges = {name: TensorRange(*seen, counts[name]) for name, seen in sorted(bounds.items()) if seen is not None}
    uncovered = {*chosen.hidden, *(name for name, seen in bounds.items() if seen is None)}
    notes = {"set": set_name, "derived": len(chosen.derived)}
    return ScaleTable(ranges, replace(receipt, uncovered=tuple(sorted(uncovered))), notes)
