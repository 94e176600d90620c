"""Two scale tables side by side: which tensors they share, and how far their ranges are apart."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median
from typing import Any

from trtforge.scales.table import ScaleTable


@dataclass(frozen=True)
class RangeChange:
    """One tensor whose scale differs. ``ratio``: amax b / a, infinite when only a is zero."""

    name: str
    amax_a: float
    amax_b: float

    @property
    def ratio(self) -> float:
        return self.amax_b / self.amax_a if self.amax_a else math.inf

    @property
    def distance(self) -> float:
        """|log2 ratio|: how many bits of resolution lie between the two; infinite against zero."""
        return abs(math.log2(self.amax_b) - math.log2(self.amax_a)) if self.amax_a and self.amax_b else math.inf


@dataclass(frozen=True)
class ScalesDiff:
    """``changed``: largest difference first. ``equal``: how many shared tensors have the very same float32 scale.

    The scale is what every target gets; an amax that went through a cache may differ from the original in bits that
    no scale shows.
    """

    only_a: tuple[str, ...]
    only_b: tuple[str, ...]
    equal: int
    changed: tuple[RangeChange, ...]
    receipts: tuple[str, ...]

    @property
    def same(self) -> bool:
        """No scale differs; receipts may."""
        return not (self.only_a or self.only_b or self.changed)

    @property
    def median_ratio(self) -> float:
        """b / a over all shared tensors, equal ones included; NaN when there are none."""
        ratios = [change.ratio for change in self.changed] + [1.0] * self.equal
        return median(ratios) if ratios else math.nan

    def to_json(self) -> dict[str, Any]:
        """``ratio`` is null where a is zero, ``median_ratio`` also where no tensor is in both."""
        return {
            "same": self.same,
            "only_a": list(self.only_a),
            "only_b": list(self.only_b),
            "equal": self.equal,
            "median_ratio": _finite(self.median_ratio),
            "changed": [
                {"name": c.name, "amax_a": c.amax_a, "amax_b": c.amax_b, "ratio": _finite(c.ratio)}
                for c in self.changed
            ],
            "receipts": list(self.receipts),
        }

    def to_text(self, limit: int = 20) -> str:
        """A few readable lines; at most ``limit`` tensors of each kind are named."""
        if self.same:
            lines = [f"{self.equal} tensors, all scales equal"]
        elif not (self.equal or self.changed):
            lines = [f"no tensor in both: {len(self.only_a)} only in a, {len(self.only_b)} only in b"]
        else:
            lines = [
                f"{self.equal} equal, {len(self.changed)} different, "
                f"{len(self.only_a)} only in a, {len(self.only_b)} only in b; median ratio b/a {self.median_ratio:.4g}"
            ]
        lines += [f"  {c.amax_a:>12.6g} -> {c.amax_b:<12.6g} x{c.ratio:<8.4g} {c.name}" for c in self.changed[:limit]]
        lines += _rest(len(self.changed), limit, "more differ")
        for side, names in (("a", self.only_a), ("b", self.only_b)):
            lines += [f"  only in {side}: {name}" for name in names[:limit]]
            lines += _rest(len(names), limit, f"more only in {side}")
        return "\n".join(lines + [f"  receipts differ in {what}" for what in self.receipts])


def diff(a: ScaleTable, b: ScaleTable) -> ScalesDiff:
    """Compare two tables by name; either may come from any codec."""
    shared = sorted(a.ranges.keys() & b.ranges.keys())
    changed = [
        RangeChange(name, a.ranges[name].amax, b.ranges[name].amax)
        for name in shared
        if a.ranges[name].scale != b.ranges[name].scale
    ]
    return ScalesDiff(
        only_a=tuple(sorted(a.ranges.keys() - b.ranges.keys())),
        only_b=tuple(sorted(b.ranges.keys() - a.ranges.keys())),
        equal=len(shared) - len(changed),
        changed=tuple(sorted(changed, key=lambda change: (-change.distance, change.name))),
        receipts=_receipt_differences(a, b),
    )


def _receipt_differences(a: ScaleTable, b: ScaleTable) -> tuple[str, ...]:
    if a.receipt is None or b.receipt is None:
        return () if a.receipt is b.receipt else ("presence: only one table has a receipt",)
    compared = {
        "model graph": (a.receipt.model_graph, b.receipt.model_graph),
        "model weights": (a.receipt.model_weights, b.receipt.model_weights),
        "samples": (a.receipt.set_digest, b.receipt.set_digest),
        "preprocessing": (dict(a.receipt.preprocessing), dict(b.receipt.preprocessing)),
        "method": (a.receipt.method, b.receipt.method),
        "tools": (dict(a.receipt.tools), dict(b.receipt.tools)),
    }
    return tuple(what for what, (left, right) in compared.items() if left != right)


def _rest(count: int, limit: int, what: str) -> list[str]:
    return [f"  ... {count - limit} {what}"] if count > limit else []


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
