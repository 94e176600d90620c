"""QNT106: a node to leave in floating point that does not exist."""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class UnknownSkip(Rule):
    """What it does
        Reports names under `quantize.skip` that no node of the graph has, after surgery.

    Why it matters
        The node that was meant would be quantized all the same, so the build refuses the name, after the calibration.
        A node without a name goes by the name of its first output.

    Example
        `quantize: {skip: [Conv_7]}` for a re-export whose nodes are called `/features/Conv_7`.

    Fix
        Take the name from the graph after surgery: `trtforge surgery RECIPE --out m.onnx` writes it.
    """

    code = "QNT106"
    title = "unknown node in quantize.skip"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.engine.precision != "int8":
            return
        labels = [label(node) for node in context.model.proto.graph.node]
        for name in context.engine.quantize.skip:
            if name not in labels:
                near = get_close_matches(name, labels, n=3)
                yield self.finding(
                    "quantize.skip",
                    f"the graph has no node `{name}`",
                    f"did you mean {' or '.join(f'`{entry}`' for entry in near)}?"
                    if near
                    else "see the names: trtforge surgery RECIPE --out m.onnx",
                )
