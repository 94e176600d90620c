"""GRF105: a recipe type that contradicts the model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


_CHOSEN_ON_THE_DEVICE = {"float32", "float16", "int8"}
"""Types among which TensorRT converts at the engine's border, whatever the graph says."""


class InputDtype(Rule):
    """What it does
        Compares each `dtype` under `inputs:` and `outputs:` (float32 when it is left out) with the type the model
        declares. Native TensorRT may take float32, float16 and int8 for one another at an engine's border; nobody else
        may.

    Why it matters
        Samples are prepared in the recipe's type, and neither calibration nor the engine converts them. Token ids are
        the usual case: the model takes int64, the recipe says nothing and so means float32.

    Example
        The model declares `input_ids: int64[n, 128]`, the recipe says `input_ids: {shape: [1, 128]}`.

    Fix
        Write the model's type: `input_ids: {shape: [1, 128], dtype: int64}`.
    """

    code = "GRF105"
    title = "recipe type contradicts the model"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        for name, taken in context.engine.inputs.items():
            if name in context.inputs:
                yield from self._against(context, f"inputs.{name}", taken.dtype, context.inputs[name].dtype, "takes")
        for name, given in context.engine.outputs.items():
            if name in context.index.outputs and (known := context.types.get(name)) is not None:
                yield from self._against(context, f"outputs.{name}", given.dtype, known.dtype, "gives")

    def _against(self, context: Context, where: str, said: str, declared: str, does: str) -> Iterator[Finding]:
        chosen = context.backend == "tensorrt" and {said, declared} <= _CHOSEN_ON_THE_DEVICE
        if said != declared and not chosen:
            message = f"it is {said}, the model {does} {declared}"
            yield self.finding(f"{where}.dtype", message, f"write dtype: {declared}")
