"""Dice: how far two label volumes cover the same voxels, class by class, as MLPerf's KiTS19 accuracy defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Labels = np.ndarray[Any, np.dtype[np.uint8]]

SMOOTH = 1e-6
"""Added above and below, so that a class that both lack has Dice 1."""


def dice(found: Labels, truth: Labels, classes: int) -> tuple[float, ...]:
    """(2 |F and T| + SMOOTH) / (|F| + |T| + SMOOTH) of the labels 1 to ``classes`` - 1, each by itself.

    The mean over them is MLPerf's composite score of a case. Raises ValueError for labels beyond the classes.
    """
    table = confusion(found, truth, classes).astype(np.float64)
    both, in_found, in_truth = table.diagonal(), table.sum(axis=0), table.sum(axis=1)
    scores = (2 * both + SMOOTH) / (in_found + in_truth + SMOOTH)
    return tuple(float(score) for score in scores[1:])


def confusion(found: Labels, truth: Labels, classes: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Voxels of each true label (rows) that were given each label (columns), int64 [classes, classes]."""
    if found.shape != truth.shape:
        raise ValueError(f"shapes differ: {found.shape} and {truth.shape}")
    table = np.zeros((classes, classes), np.int64)
    for some_found, some_truth in zip(found, truth, strict=True):  # a plane at a time: the pairs take eight bytes each
        largest = max(int(some_found.max(initial=0)), int(some_truth.max(initial=0)))
        if largest >= classes:
            raise ValueError(f"label {largest} is none of {classes} classes")
        pairs = some_truth.astype(np.intp) * classes + some_found
        table += np.bincount(pairs.ravel(), minlength=classes * classes).reshape(classes, classes)
    return table


def mean(scores: Sequence[float]) -> float:
    """The composite score; 1 for a network that knows no class but the background."""
    return sum(scores) / len(scores) if scores else 1.0
