"""GRF104: a recipe shape that contradicts the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class InputShape(Rule):
    """What it does
        Compares each shape under `inputs:` with the shape the model declares: the rank, and every fixed dimension.

    Why it matters
        The shape cannot be applied, so nothing can be built. The usual causes are a layout taken for the other one
        (NCHW for NHWC) and a batch that the export has fixed to 1.

    Example
        The model declares `input:0: float[n, 224, 224, 3]`, the recipe says `shape: [1, 3, 224, 224]`.

    Fix
        Write the shape in the model's own layout, `[1, 224, 224, 3]`. If a fixed batch is in the way, export the
        model with an open batch dimension.
    """

    code = "GRF104"
    title = "recipe shape contradicts the model"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, given in context.engine.inputs.items():
            spec = context.inputs.get(name)
            if spec is None or spec.shape is None:
                continue
            if not context.fits(name, given.shape):
                message = f"shape {list(given.shape)} does not fit the model's {context.declared(name)}"
                fix = f"give a shape that fits {context.declared(name)}"
                if 0 in spec.shape:
                    fix = "export the model again: a size of 0 leaves the input empty"
                yield self.finding(f"inputs.{name}.shape", message, fix)
