"""Integer biases: the unit of an accumulator is the product of two scales, and a bias must be a whole number of them.

For a channel whose weights are zero, or next to nothing, that unit is arbitrary: far too coarse for its bias, or so
fine that the bias does not fit an int32. Such channels are common in trained networks (dead filters) and carry their
bias alone, so the weight's scale is chosen by the bias there.
"""

from __future__ import annotations

from typing import Any

import numpy as np

LIMIT = float(2**30)
"""Largest |bias| in units. The other half of int32 is left to the products: 255 * 127 of over 30,000 terms fit."""

_ROOM = float(2**29)
_SMALLEST = 1e-20
"""A scale for channels of zeros that stays a normal float32 when it is multiplied by another."""

Array = np.ndarray[Any, Any]


def units(activation_scale: Array, weight_scale: Array) -> Array:
    """The unit of each channel's accumulator, float32 [channels] or [1], as the kernels compute it."""
    return np.asarray(activation_scale * weight_scale, np.float32).reshape(-1)


def as_integers(bias: Array, unit: Array) -> Array | None:
    """The bias in units, int32, off by half a unit at most; None when it does not fit."""
    if bias.ndim != 1 or unit.size not in (1, bias.size) or not (unit > 0).all():
        return None
    integers = np.rint(bias.astype(np.float64) / unit)
    return integers.astype(np.int32) if np.abs(integers).max(initial=0) <= LIMIT else None


def least_weight_scale(bias: Array, activation_scale: Array) -> Array:
    """[channels]: with a smaller weight scale the bias would not fit."""
    return np.abs(bias.astype(np.float64)) / (float(activation_scale.reshape(())) * _ROOM)


def with_room(integers: Array, zero: Array, scale: Array, least: Array, axis: int) -> tuple[Array, Array] | None:
    """(weight integers, scales) of the same weight with room for its bias; None when there is enough.

    Args:
        integers, zero, scale, axis: the weight as it is; ``scale`` and ``zero`` have shape [channels].
        least: from :func:`least_weight_scale`. Channels of zeros get it exactly: any scale suits them, and with this
            one the bias keeps all its bits. Others only ever get a larger scale.
    """
    others = tuple(position for position in range(integers.ndim) if position != axis)
    shape = [-1 if position == axis else 1 for position in range(integers.ndim)]
    centred = integers.astype(np.int32) - zero.astype(np.int32).reshape(shape)
    dead = ~centred.any(axis=others) & (least > 0)
    chosen = np.where(dead, np.maximum(least, _SMALLEST), np.maximum(scale, least)).astype(np.float32)
    if (chosen == scale).all():
        return None
    ratio = (scale.astype(np.float64) / chosen).reshape(shape)
    rescaled = np.where(ratio == 1, centred, np.rint(centred * np.minimum(ratio, 1)))
    return (rescaled + zero.astype(np.int32).reshape(shape)).astype(integers.dtype), chosen
