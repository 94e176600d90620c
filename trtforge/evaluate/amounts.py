"""How much of each class a label volume holds, in millilitres."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_CHUNK = 1 << 20
"""Voxels counted at once: `bincount` makes eight bytes of each."""


def millilitres(labels: Array, classes: Sequence[str], affine: Array) -> dict[str, float]:
    """Volume of every class but the background: voxels times the volume of one, by the affine (voxel -> mm).

    Args:
        labels: uint8, indices into ``classes``.
        classes: names by label.
        affine: [4, 4]; oblique ones too.
    """
    counts = np.zeros(len(classes), np.int64)
    flat = labels.ravel(order="K")  # in the order of memory, hence no copy
    for start in range(0, flat.size, _CHUNK):
        counts += np.bincount(flat[start : start + _CHUNK], minlength=len(classes))
    each = voxel_millilitres(affine)
    return {name: int(count) * each for name, count in zip(classes[1:], counts[1:], strict=True)}


def voxel_millilitres(affine: Array) -> float:
    return abs(float(np.linalg.det(np.asarray(affine, np.float64)[:3, :3]))) / 1000
