"""The meaning, in onnxruntime, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import TensorProto

from tests.plugins.functions import evaluated, inferred_shape
from trtforge.plugins.conv3d_small.function import conv3d_small, conv3d_small_int8, conv3d_small_int8_to_float

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def convolution(x: Array, w: Array, pad: int, stride: int) -> Array:
    """[N, O, D', H', W'] by summing shifted volumes, in x's own type."""
    x = np.pad(x, [(0, 0), (0, 0), *[(pad, pad)] * 3])
    size = [(length - kernel) // stride + 1 for length, kernel in zip(x.shape[2:], w.shape[2:], strict=True)]
    y = np.zeros((len(x), len(w), *size), x.dtype)
    for tap in np.ndindex(*w.shape[2:]):
        there = tuple(slice(at, at + stride * length, stride) for at, length in zip(tap, size, strict=True))
        y += np.einsum("nc...,oc->no...", x[(slice(None), slice(None), *there)], w[(slice(None), slice(None), *tap)])
    return y


@pytest.fixture(params=[(1, 1, 3), (1, 2, 3), (0, 1, 1)], ids=["first", "first by 2", "last"])
def case(request: pytest.FixtureRequest) -> dict[str, Any]:
    pad, stride, kernel = request.param
    x, w = (RNG.integers(-128, 128, shape) for shape in ((2, 3, 4, 5, 6), (7, 3, kernel, kernel, kernel)))
    return {"x": x, "w": w, "pad": pad, "stride": stride, "acc": convolution(x, w, pad, stride)}


def attributes(case: dict[str, Any]) -> dict[str, Any]:
    return {"pads": [case["pad"]] * 6, "strides": [case["stride"]] * 3}


@pytest.mark.parametrize("dynamic", [False, True])
def test_float(case: dict[str, Any], dynamic: bool) -> None:
    b = RNG.normal(size=7).astype(np.float32)
    inputs = (case["x"].astype(np.float32), case["w"].astype(np.float32), b)
    got = evaluated(conv3d_small(), *inputs, dynamic=dynamic, **attributes(case))
    assert np.allclose(got, case["acc"] + b.reshape(7, 1, 1, 1), rtol=1e-6)
    shape = inferred_shape(conv3d_small(), *inputs, dynamic=False, **attributes(case))
    assert shape == list(case["acc"].shape)


@pytest.mark.parametrize("dynamic", [False, True])
def test_int8(case: dict[str, Any], dynamic: bool) -> None:
    multiplier = np.linspace(-0.01, 0.02, 7).astype(np.float32)
    offset = np.linspace(5, -40, 7).astype(np.float32)
    inputs = (case["x"].astype(np.int8), case["w"].astype(np.int8), multiplier, offset)
    got = evaluated(conv3d_small_int8(), *inputs, dynamic=dynamic, **attributes(case))
    real = case["acc"].astype(np.float32) * multiplier.reshape(7, 1, 1, 1) + offset.reshape(7, 1, 1, 1)
    assert got.dtype == np.int8
    assert np.array_equal(got, np.clip(np.rint(real), -128, 127))
    shape = inferred_shape(conv3d_small_int8(), *inputs, dynamic=False, **attributes(case))
    assert shape == list(case["acc"].shape)


@pytest.mark.parametrize(("to", "dtype"), [(TensorProto.FLOAT, np.float32), (TensorProto.FLOAT16, np.float16)])
def test_int8_to_float(case: dict[str, Any], to: int, dtype: Any) -> None:
    multiplier, offset = RNG.normal(size=(2, 7)).astype(np.float32)
    inputs = (case["x"].astype(np.int8), case["w"].astype(np.int8), multiplier, offset)
    got = evaluated(conv3d_small_int8_to_float(), *inputs, to=int(to), **attributes(case))
    real = case["acc"].astype(np.float32) * multiplier.reshape(7, 1, 1, 1) + offset.reshape(7, 1, 1, 1)
    assert got.dtype == dtype
    with np.errstate(over="ignore"):
        assert np.array_equal(got, real.astype(dtype))
