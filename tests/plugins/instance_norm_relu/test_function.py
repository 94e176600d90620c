"""The meaning, in onnxruntime, against float64 and integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from tests.plugins.functions import evaluated, inferred_shape
from trtforge.plugins.instance_norm_relu.function import instance_norm_relu, instance_norm_relu_int8

SHAPES = [(2, 3, 7), (2, 3, 5, 6), (3, 4, 2, 5, 6)]
INT8 = {"epsilon": 1e-5, "input_scale": 0.04, "output_scale": 0.05}


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_float_of_any_rank(shape: tuple[int, ...], dynamic: bool) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(2, 3, shape).astype(np.float32)
    scale, bias = rng.normal(size=(2, shape[1])).astype(np.float32)
    function = instance_norm_relu()
    got = evaluated(function, x, scale, bias, dynamic=dynamic, epsilon=1e-3)
    axes, column = tuple(range(2, len(shape))), (1, -1, *[1] * (len(shape) - 2))
    wide = x.astype(np.float64)
    normal = (wide - wide.mean(axes, keepdims=True)) / np.sqrt(wide.var(axes, keepdims=True) + 1e-3)
    assert np.allclose(got, np.maximum(normal * scale.reshape(column) + bias.reshape(column), 0), atol=1e-5)
    inferred = inferred_shape(function, x, scale, bias, dynamic=dynamic, epsilon=1e-3)
    assert inferred == ["N" if dynamic else shape[0], *shape[1:]]


def test_float16_is_run() -> None:
    x = np.random.default_rng(0).normal(size=(1, 2, 3, 4, 5)).astype(np.float16)
    got = evaluated(instance_norm_relu(), x, np.ones(2, np.float16), np.zeros(2, np.float16), epsilon=1e-5)
    assert got.dtype == np.float16
    assert (got > 0).mean() == pytest.approx((x > x.mean((2, 3, 4), keepdims=True)).mean(), abs=0.05)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_int8_statistics_are_exact(shape: tuple[int, ...], dynamic: bool) -> None:
    """Against rational numbers: nothing but the last steps is rounded, so the result is theirs to half a step."""
    rng = np.random.default_rng(1)
    x = rng.integers(-128, 128, shape).astype(np.int8)
    scale, bias = rng.normal(size=(2, shape[1])).astype(np.float32)
    got = evaluated(instance_norm_relu_int8(), x, scale, bias, dynamic=dynamic, **INT8)
    assert got.dtype == np.int8
    assert got.shape == shape
    from_scale, to_scale, eps = (float(np.float32(INT8[name])) for name in ("input_scale", "output_scale", "epsilon"))
    for n, c in np.ndindex(shape[:2]):
        values = [int(value) for value in x[n, c].flat]
        mean = Fraction(sum(values), len(values))
        variance = Fraction(sum(value * value for value in values), len(values)) - mean * mean
        deviation = np.sqrt(from_scale**2 * float(variance) + eps)
        for value, y in zip(values, got[n, c].flat, strict=True):
            real = float(value - mean) * from_scale / deviation * float(scale[c]) + float(bias[c])
            assert abs(min(max(real / to_scale, 0), 127) - int(y)) <= 0.5 + 1e-4


def test_int8_of_a_constant_channel_is_its_bias() -> None:
    x = np.full((1, 3, 4, 5, 6), -77, np.int8)
    bias = np.array([0.5, -1, 100], np.float32)
    got = evaluated(instance_norm_relu_int8(), x, np.ones(3, np.float32), bias, **INT8)
    assert got[0, :, 0, 0, 0].tolist() == [10, 0, 127]
    assert (got == got[:, :, :1, :1, :1]).all()


def test_int8_shape_is_inferred() -> None:
    x, vector = np.zeros((2, 3, 4, 5, 6), np.int8), np.ones(3, np.float32)
    for dynamic, batch in ((False, 2), (True, "N")):
        shape = inferred_shape(instance_norm_relu_int8(), x, vector, vector, dynamic=dynamic, **INT8)
        assert shape == [batch, 3, 4, 5, 6]
