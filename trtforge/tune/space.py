"""What can be chosen: for each unit of a device a setting, or nothing; all together a combination."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any


@dataclass(frozen=True, order=True)
class Setting:
    """``batch``: of the engine. ``streams``: executions under way at once. ``sram``: bytes of a DLA's, 0 elsewhere."""

    batch: int
    streams: int
    sram: int = 0

    def to_json(self) -> dict[str, int]:
        return {"batch": self.batch, "streams": self.streams, "sram": self.sram}


@dataclass(frozen=True)
class Unit:
    """A GPU, a core of a DLA, or a CPU. ``like``: units with the same engines; one of them is measured alone."""

    name: str
    like: str
    settings: tuple[Setting, ...]


@dataclass(frozen=True)
class Combination:
    """Unit -> what runs on it. Units that are not in it rest."""

    parts: tuple[tuple[str, Setting], ...]

    @classmethod
    def of(cls, parts: Mapping[str, Setting]) -> Combination:
        return cls(tuple(sorted(parts.items())))

    def with_(self, unit: str, setting: Setting | None) -> Combination:
        rest = {name: chosen for name, chosen in self.parts if name != unit}
        return Combination.of(rest if setting is None else rest | {unit: setting})

    def to_json(self) -> dict[str, Any]:
        return {name: setting.to_json() for name, setting in self.parts}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Combination:
        settings = {name: Setting(**setting) for name, setting in value.items()}
        if any(type(number) is not int for setting in settings.values() for number in setting.to_json().values()):
            raise TypeError("a setting is of whole numbers")
        return cls.of(settings)

    def __str__(self) -> str:
        return ", ".join(
            f"{name}: batch {each.batch} x {each.streams}" + (f", {each.sram >> 10} KiB SRAM" if each.sram else "")
            for name, each in self.parts
        )


@dataclass(frozen=True)
class Measured:
    """``rates``: samples a second of each unit over the time all ran. ``p99``: milliseconds from an execution's start
    to its end, of the slowest unit."""

    combination: Combination
    rates: Mapping[str, float]
    p99: float
    problem: str = ""

    @property
    def rate(self) -> float:
        return sum(self.rates.values())

    def to_json(self) -> dict[str, Any]:
        return {
            "combination": self.combination.to_json(),
            "rates": dict(self.rates),
            "p99_ms": self.p99,
            "problem": self.problem,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measured:
        """Raises KeyError, TypeError, ValueError, AttributeError for what `to_json` does not write."""
        rates = {name: float(rate) for name, rate in value["rates"].items()}
        return cls(Combination.from_json(value["combination"]), rates, float(value["p99_ms"]), str(value["problem"]))


@dataclass(frozen=True)
class Space:
    """``latency``: combinations with a longer p99, in milliseconds, are not taken."""

    units: tuple[Unit, ...]
    latency: float | None = None

    def representatives(self) -> list[Unit]:
        """One unit of each kind."""
        return list({unit.like: unit for unit in reversed(self.units)}.values())[::-1]


def settings(batches: Sequence[int], streams: Sequence[int], srams: Sequence[int] = (0,)) -> tuple[Setting, ...]:
    return tuple(Setting(batch, many, sram) for batch, many, sram in product(batches, streams, srams))
