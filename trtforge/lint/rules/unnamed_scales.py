"""QNT102: scales under names TensorRT made up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule, some

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class UnnamedScales(Rule):
    """What it does
        Reports scales named `(Unnamed Layer* N) [Type]_output`: names TensorRT gives to tensors of layers it added
        itself while parsing.

    Why it matters
        N counts layers, so it shifts as soon as the parser adds one more, with another TensorRT or after surgery.
        The entry then silently belongs to another tensor or to none, and the layer loses INT8 or uses a wrong range.

    Example
        A calibration cache with the line `(Unnamed Layer* 12) [Shuffle]_output: 3c010204`.

    Fix
        Calibrate with `trtforge calibrate`: its table is keyed by the model's own tensor names. Or drop the unnamed
        lines and let the layers around take their ranges from named tensors.
    """

    code = "QNT102"
    title = "scales of unnamed TensorRT layers"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        unnamed = [name for name in (context.scales.ranges if context.scales else ()) if is_unnamed(name)]
        if unnamed:
            yield self.finding(
                f"scales: {some(unnamed)}",
                f"{len(unnamed)} scales belong to numbered layers of one TensorRT version",
                "recalibrate with `trtforge calibrate`, or drop these entries",
            )


def is_unnamed(name: str) -> bool:
    """TensorRT writes `(Unnamed Layer* 3) [Scale]_output`; the star stands for a layer without a name."""
    return name.startswith("(Unnamed Layer")
