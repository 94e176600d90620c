"""Judge the forms of an INT8 engine by measuring: is one right, and how fast is it?

Measured is each checkpoint's signal to quantization noise against the FP32 model, over the probes, and how far it is
below that of the exact simulation of the same Q/DQ graph: its loss. A form is right when

* the mean loss over all checkpoints is at most ``MEAN_DB``, where a gain counts for that much at most: what some
  tensors gain shall not pay for what is lost in others, and
* no checkpoint loses more than ``SINGLE_DB`` plus two standard errors, or else it is above ``GOOD_DB`` all the same.

The mean carries the verdict because a single tensor cannot: two forms differ by the rounding of ties, and from there
their errors are as good as independent. On a thin ResNet-50 with four photographs, the last feature map of a form that
is neither better nor worse than the simulation was seen between 1.6 dB above and 0.9 dB below it, while the mean over
its 56 quantized tensors stayed within 0.2 dB. Saturating kernels cost that feature map 5 dB.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trtforge.backends.batching import Batch
from trtforge.backends.onnxruntime_.checkpoints import Array, Checkpoint, checkpoints, dequantizer, exposing
from trtforge.backends.onnxruntime_.session import configured, first_line, runtime_errors
from trtforge.backends.sqnr import Sqnr
from trtforge.errors.backend import ProbeNotFinite, RuntimeRefusedGraph
from trtforge.graph.model import Model
from trtforge.ort import open_session

MEAN_DB = 0.5
SINGLE_DB = 3.0
GOOD_DB = 40.0
"""An rms error of 1 %: two scores out of a Softmax can be that good by luck, in either form."""

_CEILING_DB = 100.0
_INDEPENDENT_PER_PROBE = 25
"""Values of one tensor and probe that err independently, at most: neighbours in a feature map err together."""

_ROUNDS = 5
_TIMING_BUDGET_S = 20.0
_KEPT_BYTES = 1 << 30

Config = Mapping[str, str]
Answers = list[list[Array]]
"""For each probe, the values of each checkpoint."""


@dataclass(frozen=True)
class Finding:
    """One checkpoint of one form, in dB. ``allowed_db``: the loss a single checkpoint may have."""

    tensor: str
    sqnr_db: float
    exact_sqnr_db: float
    allowed_db: float

    @property
    def loss_db(self) -> float:
        if math.isnan(self.sqnr_db):
            return math.inf
        if self.sqnr_db == self.exact_sqnr_db:
            return 0.0  # also where both are infinitely bad: noise in a tensor of zeros
        return min(self.exact_sqnr_db, _CEILING_DB) - min(self.sqnr_db, _CEILING_DB)

    @property
    def is_lost(self) -> bool:
        return self.loss_db > self.allowed_db and not self.sqnr_db >= GOOD_DB


@dataclass
class Verdict:
    """What was measured of one form. ``why``: a sentence when it was not taken."""

    form: str
    right: bool
    why: str = ""
    mean_loss_db: float | None = None
    worst: Finding | None = None
    speedup: float | None = None
    findings: list[Finding] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "form": self.form,
            "right": self.right,
            "why": self.why,
            "mean_loss_db": finite(self.mean_loss_db),
            "worst_loss_db": finite(self.worst.loss_db) if self.worst else None,
            "worst_tensor": self.worst.tensor if self.worst else None,
            "speed_vs_exact": finite(self.speedup),
        }


class SelfCheck:
    """Holds the FP32 model's and the exact simulation's answers for the probes, to judge one form after another."""

    def __init__(self, floating: Model, exact: Model, exact_config: Config, probes: Sequence[Batch]) -> None:
        """Runs both models on the probes. Raises RuntimeRefusedGraph (BLD103), ProbeNotFinite (BLD104)."""
        self._points = checkpoints(floating, exact)
        self._probes = list(probes)
        try:
            first = _run(floating, {}, self._points_in_float(), self._probes[:1])
            self._probes = self._probes[: max(1, _KEPT_BYTES // max(1, sum(array.nbytes for array in first[0])))]
            self._reference = first + _run(floating, {}, self._points_in_float(), self._probes[1:])
            _check_finite(self._reference, self._points, self._probes)
            self._exact = self._measure(exact, exact_config)
            self._exact_session = open_session(exact.proto, exact.folder, configured(exact_config))
        except runtime_errors() as error:
            raise refused(first_line(error)) from error

    @property
    def probes(self) -> list[str]:
        """Ids of the samples that were used: fewer than given when their activations take much memory."""
        return [sample.id for batch in self._probes for sample in batch.samples]

    def exact_to_json(self) -> dict[str, Any]:
        """SQNR of the exact simulation against the FP32 model: the mean over all checkpoints, and of the outputs."""
        outputs = [point.tensor for point in self._points if not point.quantized]
        return {
            "checkpoints": len(self._points),
            "mean_sqnr_db": finite(statistics.fmean(min(sqnr.db, _CEILING_DB) for sqnr in self._exact.values())),
            "output_sqnr_db": {name: finite(self._exact[name].db) for name in outputs},
        }

    def judge(self, name: str, model: Model, config: Config) -> Verdict:
        """Measure one form; a form onnxruntime refuses is wrong, with the reason."""
        try:
            measured = self._measure(model, config)
        except runtime_errors() as error:
            return Verdict(name, right=False, why=f"onnxruntime refuses it: {first_line(error)}")
        return verdict(name, [self._finding(tensor, sqnr) for tensor, sqnr in measured.items()])

    def speedup(self, model: Model, config: Config) -> float:
        """Time of the exact form over time of this one: medians of alternating runs on the first probe."""
        session = open_session(model.proto, model.folder, configured(config))
        arrays = self._probes[0].arrays
        times: dict[bool, list[float]] = {True: [], False: []}
        started = time.perf_counter()
        for _ in range(_ROUNDS + 1):
            for is_exact, native in ((True, self._exact_session), (False, session)):
                before = time.perf_counter()
                native.run(None, arrays)
                times[is_exact].append(time.perf_counter() - before)
            if time.perf_counter() - started > _TIMING_BUDGET_S:
                break
        # The first run of a session allocates its memory; it only counts when there is no other.
        medians = {key: statistics.median(values[1:] or values) for key, values in times.items()}
        return medians[True] / medians[False]

    def _points_in_float(self) -> list[str]:
        return [point.tensor for point in self._points]

    def _measure(self, model: Model, config: Config) -> dict[str, Sqnr]:
        answers = _run(model, config, [point.exposed for point in self._points], self._probes)
        to_float: list[Callable[[Array], Array]] = [dequantizer(model, point) for point in self._points]
        totals = {point.tensor: Sqnr() for point in self._points}
        for reference, answer in zip(self._reference, answers, strict=True):
            for point, convert, expected, found in zip(self._points, to_float, reference, answer, strict=True):
                totals[point.tensor].add(expected, convert(found))
        return totals

    def _finding(self, tensor: str, measured: Sqnr) -> Finding:
        independent = max(1, min(measured.values, _INDEPENDENT_PER_PROBE * len(self._probes)))
        # Standard error of 10 log10 of a ratio of two noise energies, each a sum of ``independent`` squares.
        error = 10 / math.log(10) * math.sqrt(2 * 2 / independent)
        return Finding(tensor, measured.db, self._exact[tensor].db, SINGLE_DB + 2 * error)


def verdict(name: str, findings: Sequence[Finding]) -> Verdict:
    """Right or not, by the rules at the head of this module."""
    mean = statistics.fmean(max(finding.loss_db, -MEAN_DB) for finding in findings)
    worst = max(findings, key=lambda finding: finding.loss_db - finding.allowed_db)
    lost = next((finding for finding in findings if finding.is_lost), None)
    why = ""
    if not mean <= MEAN_DB:
        why = f"{mean:.2f} dB below the exact simulation on average, {MEAN_DB} dB are allowed"
    elif lost is not None:
        why = (
            f"{lost.loss_db:.1f} dB below the exact simulation at {lost.tensor!r}, {lost.allowed_db:.1f} dB are allowed"
        )
    return Verdict(name, not why, why, mean, worst, None, list(findings))


def refused(words: str) -> RuntimeRefusedGraph:
    """BLD103 with onnxruntime's own words."""
    return RuntimeRefusedGraph(
        "onnxruntime could not compile or run the graph",
        why=words,
        next="write the graph out with `trtforge surgery RECIPE --out m.onnx` and look at the node named above",
    )


def finite(value: float | None) -> float | None:
    """Rounded for a report; JSON has no infinity and no NaN, so they become +-999 and None."""
    if value is None or math.isnan(value):
        return None
    return round(max(-999.0, min(999.0, value)), 3)


def _run(model: Model, config: Config, names: Sequence[str], probes: Sequence[Batch]) -> Answers:
    """The named tensors for each probe. Raises onnxruntime's own exceptions."""
    if not probes:
        return []
    session = open_session(exposing(model.proto, names), model.folder, configured(config))
    return [session.run(list(names), probe.arrays) for probe in probes]


def _check_finite(answers: Answers, points: Sequence[Checkpoint], probes: Sequence[Batch]) -> None:
    for answer, probe in zip(answers, probes, strict=True):
        for values, point in zip(answer, points, strict=True):
            if not np.isfinite(values).all():
                raise ProbeNotFinite(
                    "the FP32 model gives NaN or Inf",
                    where=f"tensor {point.tensor!r}",
                    why=f"for the sample {', '.join(sample.id for sample in probe.samples)}",
                    next="check `preprocess` in the recipe against what the model was trained with",
                )
