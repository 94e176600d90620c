"""QNT104: a bound that is checked on the samples the ranges came from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class VerifiedOnCalibration(Rule):
    """What it does
        Reports an engine whose `verify` and `calibration` name the same sample set.

    Why it matters
        Min-max ranges cover every value of the calibration samples, so nothing of these saturates. On them the engine
        looks better than on anything else, and the bound says little about what it will meet.

    Example
        `calibration: {set: photographs.yaml}` with `verify: {set: photographs.yaml, at_least: 0.99}`.

    Fix
        Keep some samples back: describe them in a set of their own and name it under `verify`.
    """

    code = "QNT104"
    title = "verified on calibration samples"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        verify, calibration = context.engine.verify, context.engine.calibration
        if context.engine.precision != "int8" or verify is None or calibration is None:
            return
        if verify.set == calibration.set:
            yield self.finding(
                "verify.set",
                f"the bound is checked on the samples the INT8 ranges come from (`{verify.set}`)",
                "name a set of other samples under `verify`",
            )
