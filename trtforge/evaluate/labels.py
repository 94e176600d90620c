"""Hold an engine's labels of whole volumes against the FP32 model's: Dice, through the same window loop."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from trtforge.backends.base import Session
from trtforge.errors.verify import NothingToVerify, VerificationMissed
from trtforge.evaluate.bounds import told
from trtforge.evaluate.dice import dice, mean
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Engine
from trtforge.runtime.windows.loop import segment
from trtforge.samples.volumes import Case

if TYPE_CHECKING:
    import numpy as np

Array: TypeAlias = "np.ndarray[Any, Any]"


@dataclass(frozen=True)
class LabelsRow:
    """One volume: Dice of each class but the background, and their mean."""

    id: str
    dice: dict[str, float]
    mean: float


@dataclass(frozen=True)
class LabelsReport:
    """``value``: the mean over the volumes of the mean over the classes."""

    value: float
    at_least: float
    rows: tuple[LabelsRow, ...]

    @property
    def passed(self) -> bool:
        return self.value >= self.at_least

    @property
    def worst(self) -> LabelsRow:
        return min(self.rows, key=lambda row: row.mean)

    def to_json(self) -> dict[str, Any]:
        """The fields of `ParityReport.to_json`, for metric `dice`."""
        return {
            "metric": "dice",
            "value": self.value,
            "at_least": self.at_least,
            "passed": self.passed,
            "samples": len(self.rows),
            "mean": self.value,
            "worst": self.worst.id,
            "rows": [{"id": row.id, "dice": row.dice, "mean": row.mean} for row in self.rows],
        }

    def missed(self, *, where: str) -> VerificationMissed | None:
        """The error to raise when the bound was missed, None otherwise. ``where``: the engine, for the message."""
        if self.passed:
            return None
        worst = self.worst
        value, bound = told(self.value, self.at_least)
        classes = ", ".join(f"{name} {score:.4f}" for name, score in worst.dice.items())
        return VerificationMissed(
            f"the engine misses its bound: dice {value}, at least {bound} is asked for",
            where=where,
            why=f"worst of {len(self.rows)} volumes: {worst.id!r} with {classes}",
            next="calibrate with volumes like that one, keep sensitive nodes in float with `quantize.skip`, "
            "or lower `verify.at_least`",
        )


def compare_labels(
    reference: Session,
    candidate: Session,
    cases: Iterable[Case],
    engine: Engine,
    at_least: float,
    *,
    progress: Progress = QUIET,
) -> LabelsReport:
    """Segment every volume with both sessions; Dice of the candidate's labels, the reference's being the truth.

    On the network's grid. Raises NothingToVerify (VER103), what the loop raises (ENG304, ENG305), and what reading
    the volumes raises (VOL, CAL).
    """
    (spec,) = engine.inputs.values()

    def labelled() -> Iterator[tuple[str, Array, Array]]:
        for case in cases:
            volume = case.placed.array
            yield case.id, volume, segment(reference, volume, spec.shape, engine.sliding, progress=progress).labels

    return compare_with_labels(candidate, labelled(), engine, at_least, progress=progress)


def compare_with_labels(
    candidate: Session,
    labelled: Iterable[tuple[str, Array, Array]],
    engine: Engine,
    at_least: float,
    *,
    progress: Progress = QUIET,
) -> LabelsReport:
    """The same, against labels that the reference gave earlier. ``labelled``: id, [D, H, W] volume, its labels.

    Raises NothingToVerify (VER103), and what the loop raises (ENG304, ENG305).
    """
    (spec,) = engine.inputs.values()
    rows = []
    for name, volume, expected in labelled:
        found = segment(candidate, volume, spec.shape, engine.sliding, progress=progress).labels
        names = class_names(engine, int(max(expected.max(), found.max())) + 1)
        scores = dice(found, expected, len(names))
        rows.append(LabelsRow(name, dict(zip(names[1:], scores, strict=True)), mean(scores)))
    if not rows:
        raise NothingToVerify("there is nothing to compare", why="the set is empty", next="give at least one volume")
    return LabelsReport(mean([row.mean for row in rows]), at_least, tuple(rows))


def class_names(engine: Engine, classes: int) -> tuple[str, ...]:
    """What the recipe calls the classes, `class 3` and so on beyond that; the first is the background."""
    named = engine.sliding.classes or ("background",)
    return (*named, *(f"class {number}" for number in range(len(named), classes)))
