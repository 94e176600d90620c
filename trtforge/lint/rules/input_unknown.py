"""GRF101: a recipe input the model does not have."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class InputUnknown(Rule):
    """What it does
        Reports an entry under `inputs:` whose name is not an input of the model.

    Why it matters
        Shapes and preprocessing are bound to inputs by name. A wrong name leaves the real input undescribed, and
        calibration would feed nothing to it. TensorFlow exports carry a `:0` that is easily forgotten.

    Example
        The model's input is `input:0`; the recipe says

            inputs:
              input: {shape: [1, 224, 224, 3]}

    Fix
        Use the model's own name, in quotes when it holds a colon:

            inputs:
              "input:0": {shape: [1, 224, 224, 3]}

        `trtforge inspect MODEL.onnx` lists the inputs of a model.
    """

    code = "GRF101"
    title = "recipe input not in the model"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name in context.engine.inputs:
            if name not in context.inputs:
                yield self.finding(f"inputs.{name}", f"the model has no input `{name}`", _fix(context, name))


def _fix(context: Context, name: str) -> str:
    if not context.inputs:
        return "export the model again: it takes no inputs, all of it is constant"
    if name in context.misnamed:
        return f"rename it to `{context.misnamed[name]}`"
    lacking = [other for other in context.inputs if other not in context.engine.inputs]
    return f"use one of: {', '.join(lacking)}" if lacking else "remove it: the recipe has all inputs of the model"
