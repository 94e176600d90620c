"""The kernels, compiled for this CPU, against NumPy: every bit of what they write."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes import aligned

Array = np.ndarray[Any, Any]
FORMS = {
    "slice_int8": ("int8", "int8"),
    "slice_float16": ("float16", "float16"),
    "slice_float32": ("float32", "float32"),
    "quantize_int8": ("float32", "int8"),
    "slice_int8_cdhw32": ("int8", "int8"),
    "quantize_int8_cdhw32": ("float32", "int8"),
}
SCALE = np.float32(0.0217)


def volume_of(shape: tuple[int, ...], dtype: str, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    if dtype == "int8":
        return rng.integers(-128, 128, shape).astype(np.int8)
    return rng.normal(0, 2, shape).astype(dtype)


def expected(volume: Array, window: tuple[int, ...], start: tuple[int, ...], pad: Any, taken: str) -> Array:
    out = np.full(window, pad, volume.dtype)
    inside = [
        (max(0, at), min(size, at + length)) for at, size, length in zip(start, volume.shape, window, strict=True)
    ]
    if all(begin < end for begin, end in inside):
        there = tuple(slice(begin - at, end - at) for (begin, end), at in zip(inside, start, strict=True))
        out[there] = volume[tuple(slice(*each) for each in inside)]
    if taken != volume.dtype.name:
        return np.clip(np.rint(out / SCALE), -127, 127).astype(np.int8)
    return out


def cut(kernels: Any, name: str, volume: Array, window: tuple[int, ...], start: tuple[int, ...], pad: Any) -> Array:
    """What the kernel writes, with what lies around it unchanged."""
    taken, cdhw32 = np.dtype(FORMS[name][1]), name.endswith("cdhw32")
    depth, height, width = window
    voxel = taken.itemsize * (32 if cdhw32 else 1)
    memory = np.full(depth * height * width * voxel + 32, 0xA5, np.uint8)
    offset = -memory.ctypes.data % 16
    out = memory[offset : offset + depth * height * width * voxel]
    across = 2 * width if cdhw32 else -(-width * taken.itemsize // 16)
    sizes = map(np.int32, (*volume.shape, *window, *start))
    kernels(name, (depth, height, across), volume, out, *sizes, volume.dtype.type(pad), SCALE)
    assert (memory[:offset] == 0xA5).all()
    assert (memory[offset + len(out) :] == 0xA5).all()
    if not cdhw32:
        return out.view(taken).reshape(window)
    whole = out.view(np.int8).reshape(*window, 32)
    assert not whole[..., 1:].any()
    return whole[..., 0]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("width", [16, 33, 64])
@pytest.mark.parametrize("start", [(0, 0, 0), (2, 1, 1), (-2, -1, -5), (7, 5, 16), (40, 0, 0)])
def test_a_window_inside_and_outside_the_volume(kernels, name: str, width: int, start: tuple[int, ...]) -> None:
    """Rows that begin on a multiple of 16 bytes and rows that do not; windows over every side of the volume."""
    volume = volume_of((9, 7, width), FORMS[name][0])
    for window in [(4, 5, 16), (3, 2, 13)]:
        got = cut(kernels, name, volume, window, start, -3)
        assert np.array_equal(got, expected(volume, window, start, -3, FORMS[name][1]))


@pytest.mark.parametrize("name", FORMS)
def test_a_row_that_ends_one_voxel_short_of_a_whole_read(kernels, name: str) -> None:
    taken = np.dtype(FORMS[name][1])
    width = 64 // taken.itemsize - 1
    volume = aligned.empty((1, 2, width), FORMS[name][0])
    volume[...] = volume_of(volume.shape, volume.dtype.name)
    got = cut(kernels, name, volume, (1, 2, width + 1), (0, 0, 0), 9)
    assert np.array_equal(got, expected(volume, (1, 2, width + 1), (0, 0, 0), 9, taken.name))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_window(kernels, data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(FORMS)))
    sizes = st.integers(1, 40)
    shape = (data.draw(st.integers(1, 5)), data.draw(st.integers(1, 5)), data.draw(sizes))
    window = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 4)), data.draw(sizes))
    start = tuple(data.draw(st.integers(-length, size)) for length, size in zip(window, shape, strict=True))
    volume = volume_of(shape, FORMS[name][0], data.draw(st.integers(0, 9)))
    pad = volume.dtype.type(data.draw(st.integers(-9, 9)))
    got = cut(kernels, name, volume, window, start, pad)
    assert np.array_equal(got, expected(volume, window, start, pad, FORMS[name][1]))


def test_quantizing_rounds_half_to_even_and_clips(kernels) -> None:
    steps = {0.5: 0, 1.5: 2, 2.5: 2, -0.5: 0, -1.5: -2, 126.5: 126, 127.5: 127, 1e30: 127, -126.5: -126, -1e30: -127}
    steps |= {float("inf"): 127, float("-inf"): -127, float("nan"): -127, 0.4999: 0, 0.5001: 1, 3.0: 3}
    volume = np.array([*steps], np.float32).reshape(1, 1, -1)
    out = np.empty(len(steps), np.int8)
    sizes = map(np.int32, (*volume.shape, *volume.shape, 0, 0, 0))
    kernels("quantize_int8", (1, 1, 1), volume, out, *sizes, np.float32(0), np.float32(1))
    assert out.tolist() == [*steps.values()]


@pytest.mark.parametrize("scale", [0.0217, 0.3, 1 / 127, 2.63979 / 127])
def test_quantizing_divides_as_numpy_does(kernels, scale: float) -> None:
    """On and beside the borders between two values, where a product with 1 / scale falls on the other side."""
    step = np.float32(scale)
    borders = (np.arange(-127, 127, dtype=np.float32) + np.float32(0.5)) * step
    volume = np.concatenate([borders, np.nextafter(borders, np.float32(9)), np.nextafter(borders, np.float32(-9))])
    out = np.empty(len(volume), np.int8)
    sizes = map(np.int32, (1, 1, len(volume), 1, 1, len(volume), 0, 0, 0))
    kernels("quantize_int8", (1, 1, -(-len(volume) // 16)), volume, out, *sizes, np.float32(0), step)
    assert np.array_equal(out, np.clip(np.rint(volume / step), -127, 127))


class Sums:
    """A ring as large as the volume, in which windows are only added up: `after` is nowhere."""

    def __init__(self, kernels: Any, shape: tuple[int, ...], window: tuple[int, ...], weights: WindowWeights) -> None:
        self.kernels, self.shape, self.window, self.weights = kernels, shape, window, weights
        self.labels, self.met_nan = np.full(shape, 255, np.uint8), np.zeros(1, np.int32)

    def add(
        self,
        sums: Array,
        logits: Array,
        start: tuple[int, ...],
        *,
        before: tuple[int, ...] = (99, 99, 99),
        after: tuple[int, ...] = (0, 0, 0),
        slot: tuple[int, ...] | None = None,
    ) -> None:
        labels = self.labels.reshape(-1)[np.ravel_multi_index(start, self.shape) :]
        _, height, width = self.shape
        ints = (*self.window, *sums.shape[1:], *(slot or start), *before, *after, height * width, width)
        self.kernels(
            f"accumulate_{logits.dtype.name}",
            self.window,
            logits,
            np.concatenate(self.weights.axes),
            sums,
            labels,
            self.met_nan,
            np.int32(len(logits)),
            np.float32(self.weights.floor),
            *map(np.int32, ints),
        )


@pytest.mark.parametrize("mode", ["mlperf", "monai", "constant"])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("channels", range(1, 7))
def test_sums_are_those_of_numpy_bit_for_bit(kernels, mode: Any, dtype: str, channels: int) -> None:
    shape, window, rng = (9, 6, 11), (5, 4, 7), np.random.default_rng(channels)
    weights = WindowWeights.of(mode, window)
    adder = Sums(kernels, shape, window, weights)
    sums = rng.normal(size=(max(channels - 1, 1), *shape)).astype(np.float32)
    want = sums.copy()
    for start in [(0, 0, 0), (4, 2, 4), (1, 1, 3)]:
        logits = rng.normal(0, 3, (channels, *window)).astype(dtype)
        adder.add(sums, logits, start)
        wide = logits.astype(np.float32)
        at = (slice(None), *(slice(begin, begin + length) for begin, length in zip(start, window, strict=True)))
        want[at] = want[at] + weights.dense() * (wide if channels == 1 else wide[1:] - wide[:1])
    assert sums.tobytes() == want.tobytes()
    assert (adder.labels == 255).all()


def test_every_float16_is_read_as_numpy_reads_it(kernels) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(1, 16, 64, 64)
    adder = Sums(kernels, (16, 64, 64), (16, 64, 64), WindowWeights.of("constant", (16, 64, 64)))
    sums = np.empty((1, 16, 64, 64), np.float32)
    adder.add(sums, bits, (0, 0, 0), before=(0, 0, 0))
    assert np.array_equal(sums, bits.astype(np.float32), equal_nan=True)
    finite = np.isfinite(sums)
    assert sums[finite].tobytes() == bits.astype(np.float32)[finite].tobytes()


def test_the_first_window_stores_and_the_last_one_labels(kernels) -> None:
    """Voxels at `before` or above along every axis are stored, not added; those below `after` become labels."""
    window, rng = (4, 4, 8), np.random.default_rng(3)
    adder = Sums(kernels, window, window, WindowWeights.of("constant", window))
    sums, logits = rng.normal(size=(2, *window)).astype(np.float32), rng.normal(size=(3, *window)).astype(np.float32)
    held = sums.copy()
    adder.add(sums, logits, (0, 0, 0), before=(1, 2, 3), after=(3, 3, 6))
    z, y, x = np.indices(window)
    first, last = (z >= 1) & (y >= 2) & (x >= 3), (z < 3) & (y < 3) & (x < 6)
    now = logits[1:] - logits[:1]
    total = np.where(first, now, held + now)
    assert np.array_equal(sums, np.where(last, held, total))
    winner = np.concatenate([np.zeros((1, *window), np.float32), total]).argmax(axis=0)
    assert np.array_equal(adder.labels, np.where(last, winner, 255))


def test_of_equal_classes_the_lower_one_wins(kernels) -> None:
    logits = np.array([[0, 1, 2, -1, 0, 1], [0, 1, 2, -2, 0, 1], [0, 2, 2, -1, -0.0, 1]], np.float32).reshape(
        3, 1, 1, 6
    )
    window = (1, 1, 6)
    adder = Sums(kernels, window, window, WindowWeights.of("constant", window))
    adder.add(np.empty((2, *window), np.float32), logits, (0, 0, 0), before=(0, 0, 0), after=window)
    assert adder.labels.ravel().tolist() == [0, 2, 0, 0, 0, 0]


def test_planes_of_the_ring_come_round_again(kernels) -> None:
    """A window that begins at slot 3 of a ring of 5 along H goes on at slot 0; the other axes are as in the volume."""
    shape, window, rng = (4, 9, 8), (2, 5, 3), np.random.default_rng(0)
    adder = Sums(kernels, shape, window, WindowWeights.of("mlperf", window))
    sums, straight = np.zeros((1, 4, 5, 8), np.float32), np.zeros((1, *shape), np.float32)
    logits = rng.normal(size=(2, *window)).astype(np.float32)
    adder.add(sums, logits, (1, 3, 4), slot=(1, 3, 4))
    adder.add(straight, logits, (1, 3, 4))
    assert np.array_equal(sums, np.roll(straight[:, :, 3:8], 3, axis=2))


@pytest.mark.parametrize("seen", [False, True])
def test_nan_is_told_where_it_becomes_a_label(kernels, seen: bool) -> None:
    window = (2, 2, 2)
    adder = Sums(kernels, window, window, WindowWeights.of("constant", window))
    logits = np.zeros((2, *window), np.float32)
    logits[1, 1, 1, 1] = np.nan
    adder.add(np.zeros((1, *window), np.float32), logits, (0, 0, 0), after=window if seen else (1, 2, 2))
    assert adder.met_nan.tolist() == [seen]
