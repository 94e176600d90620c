"""What a report is about: a scan, the labels of it, and the figures beside them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge.evaluate.amounts import millilitres, voxel_millilitres

Array = np.ndarray[Any, Any]

TRUTH, PREDICTION, REFERENCE = "truth", "prediction", "FP32"
"""What the three sets of labels are called in a report, and in the keys of ``SegmentedCase.dice``."""


@dataclass(frozen=True, eq=False)
class SegmentedCase:
    """A scan and its segmentations, all on the file's grid and in the file's order of axes.

    Args:
        name: of the case, as a person would say it.
        scan: [I, J, K], any integer or float dtype, in the unit of ``window``; NaN and infinity are allowed.
        affine: [4, 4], voxel -> RAS mm, as in the file; oblique ones too.
        prediction: [I, J, K] uint8, what the engine said: indices into ``classes``.
        truth: the same from people, where there is one.
        reference: the same from the FP32 model, to hold an INT8 engine against.
        classes: names by label; label 0 is background.
        window: the values shown black and white, the first below the second; HU for CT.
        facts: what else is worth knowing, in the order shown: engine, precision, backend, time.
        dice: by what was compared with (`truth`, `FP32`), then by class name; NaN where a class is in neither.

    Raises ValueError when these do not fit each other.
    """

    name: str
    scan: Array
    affine: Array
    prediction: Array
    truth: Array | None
    reference: Array | None
    classes: tuple[str, ...]
    window: tuple[float, float]
    facts: Mapping[str, str]
    dice: Mapping[str, Mapping[str, float]]

    def __post_init__(self) -> None:
        if self.scan.ndim != 3 or self.scan.size == 0 or self.scan.dtype.kind not in "iuf":
            raise ValueError(f"a scan is a volume of numbers, not {self.scan.dtype} {list(self.scan.shape)}")
        if self.affine.shape != (4, 4) or not np.isfinite(self.affine).all() or voxel_millilitres(self.affine) == 0:
            raise ValueError("the affine is no invertible 4x4 matrix")
        low, high = self.window
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"a grey window goes from a lower to a higher value, not from {low:g} to {high:g}")
        for name, labels in self.labels.items():
            if labels.shape != self.scan.shape or labels.dtype != np.uint8:
                raise ValueError(
                    f"{name} is {labels.dtype} {list(labels.shape)}, not uint8 {list(self.scan.shape)} as the scan"
                )
            if (largest := int(labels.max())) >= len(self.classes):
                raise ValueError(f"{name} has label {largest}, but there are {len(self.classes)} classes")

    @property
    def labels(self) -> dict[str, Array]:
        """The sets of labels that there are, by their names in a report."""
        sets = {TRUTH: self.truth, PREDICTION: self.prediction, REFERENCE: self.reference}
        return {name: labels for name, labels in sets.items() if labels is not None}


@dataclass(frozen=True)
class Row:
    """One line of the table: a class, or another name that Dice was given for. None: there is no such figure."""

    name: str
    label: int | None
    dice: tuple[float | None, ...]
    millilitres: tuple[float | None, ...]


@dataclass(frozen=True)
class Table:
    """Dice by what was compared with, and volumes by the set of labels; one row a class, background left out."""

    compared_with: tuple[str, ...]
    volumes_of: tuple[str, ...]
    rows: tuple[Row, ...]


def table(case: SegmentedCase) -> Table:
    volumes = volumes_ml(case)
    return Table(tuple(case.dice), tuple(volumes), tuple(_rows(case, volumes)))


def _rows(case: SegmentedCase, volumes: Mapping[str, Mapping[str, float]]) -> Iterator[Row]:
    def dice(name: str) -> tuple[float | None, ...]:
        values = [scores.get(name, math.nan) for scores in case.dice.values()]
        return tuple(None if math.isnan(value) else value for value in values)

    for label, name in enumerate(case.classes[1:], start=1):
        yield Row(name, label, dice(name), tuple(volume[name] for volume in volumes.values()))
    others = dict.fromkeys(name for scores in case.dice.values() for name in scores if name not in case.classes)
    for name in others:  # a mean, or a group of classes
        yield Row(name, None, dice(name), (None,) * len(volumes))


def volumes_ml(case: SegmentedCase) -> dict[str, dict[str, float]]:
    """ml of every class but the background, by set of labels, then by class name."""
    return {name: millilitres(labels, case.classes, case.affine) for name, labels in case.labels.items()}


def dice_text(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def millilitres_text(value: float | None) -> str:
    if value is None:
        return "–"
    if 0 < value < 0.05:
        return "<0.1"
    return f"{value:.1f}" if value < 1000 else f"{value:.0f}"
