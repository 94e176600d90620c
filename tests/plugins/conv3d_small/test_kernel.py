"""The kernels, compiled for this CPU, against the ONNX functions in onnxruntime: every bit."""

from __future__ import annotations

import re
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from tests.plugins import on_host
from tests.plugins.functions import evaluated
from trtforge.plugins.conv3d_small import launch
from trtforge.plugins.conv3d_small.function import conv3d_small_int8, conv3d_small_int8_to_float

Array = np.ndarray[Any, Any]


def integers(rng: np.random.Generator, *shape: int) -> Array:
    return rng.integers(-128, 128, shape).astype(np.int8)


def first_case(seed: int, outputs: int, batch: int, size: tuple[int, ...]) -> tuple[Array, ...]:
    """x, w, multiplier and offset that use the whole of int8 and clip a little."""
    rng = np.random.default_rng(seed)
    multiplier = rng.uniform(0.5, 1.5, outputs).astype(np.float32) / np.float32(600)
    offset = rng.normal(0, 20, outputs).astype(np.float32)
    return integers(rng, batch, 1, *size), integers(rng, outputs, 1, 3, 3, 3), multiplier, offset


def first_reference(case: tuple[Array, ...], stride: int) -> Array:
    result: Array = evaluated(conv3d_small_int8(), *case, pads=[1] * 6, strides=[stride] * 3)
    return result


def last_case(seed: int, channels: int, outputs: int, batch: int, size: tuple[int, ...]) -> tuple[Array, ...]:
    rng = np.random.default_rng(seed)
    multiplier, offset = rng.normal(0, 1e-3, outputs), rng.normal(0, 1, outputs)
    x, w = integers(rng, batch, channels, *size), integers(rng, outputs, channels, 1, 1, 1)
    return x, w, multiplier.astype(np.float32), offset.astype(np.float32)


def last_reference(case: tuple[Array, ...], output: str) -> Array:
    to = helper.np_dtype_to_tensor_dtype(np.dtype(output))
    attributes = {"pads": [0] * 6, "strides": [1] * 3, "to": int(to)}
    result: Array = evaluated(conv3d_small_int8_to_float(), *case, **attributes)
    return result


# ---- first ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("size", "outputs", "batch"),
    [
        ((8, 8, 32), 32, 1),  # a tile
        ((9, 9, 33), 32, 1),  # one voxel more than a tile along each axis
        ((1, 1, 1), 64, 3),
        ((2, 3, 5), 32, 2),
        ((17, 5, 66), 32, 1),  # rows begin on every multiple of 2
        ((3, 18, 64), 96, 2),
    ],
)
def test_the_first_convolution(convolved: Any, size: tuple[int, ...], outputs: int, batch: int, stride: int) -> None:
    case = first_case(outputs, outputs, batch, size)
    got, want = convolved(*case, output="int8", stride=stride), first_reference(case, stride)
    assert np.array_equal(got, want)
    if want.size > 1000:
        assert len(np.unique(want)) > 200


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_first_convolution(convolved: Any, data: st.DataObject) -> None:
    size = tuple(data.draw(st.integers(1, most)) for most in (10, 10, 40))
    case = first_case(data.draw(st.integers(0, 99)), 32, data.draw(st.integers(1, 2)), size)
    stride, shift = data.draw(st.sampled_from([1, 2])), data.draw(st.sampled_from([0, 16]))
    assert np.array_equal(convolved(*case, output="int8", stride=stride, shift=shift), first_reference(case, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_no_order_of_threads_changes_a_bit(convolved: Any, stride: int) -> None:
    case = first_case(5, 32, 1, (9, 9, 34))
    got = convolved(*case, output="int8", stride=stride, schedules=on_host.EVERY)
    assert np.array_equal(got, first_reference(case, stride))


@pytest.mark.parametrize("stride", [1, 2])
def test_a_missing_barrier_would_be_seen(convolved: Any, stride: int) -> None:
    case = first_case(5, 32, 1, (9, 9, 34))
    run = partial(convolved, *case, output="int8", stride=stride)
    assert not on_host.unseen_barriers(launch.KERNEL_SET, lambda schedules: run(schedules=schedules))


@pytest.mark.parametrize("stride", [1, 2])
def test_every_tap_meets_its_weight(convolved: Any, stride: int) -> None:
    """A single voxel gives the kernel, turned around, in each of 32 channels."""
    w = integers(np.random.default_rng(0), 32, 1, 3, 3, 3)
    x = np.zeros((1, 1, 5, 5, 5), np.int8)
    x[0, 0, 2, 2, 2] = 1
    got = convolved(x, w, np.ones(32, np.float32), np.zeros(32, np.float32), output="int8", stride=stride)
    if stride == 1:
        assert np.array_equal(got[0, :, 1:4, 1:4, 1:4], w[:, 0, ::-1, ::-1, ::-1])
    else:
        assert np.array_equal(got[0, :, 1, 1, 1], w[:, 0, 1, 1, 1])
    assert np.count_nonzero(got) == np.count_nonzero(w if stride == 1 else w[:, 0, 1, 1, 1])


@pytest.mark.parametrize(("value", "weight"), [(-128, -128), (-128, 127), (127, -128), (0, 5)])
def test_extremes_of_the_first(convolved: Any, value: int, weight: int) -> None:
    x, w = np.full((1, 1, 4, 4, 6), value, np.int8), np.full((32, 1, 3, 3, 3), weight, np.int8)
    multiplier = np.geomspace(1e-9, 1e30, 32).astype(np.float32)
    case = x, w, multiplier, np.linspace(-200, 200, 32).astype(np.float32)
    assert np.array_equal(convolved(*case, output="int8"), first_reference(case, 1))


def test_halves_go_to_even(convolved: Any) -> None:
    x, w = np.arange(-5, 6).astype(np.int8).reshape(1, 1, 1, 1, 11), np.zeros((32, 1, 3, 3, 3), np.int8)
    w[:, 0, 1, 1, 1] = 1
    got = convolved(x, w, np.full(32, 0.5, np.float32), np.zeros(32, np.float32), output="int8")
    assert got[0, 17].reshape(-1).tolist() == [-2, -2, -2, -1, 0, 0, 0, 1, 2, 2, 2]


# ---- last ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("output", ["float32", "float16"])
@pytest.mark.parametrize("outputs", range(1, 9))
@pytest.mark.parametrize(("size", "channels", "batch"), [((4, 8, 9), 32, 1), ((1, 1, 1), 64, 3), ((3, 5, 43), 96, 2)])
def test_the_last_convolution(
    convolved: Any, size: tuple[int, ...], channels: int, batch: int, outputs: int, output: str
) -> None:
    case = last_case(outputs, channels, outputs, batch, size)
    got, want = convolved(*case, output=output), last_reference(case, output)
    assert got.dtype == want.dtype == output
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("output", ["float32", "float16"])
def test_extremes_of_the_last(convolved: Any, output: str) -> None:
    """Sums past 2^24, which float32 rounds; results past float16, and below its smallest normal number."""
    x = np.full((1, 1056, 1, 2, 9), -128, np.int8)
    x[:, 3] = integers(np.random.default_rng(0), 1, 2, 9)
    w = np.full((8, 1056, 1, 1, 1), -128, np.int8)
    w[:, 3] = 1
    multiplier = np.array([1, 1e-3, 4.5e-3, 2e-13, 1e-12, 1e35, -1e-15, 3e-10], np.float32)
    case = x, w, multiplier, np.array([0.25, 1, 0, 0, -3e-8, 0, 0, 0], np.float32)
    assert np.abs(case[0].astype(np.int64)[0, :, 0, 0, 0] @ w.astype(np.int64)[0, :, 0, 0, 0]) > 2**24
    got, want = convolved(*case, output=output), last_reference(case, output)
    assert got.tobytes() == want.tobytes()


# ---- launches and binaries -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weight", "output", "pads", "strides", "word"),
    [
        ((32, 2, 3, 3, 3), "int8", [1] * 6, [1] * 3, "1 channel"),
        ((32, 1, 3, 3, 3), "int8", [0] * 6, [1] * 3, "padded by 1"),
        ((32, 1, 3, 3, 3), "int8", [1] * 6, [1, 2, 2], "stride 1 or 2"),
        ((48, 1, 3, 3, 3), "int8", [1] * 6, [1] * 3, "not 48"),
        ((3, 32, 1, 1, 1), "bfloat16", [0] * 6, [1] * 3, "bfloat16"),
        ((3, 32, 3, 3, 3), "float16", [0] * 6, [1] * 3, "1x1x1"),
        ((3, 40, 1, 1, 1), "float16", [0] * 6, [1] * 3, "not 40"),
        ((9, 32, 1, 1, 1), "float32", [0] * 6, [1] * 3, "not 9"),
    ],
)
def test_other_convolutions_are_refused(weight: Any, output: str, pads: Any, strides: Any, word: str) -> None:
    assert word in launch.why_not(weight, output, pads, strides)
    with pytest.raises(ValueError, match=word):
        launch.launches((1, weight[1], 4, 4, 4), weight, output, pads, strides)


def test_other_tensors_are_refused() -> None:
    first, last = ((32, 1, 3, 3, 3), "int8", [1] * 6, [1] * 3), ((3, 32, 1, 1, 1), "float32", [0] * 6, [1] * 3)
    with pytest.raises(ValueError, match="x has 3"):
        launch.launches((1, 3, 4, 4, 4), *first)
    for shape, convolution in (((1, 1, 4, 0, 4), first), ((70000, 1, 1, 1, 1), first), ((70000, 32, 1, 1, 1), last)):
        with pytest.raises(ValueError, match="shape"):
            launch.launches(shape, *convolution)


@pytest.mark.parametrize("sm", ["8.0", "8.6", "8.7", "8.9", "9.0"])
def test_cubins_have_every_kernel(kernels_in_cubin: Any, sm: str) -> None:
    assert kernels_in_cubin(launch.KERNEL_SET, sm) == set(launch.KERNELS)


def test_ptx_uses_tensor_cores_and_fuses_nothing(ptx_of: Any) -> None:
    for name, ptx in ptx_of(launch.KERNEL_SET).items():
        assert not re.findall(r"\bfma\.", ptx)
        assert set(re.findall(r"\b(?:add|sub|mul)\.(?:\w+\.)?f32", ptx)) == {"add.rn.f32", "mul.rn.f32"}
        assert ".local" not in ptx  # nothing spills out of registers
        first = name.startswith("first")
        assert ("mma.sync.aligned.m16n8k32" in ptx) == first
        assert ("dp4a.s32.s32" in ptx) != first
        assert ("ld.global.nc.v4.u32" in ptx) != first
        assert ("st.global.v2.u32" in ptx) == first
