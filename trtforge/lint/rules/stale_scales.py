"""QNT103: scales of tensors the model does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule, some
from trtforge.lint.rules.unnamed_scales import is_unnamed

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class StaleScales(Rule):
    """What it does
        Reports scales whose tensor does not exist in the model.

    Why it matters
        They do nothing, and where they stand for tensors that were renamed, the tensors under their new names have
        no range and fall back to floating point. A table made by trtforge is checked by its receipt; this catches
        caches that came from elsewhere.

    Example
        A cache calibrated on a PyTorch export, used with a re-export in which `input.4` became `/conv1/Conv_output_0`.

    Fix
        Calibrate this model: `trtforge calibrate RECIPE`.
    """

    code = "QNT103"
    title = "scales of unknown tensors"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.scales is None:
            return
        tensors = context.index.names()
        stale = [name for name in context.scales.ranges if name not in tensors and not is_unnamed(name)]
        if stale:
            yield self.finding(
                f"scales: {some(stale)}",
                f"{len(stale)} of {len(context.scales.ranges)} scales name no tensor of the model",
                "calibrate this model: `trtforge calibrate RECIPE`",
            )
