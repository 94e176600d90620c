"""Scales are data: tensor name -> the range seen in calibration, with a receipt of how it was seen.

A table is a property of model and data, never of a device. Scale means amax / 127 (symmetric INT8).
Reading and writing the file is in :mod:`trtforge.scales.table_json`; the methods here forward to it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge.digest import digest_json, set_digest
from trtforge.errors.calibration import InvalidRange, MergeRefused, ScalesMismatch

if TYPE_CHECKING:
    from trtforge.graph.model import Digests

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Scales below the smallest normal float32 cannot be inverted by hardware that flushes subnormals to zero."""


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value seen of one tensor over ``count`` samples. ``count`` 0: known only as amax."""

    min: float
    max: float
    count: int

    @classmethod
    def from_scale(cls, scale: np.float32 | float) -> TensorRange:
        """The range whose ``scale`` is this float32, bit for bit.

        127 * scale has at most 31 significant bits, so it is exact in the float64 that ``min`` and ``max`` are.
        """
        amax = 127.0 * float(scale)
        return cls(-amax, amax, 0)

    @property
    def amax(self) -> float:
        return max(abs(self.min), abs(self.max))

    @property
    def scale(self) -> np.float32:
        """amax / 127, rounded once to float32. 0 when nothing but zeros was seen."""
        # Dividing in float64 and rounding is the correctly rounded float32 quotient for a float32 amax (53 >= 2*24+2
        # bits), and gives `from_scale` its argument back, which a float32 division would not.
        return np.float32(self.amax / 127.0)

    @property
    def usable_scale(self) -> np.float32:
        """``scale``, or 1 where it is too small to divide by: every compiler wants a positive scale.

        A tensor that was zero in every sample stays exactly zero under any scale. onnxruntime's quantizer makes the
        same choice.
        """
        return self.scale if self.scale >= SMALLEST_SCALE else np.float32(1.0)


@dataclass(frozen=True)
class Receipt:
    """How a table came to be. All fields JSON-able; digests are hex sha256.

    ``samples``: sample id -> digest. ``set_digest`` does not depend on their order. ``uncovered``: float
    activations of the graph for which no range was seen.
    """

    method: str
    samples: Mapping[str, str]
    set_digest: str
    preprocessing: Mapping[str, Any]
    model_graph: str
    model_weights: str
    tools: Mapping[str, str]
    uncovered: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The ``receipt`` object of the file."""
        return {
            "method": self.method,
            "samples": dict(sorted(self.samples.items())),
            "set_digest": self.set_digest,
            "preprocessing": dict(self.preprocessing),
            "model_graph": self.model_graph,
            "model_weights": self.model_weights,
            "tools": dict(sorted(self.tools.items())),
            "uncovered": list(self.uncovered),
        }


@dataclass(frozen=True)
class ScaleTable:
    """Ranges by tensor name. A table that holds an impossible range cannot be made (raises InvalidRange)."""

    ranges: Mapping[str, TensorRange]
    receipt: Receipt | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, seen in self.ranges.items():
            check_range(name, seen)

    def to_json(self) -> dict[str, Any]:
        """The content of the file as JSON-able values; see ``trtforge.scales.table_json.SCHEMA``."""
        from trtforge.scales.table_json import to_json

        return to_json(self)

    @classmethod
    def from_json(cls, value: Any, *, where: str = "") -> ScaleTable:
        """Raises ScalesFileInvalid, ScalesTooNew, InvalidRange. ``where``: the file, for messages."""
        from trtforge.scales.table_json import from_json

        return from_json(value, where=where)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises OSError."""
        from trtforge.scales.table_json import save

        save(self, path)

    @classmethod
    def load(cls, path: Path) -> ScaleTable:
        """Raises ScalesFileInvalid (also when the file cannot be read), ScalesTooNew, InvalidRange."""
        from trtforge.scales.table_json import load

        return load(path)

    @property
    def digest(self) -> str:
        """Hex sha256 of the canonical JSON: equal tables have equal digests, whatever order they were filled in."""
        return digest_json(self.to_json())


def check_range(name: str, seen: TensorRange) -> None:
    """Raises InvalidRange unless min <= max, both finite and their scale a finite float32, and count >= 0."""
    why = ""
    if not (math.isfinite(seen.min) and math.isfinite(seen.max)):
        why = f"min is {seen.min} and max is {seen.max}; both must be finite"
    elif seen.min > seen.max:
        why = f"min {seen.min} is greater than max {seen.max}"
    elif seen.amax > float(np.finfo(np.float32).max) * 127.0:
        why = f"amax {seen.amax} gives a scale beyond float32"
    elif seen.count < 0:
        why = f"count is {seen.count}; it counts samples"
    if why:
        raise InvalidRange(
            f"the range of tensor {name!r} is impossible",
            where=name,
            why=why,
            next="run `trtforge calibrate RECIPE` again; it names the sample that brings NaN or Inf",
        )


def merge_ranges(a: TensorRange, b: TensorRange) -> TensorRange:
    """The range of both sets of samples together: exact, associative, commutative.

    Adding 0.0 turns -0.0 into 0.0, so that the bits do not depend on the order either.
    """
    return TensorRange(min(a.min, b.min) + 0.0, max(a.max, b.max) + 0.0, a.count + b.count)


def merge(a: ScaleTable, b: ScaleTable) -> ScaleTable:
    """One table for two disjoint sets of samples, as if all had been seen in one run.

    Associative and commutative. Notes survive where both tables agree. Raises MergeRefused when the receipts do not
    describe the same model, method and preprocessing, or share a sample.
    """
    names = sorted({*a.ranges, *b.ranges})
    ranges = {name: _merged_range(a.ranges.get(name), b.ranges.get(name)) for name in names}
    notes = {key: value for key, value in a.notes.items() if key in b.notes and b.notes[key] == value}
    return ScaleTable(ranges, _merge_receipts(a.receipt, b.receipt, covered=ranges.keys()), notes)


def _merged_range(a: TensorRange | None, b: TensorRange | None) -> TensorRange:
    if a is not None and b is not None:
        return merge_ranges(a, b)
    only = a if a is not None else b
    assert only is not None  # the name came from one of the two tables
    return TensorRange(only.min + 0.0, only.max + 0.0, only.count)


def _merge_receipts(a: Receipt | None, b: Receipt | None, covered: Any) -> Receipt | None:
    if a is None and b is None:
        return None
    if a is None or b is None:
        raise MergeRefused(
            "two tables cannot be merged: one has no receipt",
            why="without a receipt nothing says that both were made for the same model",
            next="calibrate both parts with `trtforge calibrate`, which writes the receipt",
        )
    compared = (
        ("model graph", a.model_graph, b.model_graph),
        ("model weights", a.model_weights, b.model_weights),
        ("calibration method", a.method, b.method),
        ("preprocessing", dict(a.preprocessing), dict(b.preprocessing)),
    )
    for what, left, right in compared:
        if left != right:
            raise MergeRefused(
                f"two tables cannot be merged: they differ in {what}",
                why=f"{left} against {right}",
                next="merge only tables that were calibrated from one recipe, on different samples",
            )
    twice = sorted(a.samples.keys() & b.samples.keys())
    if twice:
        raise MergeRefused(
            f"two tables cannot be merged: {len(twice)} sample(s) are in both",
            where=twice[0],
            why="a sample seen twice would be counted twice",
            next="split the calibration set into disjoint parts, or calibrate the whole set in one run",
        )
    samples = {**a.samples, **b.samples}
    return Receipt(
        method=a.method,
        samples=dict(sorted(samples.items())),
        set_digest=set_digest(list(samples.values())),
        preprocessing=a.preprocessing,
        model_graph=a.model_graph,
        model_weights=a.model_weights,
        tools=_merge_tools(a.tools, b.tools),
        uncovered=tuple(sorted({*a.uncovered, *b.uncovered} - set(covered))),
    )


def _merge_tools(a: Mapping[str, str], b: Mapping[str, str]) -> dict[str, str]:
    """Versions of both runs; where they differ, all of them: ``1.31.0 | 1.32.0``."""
    versions: dict[str, set[str]] = {}
    for name, version in [*a.items(), *b.items()]:
        versions.setdefault(name, set()).update(version.split(" | "))
    return {name: " | ".join(sorted(found)) for name, found in sorted(versions.items())}


_COVERS = {
    "graph": "digest of the graph and the weights in its file",
    "weights": "digest of the weights in other files",
    "preprocessing": "digest of the preprocessing",
}


def check_matches(
    table: ScaleTable,
    identity: Digests,
    *,
    preprocessing: Mapping[str, Any] | None = None,
    where: str = "",
    next: str = "",
) -> None:
    """Refuse scales that were made for something else than what is being built.

    Args:
        identity: digests of the float model the scales will be lowered onto.
        preprocessing: what the recipe asks for; None when it does not say.
        where: the scales file, for the message.
        next: the command that makes fitting scales, when the caller knows it.

    Raises:
        ScalesMismatch: the table has no receipt, or a digest differs; the message says which one.
    """
    remedy = next or "run `trtforge calibrate RECIPE` with this recipe and build again"
    if table.receipt is None:
        raise ScalesMismatch(
            "the scales have no receipt",
            where=where,
            why="nothing says which model and samples they come from",
            next=remedy,
        )
    receipt = table.receipt
    differing = [
        (what, made_for, here)
        for what, made_for, here in (
            ("graph", receipt.model_graph, identity.graph),
            ("weights", receipt.model_weights, identity.weights),
        )
        if made_for != here
    ]
    if preprocessing is not None and digest_json(dict(receipt.preprocessing)) != digest_json(dict(preprocessing)):
        differing.append(
            ("preprocessing", digest_json(dict(receipt.preprocessing)), digest_json(dict(preprocessing))),
        )
    if differing:
        raise ScalesMismatch(
            f"the scales were made for another {' and '.join(what for what, _, _ in differing)}",
            where=where,
            why="; ".join(f"{_COVERS[what]}: scales {old[:12]}, here {new[:12]}" for what, old, new in differing),
            next=remedy,
        )
