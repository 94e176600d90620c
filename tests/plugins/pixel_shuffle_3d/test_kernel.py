"""The kernels, compiled for this CPU, against the ONNX functions in onnxruntime: every bit."""

from __future__ import annotations

import re
import signal
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins import on_host
from tests.plugins.functions import evaluated
from trtforge.plugins.pixel_shuffle_3d import function, launch

Array = np.ndarray[Any, Any]
SIZES = [(1, 1, 1), (2, 3, 8), (3, 2, 5), (4, 4, 4), (2, 5, 33), (1, 2, 64)]
EQUAL = (0.1, 0.1, 0.1)


def values(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    """Of a float type: any bits but NaN, which may change its bits on the way through onnxruntime."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 256, (*shape, np.dtype(dtype).itemsize)).astype(np.uint8).view(dtype)[..., 0]
    return np.where(bits == bits, bits, np.array(-0.0, dtype))


def scales_of(dtype: str, scales: tuple[float, float, float], skip: bool) -> dict[str, float]:
    named = dict(zip(("input_scale", "skip_scale", "output_scale"), scales, strict=True))
    return {name: value for name, value in named.items() if dtype == "int8" and (skip or name != "skip_scale")}


def reference(x: Array, skip: Array | None, scales: tuple[float, float, float]) -> Array:
    int8, named = x.dtype == np.int8, scales_of(x.dtype.name, scales, skip is not None)
    if skip is None:
        made = function.pixel_shuffle_3d_int8() if int8 else function.pixel_shuffle_3d()
        result: Array = evaluated(made, x, **named)
    else:
        made = function.pixel_shuffle_3d_concat_int8() if int8 else function.pixel_shuffle_3d_concat()
        result = evaluated(made, x, skip, **named)
    return result


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("batch", "channels", "behind"), [(1, 32, 0), (2, 3, 0), (3, 32, 32), (1, 64, 5), (2, 41, 0)])
def test_the_kernel_is_the_function(
    shuffled: Any, dtype: str, size: tuple[int, ...], batch: int, channels: int, behind: int
) -> None:
    x = values((batch, 8 * channels, *size), dtype)
    skip = values((batch, behind, *(2 * each for each in size)), dtype, 1) if behind else None
    scales = (0.05, 0.031, 0.042)
    got, want = shuffled(x, skip, *scales), reference(x, skip, scales)
    assert got.tobytes() == want.tobytes()


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_shape(shuffled: Any, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["float32", "float16", "int8"]))
    batch, *size = (data.draw(st.integers(1, most)) for most in (3, 3, 4, 19))
    behind = data.draw(st.integers(0, 34))
    channels = data.draw(st.sampled_from([32, 64]) if dtype == "int8" and behind else st.integers(1, 40))
    scales = tuple(data.draw(st.floats(2**-8, 8, width=32)) for _ in range(3))
    x = values((batch, 8 * channels, *size), dtype, data.draw(st.integers(0, 99)))
    skip = values((batch, behind, *(2 * each for each in size)), dtype, 1) if behind else None
    assert shuffled(x, skip, *scales).tobytes() == reference(x, skip, scales).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_memory_that_begins_anywhere(shuffled: Any, dtype: str) -> None:
    """Rows that could go 16 bytes at a time, in tensors that begin on a multiple of 8, 4 or 2 only."""
    x, skip = values((2, 16, 2, 3, 16), dtype), values((2, 3, 4, 6, 32), dtype, 1)
    want = reference(x, skip, EQUAL)
    for offset in (8, 4, np.dtype(dtype).itemsize):
        assert shuffled(x, skip, offset=offset).tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_no_order_of_threads_changes_a_bit(shuffled: Any, dtype: str) -> None:
    x, skip = values((1, 256, 3, 5, 9), dtype), values((1, 32, 6, 10, 18), dtype, 1)
    got = shuffled(x, skip, *EQUAL, schedules=on_host.EVERY)
    assert got.tobytes() == reference(x, skip, EQUAL).tobytes()


def test_a_read_of_16_bytes_where_they_do_not_begin_would_be_seen(shuffled: Any) -> None:
    """Of the harness. int8 tensors have to begin on a multiple of 16."""
    x = values((1, 256, 1, 1, 4), "int8")
    ended, _ = on_host.end_of(lambda: shuffled(x, None, *EQUAL, offset=8))
    assert ended == signal.SIGILL


def test_equal_scales_change_no_value(shuffled: Any) -> None:
    """All 256 of them, in x and in skip."""
    every = np.arange(-128, 128).astype(np.int8)
    x = every.reshape(1, 256, 1, 1, 1)
    skip = np.tile(every.reshape(1, 32, 1, 4, 2), (1, 1, 2, 1, 1))[:, :, :, :2]
    got = shuffled(x, np.ascontiguousarray(skip), *EQUAL)
    assert got[:, :32].reshape(-1).tolist() == every.tolist()
    assert (got[:, 32:] == skip).all()


@pytest.mark.parametrize(
    "scales", [(1.0, 1.0, 2.0), (3.0, 1.0, 2.0), (1e-3, 100.0, 1.0), (1.0, 1e-30, 1.0), (1e30, 1.0, 1e-3)]
)
def test_halves_and_clipping(shuffled: Any, scales: tuple[float, float, float]) -> None:
    every = np.arange(-128, 128).astype(np.int8)
    x, skip = every.reshape(1, 256, 1, 1, 1), every.reshape(1, 32, 2, 2, 2)
    got = shuffled(x, skip, *scales)
    assert got.tobytes() == reference(x, skip, scales).tobytes()
    if scales == (1, 1, 2):
        assert got[0, 0].reshape(-1).tolist() == [-64, -64, -63, -62, -62, -62, -61, -60]


def test_a_copy_of_several_blocks(shuffled: Any) -> None:
    x, skip = values((1, 256, 8, 8, 8), "int8"), values((1, 64, 16, 16, 16), "int8", 1)
    (one,) = launch.launches(x.shape, "int8", 64, *EQUAL)
    assert one.grid == (16 + 16, 1, 1)
    got = shuffled(x, skip, *EQUAL)
    assert (got[:, 32:] == skip).all()
    assert (got[:, 5, 1::2, ::2, 1::2] == x[:, 5 * 8 + 5]).all()


def test_what_cannot_be_launched_is_refused() -> None:
    for message, arguments in (
        ("int32", ((1, 8, 2, 2, 2), "int32")),
        ("12 channels", ((1, 12, 2, 2, 2), "float32")),
        ("whole groups", ((1, 8 * 33, 2, 2, 2), "int8", 32)),
        ("positive", ((1, 256, 2, 2, 2), "int8", 0, 0.0)),
        ("shape", ((1, 8, 0, 2, 2), "float32")),
        ("shape", ((70000, 8, 1, 1, 1), "float32")),
        ("shape", ((1, 8 * 512, 256, 256, 256), "float32")),
    ):
        with pytest.raises(ValueError, match=message):
            launch.launches(*arguments)


@pytest.mark.parametrize("sm", ["8.0", "8.6", "8.7", "8.9", "9.0"])
def test_cubins_have_every_kernel(kernels_in_cubin: Any, sm: str) -> None:
    assert kernels_in_cubin(launch.KERNEL_SET, sm) == set(launch.KERNELS)


def test_ptx_moves_whole_pieces(ptx_of: Any) -> None:
    for name, ptx in ptx_of(launch.KERNEL_SET).items():
        assert ".local" not in ptx  # nothing spills out of registers
        assert len(re.findall(r"st\.global\.v(?:4\.\w32|2\.\w64)", ptx)) >= 4, name
        reads = len(re.findall(r"ld\.global\.nc\.v2\.u32", ptx))
        assert reads == (0 if name == "shuffle_int8_cdhw32" else 8), name
        assert len(re.findall(r"ld\.global\.nc\.v4\.u32", ptx)) >= 4, name
