"""The kernels, compiled for this CPU, against the ONNX functions in onnxruntime."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins import on_host
from tests.plugins.functions import cdhw32, evaluated, linear
from trtforge.plugins.instance_norm_relu import launch
from trtforge.plugins.instance_norm_relu.function import instance_norm_relu, instance_norm_relu_int8
from trtforge.plugins.instance_norm_relu.plugin import KINDS

Array = np.ndarray[Any, Any]
SIZES = [(8, 16, 32), (16, 16, 16), (7, 5, 11), (1, 1, 1), (1, 1, 2), (4, 4, 4), (13, 33, 31), (3, 64, 70)]
EPSILON = 1e-5
FLOAT, _ = KINDS


def parameters(channels: int, rng: np.random.Generator) -> tuple[Array, Array]:
    return (rng.normal(1, 0.5, channels).astype(np.float32), rng.normal(0, 0.5, channels).astype(np.float32))


def exact(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """The meaning in float64."""
    values, shape = x.astype(np.float64), (1, -1, 1, 1, 1)
    mean, variance = (f(values, axis=(2, 3, 4), keepdims=True) for f in (np.mean, np.var))
    y = (values - mean) / np.sqrt(variance + epsilon) * scale.reshape(shape) + bias.reshape(shape)
    return np.maximum(y, 0)


def bound(x: Array, scale: Array, bias: Array) -> Array:
    """Rounding errors of float32 that README.md allows: of x - mean, of the product and of the sum."""
    mean = np.abs(x.astype(np.float64).mean((2, 3, 4), keepdims=True))
    gain = np.abs(scale.reshape(1, -1, 1, 1, 1)) / np.sqrt(x.astype(np.float64).var((2, 3, 4), keepdims=True) + EPSILON)
    centred = np.abs(x - x.astype(np.float64).mean((2, 3, 4), keepdims=True))
    return 2.0**-24 * (gain * (mean + 12 * centred) + 4 * np.abs(bias.reshape(1, -1, 1, 1, 1))) + 1e-12


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("batch", [1, 2, 3])
def test_float32_is_within_roundings_of_float64(normalized: Any, size: tuple[int, ...], batch: int) -> None:
    rng = np.random.default_rng(batch)
    x = (rng.normal(0, 3, (batch, 3, *size)) + np.array([0, 50, -1000]).reshape(1, 3, 1, 1, 1)).astype(np.float32)
    scale, bias = parameters(3, rng)
    got = normalized(x, scale, bias, EPSILON)
    assert (np.abs(got - exact(x, scale, bias, EPSILON)) <= bound(x, scale, bias)).all()


@pytest.mark.parametrize("size", [(8, 16, 32), (13, 33, 31)])
def test_float32_is_as_near_to_onnxruntime_as_stated(normalized: Any, size: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(1, 2, (2, 3, *size)).astype(np.float32)
    scale, bias = parameters(3, rng)
    want = evaluated(instance_norm_relu(), x, scale, bias, epsilon=EPSILON)
    assert np.abs(normalized(x, scale, bias, EPSILON) - want).max() <= 4e-6


@pytest.mark.parametrize("size", SIZES)
def test_float16_is_float64_rounded(normalized: Any, size: tuple[int, ...]) -> None:
    """Off by one unit in the last place where float32 crosses the middle between two float16."""
    rng = np.random.default_rng(2)
    x = rng.normal(1, 2, (2, 4, *size)).astype(np.float16)
    scale, bias = parameters(4, rng)
    got = normalized(x, scale, bias, EPSILON)
    want = exact(x, scale, bias, EPSILON).astype(np.float16)
    assert got.dtype == np.float16
    apart = np.abs(got.view(np.int16).astype(int) - want.view(np.int16).astype(int))
    assert apart.max() <= 1
    assert (apart == 1).mean() < 0.01


@pytest.mark.parametrize("size", [(8, 16, 32), (13, 33, 31), (1, 1, 2)])
def test_float16_is_the_function_of_a_float16_graph(normalized: Any, size: tuple[int, ...]) -> None:
    """Its scale and bias are float16; the kernel gets the same values in float32. They are a unit of float16 apart at
    most, beside what onnxruntime's float32 sums are off."""
    rng = np.random.default_rng(8)
    x = rng.normal(-1, 3, (2, 4, *size)).astype(np.float16)
    scale, bias = (each.astype(np.float16) for each in parameters(4, rng))
    want = evaluated(instance_norm_relu(), x, scale, bias, epsilon=EPSILON)
    got = normalized(x, *FLOAT.compile_weights([scale, bias], {}), EPSILON)
    assert got.dtype == want.dtype == np.float16
    apart = np.abs(got.astype(np.float32) - want.astype(np.float32))
    assert (apart <= np.spacing(np.maximum(got, want)).astype(np.float32) + 4e-6).all()
    assert (apart > 4e-6).mean() < 0.01


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_memory_that_begins_anywhere_gives_the_same_bits(normalized: Any, dtype: str) -> None:
    rng = np.random.default_rng(3)
    x = rng.normal(0, 1, (2, 3, 13, 9, 16)).astype(dtype)
    scale, bias = parameters(3, rng)
    aligned, shifted = (normalized(x, scale, bias, EPSILON, offset=offset) for offset in (0, 8))
    assert aligned.tobytes() == shifted.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("value", [0.0, 1.0, -2.2, 1000.1, 30000.0])
def test_a_constant_channel_becomes_its_bias(normalized: Any, dtype: str, value: float) -> None:
    x = np.full((1, 2, 6, 30, 31), value, dtype)
    scale, bias = np.array([2, -3], np.float32), np.array([0.75, -0.5], np.float32)
    got = normalized(x, scale, bias, EPSILON)
    assert (got[:, 0] == np.float32(0.75)).all()
    assert (got[:, 1] == 0).all()


def test_a_constant_channel_of_large_values_has_no_negative_variance(normalized: Any) -> None:
    """Rounding makes squares / n - mean * mean of the first two -0.03 and -0.016, which no epsilon covers."""
    x = np.zeros((1, 3, 5, 7, 11), np.float32)
    x += np.array([14376979, 11664082, -14376979], np.float32).reshape(1, 3, 1, 1, 1)
    got = normalized(x, np.ones(3, np.float32), np.full(3, 0.75, np.float32), EPSILON)
    assert (got == np.float32(0.75)).all()


def test_a_lone_outlier_and_a_large_mean_do_not_hide_the_variance(normalized: Any) -> None:
    rng = np.random.default_rng(4)
    x = rng.normal(0, 1, (1, 2, 16, 32, 33)).astype(np.float32)
    x[0, 0] += 30000
    x[0, 1, 0, 0, 0] = 10000
    scale, bias = np.ones(2, np.float32), np.full(2, 5, np.float32)
    got, want = normalized(x, scale, bias, EPSILON), exact(x, scale, bias, EPSILON)
    assert np.abs(got - want).max() < 2e-3  # 30000 has steps of 0.002
    assert np.abs(got[0, 1] - want[0, 1]).max() < 1e-4


@pytest.mark.parametrize(("dtype", "largest"), [("float32", 1e17), ("float16", 65504), ("float32", 1e-30)])
def test_extreme_values(normalized: Any, dtype: str, largest: float) -> None:
    x = (np.random.default_rng(7).uniform(-1, 1, (1, 2, 8, 33, 32)) * largest).astype(dtype)
    x[0, 0, 0, 0, :2] = largest, -largest
    scale, bias = np.array([1, -2], np.float32), np.array([0.5, 2], np.float32)
    want = exact(x, scale, bias, EPSILON)
    assert np.abs(normalized(x, scale, bias, EPSILON) - want).max() <= (4e-6 if dtype == "float32" else 2e-3)


def test_nan_stays_in_its_channel(normalized: Any) -> None:
    x = np.random.default_rng(5).normal(size=(1, 2, 4, 4, 4)).astype(np.float32)
    x[0, 0, 1, 2, 3] = np.nan
    got = normalized(x, np.ones(2, np.float32), np.zeros(2, np.float32), EPSILON)
    assert np.isnan(got[0, 0]).all()
    assert np.isfinite(got[0, 1]).all()


def test_a_channel_of_many_chunks(normalized: Any) -> None:
    rng = np.random.default_rng(6)
    x = rng.normal(-3, 2, (1, 1, 19, 70, 101)).astype(np.float32)  # 17 chunks, the last is short
    scale, bias = parameters(1, rng)
    sums, _, _ = launch.launches(x.shape, "float32", EPSILON)
    assert sums.grid == (1, 17, 1)
    got = normalized(x, scale, bias, EPSILON)
    assert (np.abs(got - exact(x, scale, bias, EPSILON)) <= bound(x, scale, bias)).all()


# ---- int8 ----------------------------------------------------------------------------------------------------------


def int8_pair(normalized: Any, x: Array, scales: tuple[float, float], seed: int = 0):
    scale, bias = parameters(x.shape[1], np.random.default_rng(seed))
    got = linear(normalized(cdhw32(x, garbage=True), scale, bias, EPSILON, *scales), x.shape[1])
    attributes = {"epsilon": EPSILON, "input_scale": scales[0], "output_scale": scales[1]}
    return got, evaluated(instance_norm_relu_int8(), x, scale, bias, **attributes)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "channels"), [(1, 32), (2, 64), (3, 40), (1, 1)])
def test_int8_is_the_function_to_the_bit(normalized: Any, size: tuple[int, ...], batch: int, channels: int) -> None:
    x = np.random.default_rng(channels).integers(-128, 128, (batch, channels, *size)).astype(np.int8)
    got, want = int8_pair(normalized, x, (0.03, 0.021))
    assert np.array_equal(got, want)
    if x[0, 0].size > 100:
        assert len(np.unique(got)) > 40  # a result that means something


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_int8(normalized: Any, data: st.DataObject) -> None:
    rng = np.random.default_rng(data.draw(st.integers(0, 1000)))
    shape = [data.draw(st.integers(1, most)) for most in (3, 40, 4, 9, 9)]
    low = data.draw(st.integers(-128, 127))
    x = rng.integers(low, data.draw(st.integers(low, 127)) + 1, shape).astype(np.int8)
    scales = tuple(data.draw(st.floats(2**-13, 8, width=32)) for _ in range(2))
    got, want = int8_pair(normalized, x, scales, data.draw(st.integers(0, 9)))
    assert np.array_equal(got, want)


@pytest.mark.parametrize("value", [-128, -1, 0, 127])
def test_int8_extremes(normalized: Any, value: int) -> None:
    """A constant channel; one that is constant but for a voxel; one of the two ends only. Many chunks."""
    x = np.full((1, 32, 9, 16, 32), value, np.int8)
    x[:, 1, 0, 0, 0] = 5
    x[:, 2] = np.where(np.random.default_rng(0).random(x[:, 2].shape) < 0.5, -128, 127)
    assert launch.launches(x.shape, "int8", EPSILON, 1, 1)[0].grid == (1, 5, 1)
    got, want = int8_pair(normalized, x, (0.02, 0.03))
    assert np.array_equal(got, want)


def test_int8_means_the_float_function(normalized: Any) -> None:
    """Dequantized, the result is within half a step of the float function of the dequantized input."""
    x = np.random.default_rng(0).integers(-100, 120, (2, 32, 6, 8, 10)).astype(np.int8)
    scale, bias = parameters(32, np.random.default_rng(0))
    got, _ = int8_pair(normalized, x, (0.05, 0.04))
    want = evaluated(instance_norm_relu(), x * np.float32(0.05), scale, bias, epsilon=EPSILON)
    assert np.abs(got * 0.04 - np.minimum(want, 127 * 0.04)).max() <= 0.02 + 1e-5


# ---- schedules ------------------------------------------------------------------------------------------------------


def under(schedules: Any, normalized: Any, dtype: str) -> Array:
    """Of a tensor of a few chunks, in CDHW32 where it is int8."""
    x = np.random.default_rng(3).integers(-90, 100, (1, 32, 9, 16, 31)).astype(dtype)
    scale, bias = parameters(32, np.random.default_rng(0))
    given, scales = (cdhw32(x), (0.03, 0.021)) if dtype == "int8" else (x, ())
    made: Array = normalized(given, scale, bias, EPSILON, *scales, schedules=schedules)
    return made


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_no_order_of_threads_changes_a_bit(normalized: Any, dtype: str) -> None:
    assert len(np.unique(under(on_host.EVERY, normalized, dtype))) > 40


def test_a_missing_barrier_would_be_seen(normalized: Any) -> None:
    runs = [partial(under, normalized=normalized, dtype=dtype) for dtype in ("float32", "int8")]
    assert not on_host.unseen_barriers(launch.KERNEL_SET, *runs)


# ---- launches and binaries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("shape", [(1, 32, 128, 128, 128), (8, 320, 4, 4, 4), (2, 33, 5, 7, 9), (1, 4, 512, 512, 512)])
def test_chunks_cover_every_voxel(shape: tuple[int, ...], dtype: str) -> None:
    sums, merge, apply = launch.launches(shape, dtype, EPSILON, 1, 1)
    planes, chunks, one = sums.grid
    chunk = int(sums.arguments[-1])  # type: ignore[arg-type]
    voxels = shape[2] * shape[3] * shape[4]
    assert chunks * chunk >= voxels > (chunks - 1) * chunk
    assert one == 1
    assert planes == shape[0] * (-(-shape[1] // 32) if dtype == "int8" else shape[1])
    assert apply.grid == sums.grid
    assert merge.grid == (planes, 1, 1)
    assert {sums.kernel, merge.kernel, apply.kernel} <= set(launch.KERNELS)
    if dtype == "int8":
        assert chunk * 128 * 128 < 2**31


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_workspace_serves_every_smaller_volume(dtype: str) -> None:
    """Around the sizes where a chunk doubles: 512 chunks of 1024 voxels are 257 of 2048 with one voxel more."""
    most = 0
    for voxels in sorted((1 << power) + more for power in range(10, 28) for more in (-1, 0, 1)):
        shape = (2, 3, voxels, 1, 1)
        planes, chunks, _ = launch.launches(shape, dtype, EPSILON, 1, 1)[0].grid
        most = max(most, planes * chunks * (64 * 4 if dtype == "int8" else 2 * 8))
        assert launch.workspace_bytes(shape, dtype)["partial"] == most


def test_what_cannot_be_launched_is_refused() -> None:
    with pytest.raises(ValueError, match="bfloat16"):
        launch.launches((1, 32, 4, 4, 4), "bfloat16", EPSILON)
    with pytest.raises(ValueError, match="scales"):
        launch.launches((1, 32, 4, 4, 4), "int8", EPSILON)
    for shape in [(1, 32, 0, 4, 4), (1, 1, 2000, 2000, 2000), (2**16, 2**15, 1, 1, 1)]:
        with pytest.raises(ValueError, match="shape"):
            launch.launches(shape, "float32", EPSILON)


@pytest.mark.parametrize("sm", ["8.0", "8.6", "8.7", "8.9", "9.0"])
def test_cubins_have_every_kernel(kernels_in_cubin: Any, sm: str) -> None:
    assert kernels_in_cubin(launch.KERNEL_SET, sm) == set(launch.KERNELS)


def test_ptx_has_no_fused_arithmetic_and_moves_16_bytes(ptx_of: Any) -> None:
    for name, ptx in ptx_of(launch.KERNEL_SET).items():
        assert not re.findall(r"\bfma\.", ptx)
        assert not re.findall(r"\b(?:add|sub|mul)\.f(?:32|64)", ptx)  # without a rounding: free to be fused
        assert ".local" not in ptx  # nothing spills out of registers
        assert ("ld.global.nc.v4.u32" in ptx) == (not name.startswith("coefficients")), name
        assert bool(re.search(r"st\.global\.v(?:4\.\w32|2\.\w64)", ptx)) == name.startswith("apply"), name
