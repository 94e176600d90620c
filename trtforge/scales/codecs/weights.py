"""Symmetric INT8 weights: per channel, [-127, 127], round half to even."""

from __future__ import annotations

from typing import Any

import numpy as np

from trtforge.scales.table import SMALLEST_SCALE

Floats = np.ndarray[Any, np.dtype[np.float32]]
Int8s = np.ndarray[Any, np.dtype[np.int8]]


def channel_scales(weight: Floats, axis: int | None) -> Floats:
    """max|w| / 127 of each channel along ``axis``, shape [channels]; of the whole tensor (shape []) without an axis.

    A channel of zeros gets scale 1. NaN and Inf in the weight come back as a scale that is not finite.
    """
    others = None if axis is None else tuple(dim for dim in range(weight.ndim) if dim != axis)
    # max and min in place of abs: no copy of the weight.
    largest = np.maximum(weight.max(axis=others, initial=0.0), -weight.min(axis=others, initial=0.0))
    scales = np.asarray(np.asarray(largest, np.float64) / 127.0, np.float32)
    return np.where(scales < SMALLEST_SCALE, np.float32(1.0), scales)


def quantize(weight: Floats, scales: Floats, axis: int | None) -> Int8s:
    """clip(round(w / scale), -127, 127). -128 is left out: the range is symmetric, as TensorRT's own weights are."""
    steps: Floats = weight / along(scales, axis, weight.ndim)
    np.rint(steps, out=steps)
    np.clip(steps, -127.0, 127.0, out=steps)
    quantized: Int8s = steps.astype(np.int8)
    return quantized


def along(per_channel: np.ndarray[Any, Any], axis: int | None, rank: int) -> np.ndarray[Any, Any]:
    """Values of shape [channels] (or a scalar) in a shape that broadcasts along ``axis`` of a tensor of ``rank``."""
    if axis is None or per_channel.ndim == 0:
        return per_channel.reshape(())
    shape = [1] * rank
    shape[axis] = per_channel.size
    return per_channel.reshape(shape)
