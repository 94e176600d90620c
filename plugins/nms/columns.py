"""A column of a tensor of boxes: a constant and multiples of predictions and of their exponentials, for each box."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from trtforge.surgery.rules import Array

Factor = float | Array
"""One number for all boxes, or float64 [P]."""

Key = TypeVar("Key", bound=Hashable)


class Unknown(Exception):
    """Not of that form."""


@dataclass(frozen=True)
class Column:
    """``linear``: factor by column of the predictions. ``exponential``: by (column, s), that of exp(s * prediction)."""

    constant: Factor
    linear: Mapping[int, Factor]
    exponential: Mapping[tuple[int, float], Factor]


def constant(value: Factor) -> Column:
    return Column(value, {}, {})


def add(one: Column, other: Column) -> Column:
    return Column(
        one.constant + other.constant,
        _merged(one.linear, other.linear),
        _merged(one.exponential, other.exponential),
    )


def scaled(column: Column, factor: Factor) -> Column:
    return Column(
        column.constant * factor,
        {key: value * factor for key, value in column.linear.items()},
        {key: value * factor for key, value in column.exponential.items()},
    )


def exponential(column: Column) -> Column:
    """exp(constant + s * loc). Raises Unknown for more than one prediction, or a factor that differs between boxes."""
    if column.exponential or len(column.linear) != 1:
        raise Unknown
    ((index, factor),) = column.linear.items()
    rates = np.atleast_1d(np.asarray(factor))
    if not np.allclose(rates, rates[0], rtol=1e-6, atol=0):
        raise Unknown
    rate = float(rates.mean())
    scale = np.exp(np.asarray(column.constant))
    return Column(0.0, {}, {(index, rate): scale if scale.ndim else float(scale)})


def _merged(one: Mapping[Key, Factor], other: Mapping[Key, Factor]) -> dict[Key, Factor]:
    """Sums by key; what cancels out goes."""
    total = {key: one.get(key, 0.0) + other.get(key, 0.0) for key in (*one, *other)}
    return {key: value for key, value in total.items() if np.any(np.abs(value) > 1e-12)}
