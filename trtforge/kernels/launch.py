"""How a kernel is launched: what a TensorRT plugin's `enqueue` and the tests need to know, as data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

Shape = tuple[int, ...]
Grid = tuple[int, int, int]
Argument = str | np.generic
"""A tensor or a piece of workspace by name (its address is passed), or a scalar of the kernel's own type."""


@dataclass(frozen=True)
class Launch:
    """One launch. ``grid`` and ``block`` are x first."""

    kernel: str
    grid: Grid
    block: Grid
    arguments: tuple[Argument, ...]


def ints(*values: int) -> tuple[np.int32, ...]:
    """Kernel arguments of type `int`."""
    return tuple(np.int32(value) for value in values)


def ceil_div(size: int, by: int) -> int:
    return -(-size // by)
