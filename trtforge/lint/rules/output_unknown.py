"""GRF108: a recipe output the model does not have."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule, some

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class OutputUnknown(Rule):
    """What it does
        Reports an entry under `outputs:` whose name is not an output of the model after surgery.

    Why it matters
        Types and formats are bound to outputs by name. A wrong name leaves the real output float32 and linear, and
        whoever reads the engine's memory expects something else.

    Example
        The model's output is `logits`; the recipe says

            outputs:
              y: {dtype: int8, format: chw32}

    Fix
        Use the model's own name. `trtforge inspect MODEL.onnx` lists the outputs of a model. A pass such as `topk-head`
        changes them: `trtforge surgery RECIPE --out after.onnx` writes the model that the recipe speaks of.
    """

    code = "GRF108"
    title = "recipe output not in the model"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        there = sorted(context.index.outputs)
        for name in context.engine.outputs:
            if name not in there:
                near = get_close_matches(name, there, n=1, cutoff=0.5)
                fix = f"rename it to `{near[0]}`" if near else f"use one of: {some(there, 8)}"
                yield self.finding(f"outputs.{name}", f"the model has no output `{name}`", fix)
