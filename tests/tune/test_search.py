"""The search, on simulated devices: it must find what exhaustive search finds there, and keep its bounds.

The devices are invented, with contention of a kind that real ones have. They say nothing about any real one.
"""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from trtforge.tune.search import WORTH, search
from trtforge.tune.space import Combination, Measured, Setting, Space, Unit, settings


class Device:
    """Units with a rate that grows with the batch and saturates, and one memory that they share.

    ``peak``: samples a second of a unit with endless batches. ``half``: the batch that gives half of it. ``bytes_``: of
    memory traffic per sample; the sum over units cannot exceed ``bandwidth``, and all slow down in proportion.
    """

    def __init__(self, peak: dict[str, float], half: float = 4.0, bytes_: float = 1.0, bandwidth: float = 1e9) -> None:
        self.peak, self.half, self.bytes, self.bandwidth = peak, half, bytes_, bandwidth
        self.asked: list[Combination] = []

    def measure(self, combination: Combination) -> Measured:
        self.asked.append(combination)
        rates = {}
        for unit, setting in combination.parts:
            rate = self.peak[unit] * setting.batch / (setting.batch + self.half)
            rate *= min(1.0, 0.7 + 0.3 * (setting.streams - 1)) * (1 + 0.1 * (setting.sram > 1 << 19))
            rates[unit] = rate
        demand = sum(rates.values()) * self.bytes
        slower = min(1.0, self.bandwidth / demand)
        rates = {unit: rate * slower for unit, rate in rates.items()}
        slowest = max(setting.batch * setting.streams / rates[unit] for unit, setting in combination.parts)
        return Measured(combination, rates, 1000 * slowest)


def space(latency: float | None = None) -> Space:
    gpu = Unit("gpu", "gpu", settings((1, 4, 16), (1, 2)))
    dlas = [Unit(f"dla{core}", "dla", settings((1, 4, 16), (1, 2), (1 << 19, 1 << 20))) for core in (0, 1)]
    return Space((gpu, *dlas), latency)


def exhaustive(space: Space, device: Device) -> float:
    best = 0.0
    for chosen in product(*((*unit.settings, None) for unit in space.units)):
        parts = {unit.name: setting for unit, setting in zip(space.units, chosen, strict=True) if setting is not None}
        if parts:
            measured = device.measure(Combination.of(parts))
            if space.latency is None or measured.p99 <= space.latency:
                best = max(best, measured.rate)
    return best


@given(
    peaks=st.tuples(*[st.floats(50, 5000)] * 2),
    half=st.floats(0.5, 16),
    bandwidth=st.floats(100, 20000),
    latency=st.one_of(st.none(), st.floats(1, 200)),
)
@example(peaks=(50.0, 2728.0), half=0.5, bandwidth=2850.0, latency=1.0)  # all at their best leave no time
@hypothesis_settings(max_examples=40, deadline=None)
def test_it_comes_near_exhaustive_search(
    peaks: tuple[float, float], half: float, bandwidth: float, latency: float | None
) -> None:
    peak = {"gpu": peaks[0], "dla0": peaks[1], "dla1": peaks[1]}
    device = Device(peak, half, 1.0, bandwidth)
    best = search(space(latency), device.measure)
    there = exhaustive(space(latency), Device(peak, half, 1.0, bandwidth))
    if there == 0:
        assert best is None
    else:
        assert best is not None and best.rate >= there / 1.07
        assert latency is None or best.p99 <= latency


def test_it_asks_for_far_less_than_everything() -> None:
    device = Device({"gpu": 2000, "dla0": 400, "dla1": 400}, bandwidth=1500)
    assert search(space(), device.measure) is not None
    assert len(set(device.asked)) < 120
    alone = [each for each in device.asked if len(each.parts) == 1]
    assert not any(name == "dla1" for each in alone for name, _ in each.parts), "a core like another is not asked alone"


def test_a_unit_that_is_in_the_way_rests() -> None:
    """Memory is short, and the DLA's samples cost more of it than the GPU's."""

    class Narrow(Device):
        def measure(self, combination: Combination) -> Measured:
            units = {name for name, _ in combination.parts}
            if units == {"gpu"}:
                return Measured(combination, {"gpu": 100.0}, 1.0)
            if "gpu" in units:
                return Measured(combination, dict.fromkeys(units, 80.0 / len(units)), 1.0)
            return Measured(combination, dict.fromkeys(units, 10.0), 1.0)

    best = search(space(), Narrow({}).measure)
    assert best is not None and [name for name, _ in best.combination.parts] == ["gpu"]


def test_settings_that_fail_are_not_taken() -> None:
    def measure(combination: Combination) -> Measured:
        if any(setting.batch > 4 for _, setting in combination.parts):
            return Measured(combination, {}, 0.0, "BLD204 no memory")
        return Measured(combination, {name: float(each.batch) for name, each in combination.parts}, 1.0)

    best = search(space(), measure)
    assert best is not None and {each.batch for _, each in best.combination.parts} == {4}
    assert search(space(), lambda combination: Measured(combination, {}, 0.0, "BLD204")) is None


def test_noise_moves_nothing() -> None:
    """Below one part in a hundred a change is not worth a move: the search ends."""
    asked: list[Combination] = []

    def measure(combination: Combination) -> Measured:
        asked.append(combination)
        return Measured(combination, {"gpu": 100.0 + len(asked) % 7 * 0.1}, 1.0)

    assert search(space(), measure) is not None and WORTH > 1.007
    assert len(asked) < 200


def test_of_what_noise_cannot_tell_apart_the_quickest_is_taken() -> None:
    """A batch of 16 that gives half a percent more than one of 4, and takes four times as long, is nobody's choice."""
    rates = {1: 50.0, 4: 100.0, 16: 100.5}

    def measure(combination: Combination) -> Measured:
        ((unit, setting),) = combination.parts
        return Measured(combination, {unit: rates[setting.batch]}, float(setting.batch))

    best = search(Space((Unit("cpu", "cpu", settings((1, 4, 16), (1,))),)), measure)
    assert best is not None and best.combination.parts[0][1].batch == 4


@pytest.mark.parametrize("count", [1, 3])
def test_combinations_are_data(count: int) -> None:
    made = Combination.of({f"u{n}": Setting(n + 1, 2, n << 19) for n in range(count)})
    assert Combination.from_json(made.to_json()) == made
    assert made.with_("u0", None).with_("u0", dict(made.parts)["u0"]) == made
    assert str(made).startswith("u0: batch 1 x 2")
