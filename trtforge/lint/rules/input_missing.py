"""GRF102: a model input the recipe does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class InputMissing(Rule):
    """What it does
        Reports an input of the model, of fixed shape, that has no entry under `inputs:`. One that has an entry of
        another name by mistake is the matter of GRF101.

    Why it matters
        Every input has to be fed, in calibration, in verification and at run time; the recipe is where its dtype,
        layout and preprocessing are said.

    Example
        A detector takes `image` and `image_info`; the recipe describes `image` only.

    Fix
        Add the input with the shape the model states; the finding writes the line for you. If the input is not
        meant to be one (a constant that was exported as an input), give it a value in the export.
    """

    code = "GRF102"
    title = "model input not in the recipe"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, spec in context.inputs.items():
            if name not in (*context.engine.inputs, *context.misnamed.values()) and spec.is_static:
                line = f'add to inputs: "{name}": {{shape: {list(spec.shape or ())}, dtype: {spec.dtype}}}'
                yield self.finding(f"input `{name}`", "the recipe does not describe this input", line)
