"""DLA101: no DLA for this device, TensorRT and JetPack."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule
from trtforge.targets.load import dla_support, version_tuple

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaUnavailable(Rule):
    """What it does
        Looks up whether the device, the TensorRT and the JetPack of the recipe can use a DLA together. It is a table:
        TensorRT through 10.7 can, 10.8 to 11.3 cannot, 11.4.1 can again on Jetson AGX Orin with JetPack 7.2.2.

    Why it matters
        Where the DLA is missing TensorRT ends with "Cannot create DLA engine", or, with GPU fallback, gives every
        layer to the GPU and says so only in its log.

    Example
        `target: orin-agx-64gb/dla` with `tensorrt: "10.9"`.

    Fix
        Stay on the TensorRT your JetPack ships (10.3 on JetPack 6.2) or use 10.7, the last 10.x with a DLA; or target
        the GPU of the same device. `trtforge targets` prints the table.
    """

    code = "DLA101"
    title = "DLA not available"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        if context.tensorrt is not None and version_tuple(context.tensorrt) is None:
            message = f"`{context.tensorrt}` is a range, and not every TensorRT has a DLA"
            yield self.finding("tensorrt", message, 'name the version on the device, e.g. "10.3"', severity="hint")
            return
        supported, why = dla_support(context.target.key, context.tensorrt, context.jetpack)
        if not supported:
            fix = f"use a TensorRT with a DLA on the device, or target {context.target.device}/gpu"
            yield self.finding(f"target {context.target.key}", why, fix)
        elif context.tensorrt is None and context.jetpack is None:
            fix = 'add the version on the device to the recipe, e.g. tensorrt: "10.3"'
            yield self.finding(f"target {context.target.key}", why, fix, severity="hint")
