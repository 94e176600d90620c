"""DLA102: batch and sizes a DLA loadable fixes."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule, Severity

if TYPE_CHECKING:
    from trtforge.lint.context import Context


MAX_BATCH = 4096
MAX_SIZE = 8192


class DlaBatch(Rule):
    """What it does
        Checks the input shapes against the DLA's limits: one batch for all inputs, at most 4096 (the product of all
        dimensions left of C, H, W), other dimensions from 1 to 8192; and says when an open batch becomes a fixed one.

    Why it matters
        A DLA loadable is compiled for exactly one batch, with no optimization profile. Layers with another batch go
        into another loadable, what is over a limit to the GPU, and without GPU fallback the build fails. At run time
        every call must bring exactly that many items.

    Example
        The model declares `x: float[n, 3, 224, 224]`, the recipe `shape: [8, 3, 224, 224]`: the engine takes 8 images a
        call, and a call with 3 is padded or refused.

    Fix
        Give all inputs the same batch, the first size of `inputs: {NAME: {shape: [...]}}`; choose the one the
        application will use (1 for latency). Build one engine for each batch you need.
    """

    code = "DLA102"
    title = "batch fixed by the DLA"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        shapes = {name: spec.shape for name, spec in context.engine.inputs.items() if spec.shape}
        severity: Severity = "warning" if context.gpu_fallback else "error"
        yield from self._check_limits(shapes, severity)
        batches = {name: _batch(shape) for name, shape in shapes.items() if len(shape) > 1}  # one axis has no batch
        if len(set(batches.values())) > 1:
            named = ", ".join(f"{name}: {batch}" for name, batch in batches.items())
            message = f"the batches differ ({named}), and a DLA loadable has one: layers of another are apart from it"
            yield self.finding("inputs", message, "give all inputs one batch", severity=severity)
        for name, shape in shapes.items():
            declared = context.inputs.get(name)
            if declared is not None and declared.shape and not isinstance(declared.shape[0], int):
                message = f"the model's open batch `{declared.shape[0] or '?'}` is fixed to {shape[0]} in the engine"
                fix = f"nothing, when every call brings {shape[0]}; else one engine for each batch you need"
                yield self.finding(f"inputs.{name}.shape", message, fix, severity="hint")

    def _check_limits(self, shapes: dict[str, tuple[int, ...]], severity: Severity) -> Iterator[Finding]:
        for name, shape in shapes.items():
            where = f"inputs.{name}.shape"
            if _batch(shape) > MAX_BATCH:
                message = f"a batch of {_batch(shape)} is more than the DLA's {MAX_BATCH}"
                yield self.finding(where, message, f"use a batch of at most {MAX_BATCH}", severity=severity)
            if any(size > MAX_SIZE for size in (shape[-3:] if len(shape) > 3 else shape[1:])):
                message = f"{list(shape)} has a dimension over the DLA's {MAX_SIZE}"
                fix = f"cut the input into tiles of at most {MAX_SIZE}"
                yield self.finding(where, message, fix, severity=severity)


def _batch(shape: tuple[int, ...]) -> int:
    """All that is left of C, H and W; the first axis where there are fewer."""
    return prod(shape[:-3]) if len(shape) > 3 else shape[0]
