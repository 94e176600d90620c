"""RTX103: operators that do not build ahead of time."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class NotAheadOfTime(Rule):
    """What it does
        Reports NonMaxSuppression and RoiAlign in a model for TensorRT-RTX.

    Why it matters
        On a machine without a GPU NonMaxSuppression parses and then has "no runners that implement it"; RoiAlign is a
        plugin whose creation asks the CUDA driver and fails already in the parser. Whether they build where there is
        a GPU was not determined.

    Example
        A detector exported with its post-processing.

    Fix
        Cut the network before the operator and do the rest in the application, on the outputs of the engine; or build
        on the device with `backend: tensorrt`.
    """

    code = "RTX103"
    title = "operator cannot be built ahead of time"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.backend != "tensorrt_rtx":
            return
        for operator in ("NonMaxSuppression", "RoiAlign"):
            if nodes := context.of(operator):
                message = f"TensorRT-RTX cannot build {operator} without a GPU"
                fix = "end the exported network before it, or build with backend: tensorrt on the device"
                yield self.finding(places(nodes), message, fix)
