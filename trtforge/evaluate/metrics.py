"""How alike two outputs are. Every function takes arrays of equal shape and computes in float64."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from trtforge.backends.sqnr import Sqnr

Array = np.ndarray[Any, Any]


def cosine(reference: Array, candidate: Array) -> float:
    """<r, c> / (|r| |c|) over all values, in [-1, 1].

    Two zero vectors are equal, hence 1; a zero vector against another is 0. NaN when any value is NaN or infinite.
    """
    r, c = _flat(reference, candidate)
    # Scaled by the largest magnitude first: squares of float32 extremes would leave even float64 inaccurate.
    largest_r, largest_c = np.abs(r).max(initial=0.0), np.abs(c).max(initial=0.0)
    if not (np.isfinite(largest_r) and np.isfinite(largest_c)):
        return math.nan
    if largest_r == 0 or largest_c == 0:
        return 1.0 if largest_r == largest_c else 0.0
    r, c = r / largest_r, c / largest_c
    value = float(r @ c) / math.sqrt(float(r @ r) * float(c @ c))
    return max(-1.0, min(1.0, value))


def sqnr_db(reference: Array, candidate: Array) -> float:
    """Signal to quantization noise, 10 log10(sum r^2 / sum (r - c)^2), in dB.

    inf when there is no difference, -inf for any difference from an all-zero reference, NaN when any value is NaN.
    """
    total = Sqnr()
    total.add(reference, candidate)
    return total.db


def top1(reference: Array, candidate: Array) -> float:
    """Fraction of positions at which the largest class is the same, in [0, 1].

    Classes are on axis 1 (batch, classes, ...), on axis 0 of a vector. Integer arrays hold decisions already: then it
    is the fraction of equal values. Of equal scores the first counts. NaN when a score is NaN, or there is none.
    """
    _check_shapes(reference, candidate)
    if reference.size == 0:
        return math.nan
    if np.issubdtype(reference.dtype, np.integer) or reference.dtype == np.bool_ or reference.ndim == 0:
        return float(np.mean(reference == candidate))
    if np.isnan(reference).any() or np.isnan(candidate).any():
        return math.nan
    axis = 1 if reference.ndim > 1 else 0
    return float(np.mean(reference.argmax(axis) == candidate.argmax(axis)))


def max_abs_error(reference: Array, candidate: Array) -> float:
    """max |r - c|; 0 for empty arrays, NaN when any value is NaN or both hold the same infinity."""
    r, c = _flat(reference, candidate)
    with np.errstate(invalid="ignore"):  # inf - inf is the NaN that the docstring promises
        return float(np.abs(r - c).max(initial=0.0))


def _flat(reference: Array, candidate: Array) -> tuple[Array, Array]:
    _check_shapes(reference, candidate)
    return np.asarray(reference, np.float64).ravel(), np.asarray(candidate, np.float64).ravel()


def _check_shapes(reference: Array, candidate: Array) -> None:
    if reference.shape != candidate.shape:
        raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
