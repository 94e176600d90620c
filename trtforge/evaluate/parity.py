"""Hold an engine's outputs against the FP32 model's, sample by sample, in one pass that keeps no outputs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from trtforge.backends.base import Session
from trtforge.backends.batching import results
from trtforge.backends.sqnr import Sqnr
from trtforge.errors.verify import NothingToVerify, OutputsDiffer, VerificationMissed
from trtforge.evaluate.bounds import told
from trtforge.evaluate.metrics import cosine, max_abs_error, sqnr_db, top1
from trtforge.progress import QUIET, Progress
from trtforge.samples.base import Sample, SampleSet

Metric = Literal["cosine", "top1", "sqnr_db"]
Outputs = Mapping[str, np.ndarray[Any, Any]]

TOP = 3
"""Scores kept of each sample, for a person to read."""

_MOST_CLASSES = 100_000


@dataclass(frozen=True)
class Score:
    """One of the largest values of an output vector, and its position."""

    index: int
    value: float


@dataclass(frozen=True)
class ParityRow:
    """One sample. ``cosine``, ``sqnr_db``, ``top1``: of the output where it is lowest; ``max_abs_error``: highest.

    ``reference``, ``candidate``: the largest scores of the first output that is a vector, largest first.
    """

    id: str
    cosine: float
    top1: float
    sqnr_db: float
    max_abs_error: float
    reference: tuple[Score, ...]
    candidate: tuple[Score, ...]

    @property
    def top1_equal(self) -> bool:
        return self.top1 == 1.0

    def to_json(self) -> dict[str, Any]:
        numbers = {name: _finite(value) for name, value in asdict(self).items() if isinstance(value, float)}
        scores = {name: [asdict(score) for score in getattr(self, name)] for name in ("reference", "candidate")}
        for score in itertools.chain(*scores.values()):
            score["value"] = _finite(score["value"])
        return {"id": self.id, "top1_equal": self.top1_equal} | numbers | scores


@dataclass(frozen=True)
class ParityReport:
    """``value``: the metric over all samples: for cosine the worst sample's, for top1 the mean, for sqnr_db that of
    all values together. ``passed``: None without a bound. ``worst``: the row with the lowest metric."""

    metric: Metric
    value: float
    at_least: float | None
    rows: tuple[ParityRow, ...]
    mean: float
    worst: ParityRow

    @property
    def passed(self) -> bool | None:
        return None if self.at_least is None else self.value >= self.at_least

    def to_json(self) -> dict[str, Any]:
        """JSON-able; NaN is null, infinite dB are +-999."""
        return {
            "metric": self.metric,
            "value": _finite(self.value),
            "at_least": self.at_least,
            "passed": self.passed,
            "samples": len(self.rows),
            "mean": _finite(self.mean),
            "worst": self.worst.id,
            "rows": [row.to_json() for row in self.rows],
        }

    def missed(self, *, where: str) -> VerificationMissed | None:
        """The error to raise when the bound was missed, None otherwise. ``where``: the engine, for the message."""
        if self.at_least is None or self.passed:
            return None
        value, bound = told(self.value, self.at_least)
        worst = getattr(self.worst, self.metric)
        return VerificationMissed(
            f"the engine misses its bound: {self.metric} {value}, at least {bound} is asked for",
            where=where,
            why=f"worst of {len(self.rows)} samples: {self.worst.id!r} with {self.metric} {worst:.6g}",
            next="calibrate with samples like that one, keep sensitive nodes in float with `quantize.skip`, "
            "or lower `verify.at_least`",
        )


def compare(
    reference: Session,
    candidate: Session,
    samples: SampleSet | Sequence[Sample],
    metric: Metric = "cosine",
    at_least: float | None = None,
    *,
    progress: Progress = QUIET,
    on_outputs: Callable[[Sample, Outputs], None] | None = None,
) -> ParityReport:
    """Run both sessions on every sample; each takes the batch it was built for.

    ``on_outputs`` is called with the candidate's outputs of each sample, in order.
    Raises NothingToVerify (VER103), OutputsDiffer (VER102), and what the sessions raise (ENG208, ENG302).
    """
    _check_names(reference, candidate)
    rows: list[ParityRow] = []
    total = Sqnr()
    # Two readers of one pass over the samples; tee holds no more than the larger of the two batches.
    first, second = itertools.tee(samples)
    with progress.task("comparing with the FP32 model", len(samples)) as task:
        pairs = zip(results(reference, first), results(candidate, second), strict=True)
        for (sample, expected), (_, found) in pairs:
            task.note(sample.id)
            _check_shapes(sample, expected, found)
            rows.append(_row(sample, expected, found))
            for name, values in expected.items():
                total.add(values, found[name])
            if on_outputs is not None:
                on_outputs(sample, found)
            task.advance()
    if not rows:
        raise NothingToVerify(
            "there is nothing to compare", why="the sample set is empty", next="give at least one sample"
        )
    return _report(metric, at_least, rows, total)


def _report(metric: Metric, at_least: float | None, rows: list[ParityRow], total: Sqnr) -> ParityReport:
    values = [float(getattr(row, metric)) for row in rows]
    mean = math.nan if any(map(math.isnan, values)) else sum(values) / len(values)
    # NaN is worse than any number, and must not be passed over by a comparison.
    position = min(range(len(rows)), key=lambda at: -math.inf if math.isnan(values[at]) else values[at])
    value = {"cosine": values[position], "top1": mean, "sqnr_db": total.db}[metric]
    return ParityReport(metric, value, at_least, tuple(rows), mean, rows[position])


def _row(sample: Sample, expected: Outputs, found: Outputs) -> ParityRow:
    vector = next((name for name, values in expected.items() if _is_vector(values)), None)
    return ParityRow(
        id=sample.id,
        cosine=_lowest([cosine(values, found[name]) for name, values in expected.items()]),
        top1=_lowest([top1(values, found[name]) for name, values in expected.items()]),
        sqnr_db=_lowest([sqnr_db(values, found[name]) for name, values in expected.items()]),
        max_abs_error=-_lowest([-max_abs_error(values, found[name]) for name, values in expected.items()]),
        reference=() if vector is None else largest(expected[vector]),
        candidate=() if vector is None else largest(found[vector]),
    )


def largest(scores: np.ndarray[Any, Any], count: int = TOP) -> tuple[Score, ...]:
    """The largest scores of a vector (all axes of size 1 but one), largest first; of equal ones the first."""
    flat = scores.ravel()
    order = np.argsort(-flat.astype(np.float64), kind="stable")[:count]
    return tuple(Score(int(position), float(flat[position])) for position in order)


def _is_vector(values: np.ndarray[Any, Any]) -> bool:
    return values.dtype.kind == "f" and 1 < values.size <= _MOST_CLASSES and max(values.shape) == values.size


def _lowest(values: list[float]) -> float:
    return math.nan if any(map(math.isnan, values)) else min(values)


def _check_names(reference: Session, candidate: Session) -> None:
    expected = [spec.name for spec in reference.outputs]
    found = [spec.name for spec in candidate.outputs]
    if set(expected) != set(found):
        raise OutputsDiffer(
            "the engine and its reference have different outputs",
            why=f"the reference gives {', '.join(expected)}; the engine gives {', '.join(found)}",
            next="compare with `--against none`, or leave out the surgery pass that changes the outputs",
        )


def _check_shapes(sample: Sample, expected: Outputs, found: Outputs) -> None:
    for name, values in expected.items():
        if values.shape != found[name].shape:
            raise OutputsDiffer(
                f"the output {name!r} has another shape in the engine",
                where=f"sample {sample.id!r}",
                why=f"the reference gives {list(values.shape)}, the engine {list(found[name].shape)}",
                next="compare with `--against none`, or leave out the surgery pass that changes the output",
            )


def _finite(value: float) -> float | None:
    """JSON has neither NaN nor infinity."""
    return None if math.isnan(value) else max(-999.0, min(999.0, value))
