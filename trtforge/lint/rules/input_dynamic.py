"""GRF103: open dimensions that nobody closes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class InputDynamic(Rule):
    """What it does
        Reports an input with open dimensions (a symbol such as `n`, or unknown) for which the recipe gives no shape.
        One that has an entry of another name by mistake is the matter of GRF101.

    Why it matters
        trtforge builds for one shape: memory, tactics and INT8 ranges all follow from it, and a DLA takes nothing
        else. With an open dimension there is nothing to build for.

    Example
        The model declares `x: float[n, 3, h, w]` and `inputs:` has no `x`.

    Fix
        Give the shape the engine should have, batch included:

            inputs:
              x: {shape: [8, 3, 224, 224]}
    """

    code = "GRF103"
    title = "open dimensions without a shape"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, spec in context.inputs.items():
            if name in (*context.engine.inputs, *context.misnamed.values()) or spec.is_static:
                continue
            message = f"the model leaves it open ({context.declared(name)}) and the recipe gives no shape"
            # the fixed sizes are copied, the open ones are the user's to choose
            sizes = "[" + ", ".join(str(size) if isinstance(size, int) else "?" for size in spec.shape or ()) + "]"
            yield self.finding(
                f"input `{name}`", message, f'add to inputs: "{name}": {{shape: {sizes}}}, each ? a number'
            )
