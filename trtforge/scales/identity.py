"""Do these scales belong to this model? TensorRT ignores names that the network does not have, without an error."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trtforge.errors.scales import ScalesNotOfModel
from trtforge.graph.index import Index
from trtforge.graph.model import Model

ENOUGH = 0.5
"""The share of a table's names that a model must have. Two networks share `input` or `/conv1/Conv_output_0` by chance;
one network after surgery still has most of its names."""

UNNAMED = "(Unnamed Layer*"
"""How TensorRT calls what it adds to a network itself. No model has these names."""


@dataclass(frozen=True)
class Match:
    """Names of a table against those of a model. ``internal``: TensorRT's own, which count neither way."""

    known: tuple[str, ...]
    unknown: tuple[str, ...]
    internal: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the names that count, those the model has; 0 when none counts."""
        total = len(self.known) + len(self.unknown)
        return len(self.known) / total if total else 0.0

    def findings(self) -> list[str]:
        """What to tell about scales that are taken although not all names fit."""
        told = []
        if self.unknown:
            shown = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            total = len(self.known) + len(self.unknown)
            told.append(f"{len(self.unknown)} of {total} scales name no tensor of the model and are not used: {shown}")
        if self.internal:
            told.append(
                f"{len(self.internal)} scales are of tensors that TensorRT added itself ({UNNAMED} N)); "
                "another TensorRT may number them otherwise"
            )
        return told


def match(names: Iterable[str], model: Model) -> Match:
    """Which of the names are tensors of the model's graph (its subgraphs not counted)."""
    present = Index(model.proto.graph).names()
    known, unknown, internal = list[str](), list[str](), list[str]()
    for name in names:
        (known if name in present else internal if name.startswith(UNNAMED) else unknown).append(name)
    return Match(tuple(known), tuple(unknown), tuple(internal))


def check_names(names: Iterable[str], model: Model, *, where: str = "") -> Match:
    """The match, when at least half of the names fit. Raises ScalesNotOfModel. ``where``: the file of the scales."""
    found = match(names, model)
    if found.share < ENOUGH:
        total = len(found.known) + len(found.unknown)
        stranger = found.unknown[0] if found.unknown else next(iter(found.internal), "")
        raise ScalesNotOfModel(
            f"the scales are not of this model: it has {len(found.known)} of their {total} tensors",
            where=where,
            why=f"the model has no {stranger!r}; at least {ENOUGH:.0%} of the names must be its own"
            if stranger
            else "they name no tensor at all",
            next="use the model that was calibrated, or calibrate this one: `trtforge calibrate RECIPE`",
        )
    return found


def shown_version(number: int) -> str:
    """8602 -> "8.6.2", 100300 -> "10.3.0": the version behind the number in a header."""
    major_part = 10000 if number >= 100000 else 1000
    return f"{number // major_part}.{number % major_part // 100}.{number % 100}"
