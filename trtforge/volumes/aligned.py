"""Arrays that begin on a cache line: rows of a window are whole lines then, and copying them takes two thirds."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

LINE = 64
"""Bytes."""


def empty(shape: tuple[int, ...], dtype: DTypeLike) -> np.ndarray[Any, Any]:
    """Uninitialised, C-contiguous, aligned to LINE bytes. `numpy.empty` gives 16 beyond a page for large arrays."""
    kind = np.dtype(dtype)
    size = prod(shape) * kind.itemsize
    memory = np.empty(size + LINE, np.uint8)
    start = -memory.ctypes.data % LINE
    return memory[start : start + size].view(kind).reshape(shape)
