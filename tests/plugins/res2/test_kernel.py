"""The kernels, compiled for this CPU, against Res2Int8 in onnxruntime: every bit of the stage's output."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins import on_host
from tests.plugins.res2 import stage
from trtforge.plugins.res2.function import CONVOLUTIONS, Quantized, QuantizedConvolution
from trtforge.plugins.res2.launch import CHANNELS_IN, KERNEL_SET, KERNELS, WIDTHS, launches, served, workspace_bytes
from trtforge.plugins.res2.pack import from_chw32, packed, packed_chunk, to_chw32

Array = np.ndarray[Any, Any]
MIDS = tuple(mid for _, mid in WIDTHS)


def replaced(constants: Quantized, **changes: QuantizedConvolution) -> Quantized:
    """The constants with some convolutions changed, by name."""
    named = dict(zip(CONVOLUTIONS, constants.convolutions, strict=True)) | changes
    return Quantized(tuple(named[name] for name in CONVOLUTIONS), constants.residual)


@pytest.mark.parametrize("mid", MIDS)
@pytest.mark.parametrize("size", [(1, 1, 1), (1, 8, 8), (2, 7, 9), (3, 3, 20), (1, 17, 8)])
def test_any_size_and_batch(host, reference, mid: int, size: tuple[int, int, int]) -> None:
    batch, height, width = size
    x, constants = stage.images((batch, CHANNELS_IN, height, width), seed=height), stage.constants_of(mid, seed=width)
    want = reference(x, constants)
    assert len(np.unique(want)) > 20
    assert np.array_equal(host(x, constants), want)


def test_the_size_of_the_network(host, reference) -> None:
    x, constants = stage.images((2, CHANNELS_IN, 56, 56)), stage.constants_of(32)
    assert np.array_equal(host(x, constants, schedules=[on_host.Schedule(7)]), reference(x, constants))


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("order", [0, 1, 7, 8])
@pytest.mark.parametrize("mid", MIDS)
def test_no_order_of_threads_or_copies_changes_a_bit(host, reference, mid: int, order: int, late: bool) -> None:
    x, constants = stage.images((1, CHANNELS_IN, 9, 9), seed=order), stage.constants_of(mid, seed=order)
    assert np.array_equal(host(x, constants, schedules=[on_host.Schedule(order, late)]), reference(x, constants))


@pytest.mark.parametrize(
    ("there", "instead"),
    [
        ("wait_copies<1>", "wait_copies<2>"),
        ("fetch(chunk + 2)", "fetch(chunk + 3)"),
    ],
)
def test_a_missing_wait_would_be_seen(tmp_path: Path, there: str, instead: str) -> None:
    """Of the harness: the source with a mistake gives other results."""
    source = (KERNEL_SET.folder / "res2.cuh").read_text()
    assert source.count(there) == 1
    (tmp_path / "res2.cuh").write_text(source.replace(there, instead))
    shutil.copy(KERNEL_SET.folder / "kernel.cu", tmp_path)
    wrong = stage.Kernels(on_host.compile_for_host(KERNEL_SET, KERNELS, tmp_path))
    with pytest.raises(AssertionError, match="depends on the order"):
        wrong(stage.images((1, CHANNELS_IN, 9, 9)), stage.constants_of(32), schedules=on_host.EVERY[:4])


def test_a_missing_barrier_would_be_seen(host) -> None:
    x, constants = stage.images((1, CHANNELS_IN, 9, 9)), stage.constants_of(32)
    assert not on_host.unseen_barriers(KERNEL_SET, lambda schedules: host(x, constants, schedules=schedules))


def test_matrix_loads_meet_no_bank_twice(host) -> None:
    before = host.run.conflicts
    for mid in MIDS:
        host(stage.images((1, CHANNELS_IN, 9, 10)), stage.constants_of(mid))
    assert host.run.conflicts == before


@pytest.mark.parametrize("mid", MIDS)
@pytest.mark.parametrize("weight", [-128, 127])
@pytest.mark.parametrize("value", [-128, 127])
def test_the_largest_sums(host, reference, mid: int, weight: int, value: int) -> None:
    """Scales bring the sums back into int8, so that each is seen; every other channel's sign is turned."""
    x = np.full((1, CHANNELS_IN, 5, 6), value, np.int8)
    convolutions = []
    for number, (outputs, inputs, size, _) in enumerate(stage.shapes(mid)):
        filters = np.full((outputs, inputs, size, size), weight, np.int8)
        largest = float(inputs * size * size * 128 * 128)
        sign = np.where(np.arange(outputs) % 2 == number % 2, 1, -1)
        multiplier = (sign * np.linspace(60, 127, outputs) / largest).astype(np.float32)
        bias = np.linspace(-3, 3, outputs).astype(np.float32)
        convolutions.append(QuantizedConvolution(filters, multiplier.reshape(-1, 1, 1), bias.reshape(-1, 1, 1)))
    constants = Quantized(tuple(convolutions), np.array([0.9, 1.1, 0.7], np.float32))
    want = reference(x, constants)
    assert len(np.unique(want)) > 10
    assert np.array_equal(host(x, constants), want)


@pytest.mark.parametrize("mid", MIDS)
def test_everything_clipped(host, reference, mid: int) -> None:
    """Far beyond int8 on both sides, where 2c and the residual pull apart: -128 is a value of branch1."""
    constants = stage.constants_of(mid)
    huge = [
        QuantizedConvolution(each.weight, each.multiplier * np.float32(1e6), each.bias)
        for each in constants.convolutions
    ]
    x = stage.images((1, CHANNELS_IN, 6, 11))
    for residual in (1.0, -1.0, 3e4):
        wide = Quantized(tuple(huge), np.full(3, residual, np.float32))
        want = reference(x, wide)
        assert set(np.unique(want)) >= {0, 127}
        assert np.array_equal(host(x, wide), want)


@pytest.mark.parametrize("mid", MIDS)
def test_ties_go_to_the_even_number(host, reference, mid: int) -> None:
    """Scales are powers of two: half of the values lie between two integers."""
    rng = np.random.default_rng(mid)
    convolutions = []
    for outputs, inputs, size, _ in stage.shapes(mid):
        filters = np.where(
            rng.random((outputs, inputs, size, size)) < 8 / (inputs * size * size), rng.choice([-1, 1]), 0
        ).astype(np.int8)
        multiplier = np.full((outputs, 1, 1), 0.5, np.float32)
        bias = rng.choice([0, 0.5, 1, -2.5], (outputs, 1, 1)).astype(np.float32)
        convolutions.append(QuantizedConvolution(filters, multiplier, bias))
    constants = Quantized(tuple(convolutions), np.full(3, 0.5, np.float32))
    x = rng.integers(-20, 21, (1, CHANNELS_IN, 9, 7)).astype(np.int8)
    branch1 = constants.convolutions[0]
    sums = np.einsum("oi,nihw->nohw", branch1.weight[:, :, 0, 0].astype(int), x) * branch1.multiplier + branch1.bias
    assert (sums % 1 == 0.5).mean() > 0.3
    assert np.array_equal(host(x, constants), reference(x, constants))


@pytest.mark.parametrize("mid", MIDS)
def test_the_product_is_rounded_before_the_sum(host, reference, mid: int) -> None:
    """A fused multiply-add would round other values: only branch1 and the residual are not zero here, the sums of
    branch1 are known, and B makes a tie of the rounded product."""
    rng = np.random.default_rng(1)
    constants = stage.constants_of(mid)
    outputs = 4 * mid
    filters = rng.integers(1, 128, (outputs, CHANNELS_IN, 1, 1)).astype(np.int8)
    sums = filters.sum((1, 2, 3)) * 3
    multiplier = (127 / sums * rng.uniform(0.6, 1, outputs)).astype(np.float32)
    product = sums.astype(np.float32) * multiplier
    bias = (np.arange(outputs) % 8 + np.float32(0.5)).astype(np.float32) - product  # nearly cancels
    exact = sums * multiplier.astype(np.float64) + bias
    fused = np.rint(exact.astype(np.float32))
    apart = np.rint(product + bias)
    assert (fused != apart).sum() > outputs // 10

    def zero(name: str) -> QuantizedConvolution:
        old = constants.convolutions[CONVOLUTIONS.index(name)]
        return QuantizedConvolution(old.weight, np.zeros_like(old.multiplier), np.zeros_like(old.bias))

    column = (-1, 1, 1)
    only = {name: zero(name) for name in CONVOLUTIONS[1:]}
    only["a_branch1"] = QuantizedConvolution(filters, multiplier.reshape(column), bias.reshape(column))
    shown = Quantized(replaced(constants, **only).convolutions, np.ones(3, np.float32))
    x = np.full((1, CHANNELS_IN, 2, 3), 3, np.int8)
    got = host(x, shown)
    assert np.array_equal(got, np.broadcast_to(apart.astype(np.int8)[None, :, None, None], got.shape))
    assert np.array_equal(got, reference(x, shown))


def test_what_lies_outside_the_image_is_zero_after_2a(host, reference) -> None:
    """Not what 2a would make of zeros: its biases are large here."""
    constants = stage.constants_of(32)
    old = dict(zip(CONVOLUTIONS, constants.convolutions, strict=True))
    biased = {
        name: QuantizedConvolution(old[name].weight, old[name].multiplier, np.full_like(old[name].bias, 90))
        for name in ("a_2a", "b_2a", "c_2a")
    }
    x, constants = stage.images((1, CHANNELS_IN, 10, 3)), replaced(constants, **biased)
    assert np.array_equal(host(x, constants), reference(x, constants))


def test_a_chunk_lies_as_the_product_wants_it() -> None:
    """Byte by byte, as the PTX manual has operand b of mma.m16n8k32."""
    weight = np.random.default_rng(0).integers(-128, 128, (64, 64)).astype(np.int8)
    made = packed_chunk(weight).reshape(2, 2, 2, 32, 2, 2, 4)
    for step, group, upper, lane, product, half, byte in np.ndindex(made.shape):
        column, n = lane // 4, 2 * upper + product
        output = 32 * group + 8 * (column // 2) + 2 * n + column % 2
        taken = 32 * step + 16 * half + 4 * (lane % 4) + byte
        assert made[step, group, upper, lane, product, half, byte] == weight[output, taken]


def test_chw32_there_and_back() -> None:
    x = stage.images((2, 96, 3, 5))
    grouped = to_chw32(x)
    assert grouped.shape == (2, 3, 3, 5, 32)
    assert grouped[1, 2, 0, 4, 7] == x[1, 71, 0, 4]
    assert np.array_equal(from_chw32(grouped), x)


def test_three_launches_read_all_that_is_packed() -> None:
    for mid in MIDS:
        names = {f"{block}_{part}" for block in "abc" for part in ("weights", "scales")}
        made = packed(stage.constants_of(mid).inputs())
        assert set(made) == names
        assert sum(each.size for name, each in made.items() if "weights" in name) == sum(
            int(np.prod(shape)) for shape in stage.shapes(mid)
        )
        assert all(made[name].size % 4 == 0 for name in names)  # the next lies on a multiple of 16 bytes
        planned = launches(mid, 3, 57, 16)
        assert {each.kernel for each in planned} <= set(KERNELS)
        assert {each.grid for each in planned} == {(2, 8, 3)}
        assert names <= {name for each in planned for name in each.arguments if isinstance(name, str)}
        assert workspace_bytes(mid, 3, 57, 16) == {"scratch": 3 * 4 * mid * 57 * 16}


@pytest.mark.parametrize(
    "size", [(48, 1, 8, 8), (64, 0, 8, 8), (64, 1, 8, 0), (64, 65536, 8, 8), (64, 1, 8 * 65536, 8)]
)
def test_what_cannot_be_launched_is_refused(size: tuple[int, int, int, int]) -> None:
    with pytest.raises(ValueError, match="cannot be launched"):
        launches(*size)


@pytest.mark.parametrize("channels", [(64, 64, 256), (64, 32, 128), (32, 32, 128), (256, 64, 256), (64, 32, 256)])
def test_widths_that_are_served_can_be_launched(channels: tuple[int, int, int]) -> None:
    channels_in, mid, _ = channels
    assert served(*channels) == (channels in [(64, 64, 256), (64, 32, 128)])
    if (channels_in, mid) in WIDTHS:
        assert launches(mid, 1, 8, 8, channels_in=channels_in) == launches(mid, 1, 8, 8)
    else:
        with pytest.raises(ValueError, match=f"1 x {channels_in} x 8 x 8, {mid} inner"):
            launches(mid, 1, 8, 8, channels_in=channels_in)


def test_weights_of_another_stage_are_refused() -> None:
    inputs = stage.constants_of(32).inputs()
    inputs[3 * CONVOLUTIONS.index("b_2a")] = np.zeros((32, 64, 1, 1), np.int8)
    with pytest.raises(ValueError, match=r"b_2a is \[32, 64, 1, 1\], not \[32, 128, 1, 1\]"):
        packed(inputs)


@pytest.mark.parametrize("name", ["a_2a", "a_branch1"])
def test_weights_for_another_input_are_refused(name: str) -> None:
    """Both of block a's convolutions of the input: what 2a reads says how wide it is."""
    inputs = stage.constants_of(32).inputs()
    at = 3 * CONVOLUTIONS.index(name)
    inputs[at] = inputs[at][:, :32]
    with pytest.raises(ValueError, match="for 32 input and 32 inner" if name == "a_2a" else r"a_branch1 is \[128, 32,"):
        packed(inputs)


def test_chunks_lie_in_the_order_of_their_use() -> None:
    """Block a of the thin stage: two chunks of 2a, nine taps, then two of branch1 and one of 2c, four times."""
    inputs = stage.constants_of(32).inputs()
    weight = {name: inputs[3 * at] for at, name in enumerate(CONVOLUTIONS)}
    made = packed(inputs)["a_weights"].reshape(-1, 32 * 32)
    assert len(made) == 2 + 9 + 4 * 3
    for part in range(2):
        assert np.array_equal(made[part], packed_chunk(weight["a_2a"][:, 32 * part :][:, :32, 0, 0]))
    assert np.array_equal(made[2 + 5], packed_chunk(weight["a_2b"][:, :, 1, 2]))
    third = made[11 + 2 * 3 :][:3]
    assert np.array_equal(third[0], packed_chunk(weight["a_branch1"][64:96, :32, 0, 0]))
    assert np.array_equal(third[1], packed_chunk(weight["a_branch1"][64:96, 32:, 0, 0]))
    assert np.array_equal(third[2], packed_chunk(weight["a_2c"][64:96, :, 0, 0]))
