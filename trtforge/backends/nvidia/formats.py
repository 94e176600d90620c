"""TensorRT's memory formats: an array in the plain order to the bytes an engine takes, and back.

Source: the documentation of `TensorFormat` in NVIDIA's bindings of 10.16. Vectors of channels are filled up with zeros,
and so are rows of the DLA's formats, whose ends must lie on multiples of 64 or 32 bytes.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

_VECTORS = {"chw2": 2, "chw4": 4, "chw16": 16, "chw32": 32, "cdhw32": 32}
"""Channels in groups, the group innermost: [N, C/v, ..., v]."""

_LAST = {"hwc": 1, "hwc8": 8, "hwc16": 16, "dhwc": 1, "dhwc8": 8}
"""Channels last, their number rounded up: [N, ..., C]."""


def packed(array: Array, format: str) -> Array:
    """[N, C, ...] in the plain order to the engine's, C-contiguous. Raises ValueError for a format or rank unknown."""
    if format == "linear":
        return np.ascontiguousarray(array)
    _check_rank(array.shape, format)
    if format in _VECTORS:
        width = _VECTORS[format]
        full = _padded(array, 1, width)
        batch, channels, *rest = full.shape
        return np.ascontiguousarray(np.moveaxis(full.reshape(batch, channels // width, width, *rest), 2, -1))
    if format in _LAST:
        return np.ascontiguousarray(np.moveaxis(_padded(array, 1, _LAST[format]), 1, -1))
    if format == "dla_linear":
        return np.ascontiguousarray(_padded(array, -1, 64 // array.itemsize))
    last = np.moveaxis(_padded(array, 1, _hwc4_channels(array.shape)), 1, -1)
    return np.ascontiguousarray(_padded(last, -2, max(1, 32 // last.shape[-1] // array.itemsize)))


def unpacked(array: Array, format: str, shape: tuple[int, ...]) -> Array:
    """What `packed` made of an array of ``shape``, back in the plain order."""
    if format == "linear":
        return array.reshape(shape)
    if format in _VECTORS:
        grouped = np.moveaxis(array.reshape(packed_shape(shape, format, array.itemsize)), -1, 2)
        batch, groups, width, *rest = grouped.shape
        plain = grouped.reshape(batch, groups * width, *rest)[:, : shape[1]]
    elif format == "dla_linear":
        plain = array.reshape(packed_shape(shape, format, array.itemsize))[..., : shape[-1]]
    else:
        last = array.reshape(packed_shape(shape, format, array.itemsize))
        plain = np.moveaxis(last[..., : shape[-1], : shape[1]], -1, 1)
    return np.ascontiguousarray(plain)


def packed_shape(shape: tuple[int, ...], format: str, itemsize: int) -> tuple[int, ...]:
    """Shape of `packed`'s result for an array of ``shape`` and element size in bytes."""
    if format == "linear":
        return shape
    _check_rank(shape, format)
    batch, channels, *rest = shape
    if format in _VECTORS:
        return (batch, -(-channels // _VECTORS[format]), *rest, _VECTORS[format])
    if format in _LAST:
        return (batch, *rest, _up(channels, _LAST[format]))
    if format == "dla_linear":
        return (batch, channels, *rest[:-1], _up(rest[-1], 64 // itemsize))
    wide = _hwc4_channels(shape)
    return (batch, *rest[:-1], _up(rest[-1], max(1, 32 // wide // itemsize)), wide)


def _check_rank(shape: tuple[int, ...], format: str) -> None:
    if format not in (*_VECTORS, *_LAST, "dla_linear", "dla_hwc4"):
        raise ValueError(f"{format} is no memory format that is known here")
    least = 5 if format in ("cdhw32", "dhwc", "dhwc8") else 4
    if len(shape) < least:
        raise ValueError(f"{format} needs {least} axes or more; the tensor is {list(shape)}")


def _hwc4_channels(shape: tuple[int, ...]) -> int:
    if shape[1] not in (1, 3, 4):
        raise ValueError(f"dla_hwc4 takes 1, 3 or 4 channels; the tensor is {list(shape)}")
    return 1 if shape[1] == 1 else 4


def _padded(array: Array, axis: int, multiple: int) -> Array:
    more = _up(array.shape[axis], multiple) - array.shape[axis]
    if not more:
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, more)
    return np.pad(array, widths)


def _up(size: int, multiple: int) -> int:
    return -(-size // multiple) * multiple
