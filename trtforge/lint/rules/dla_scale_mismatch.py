"""DLA110: tensors that the DLA gives one scale and that have different ranges."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import place
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

ELEMENTWISE = ("Add", "Sub", "Sum", "Max", "Min")
LARGEST_RATIO = 4.0
"""Two of eight bits lost. Our choice: below it, networks that NVIDIA publishes would be full of findings."""


class DlaScaleMismatch(Rule):
    """What it does
        In INT8, compares the ranges of the inputs of Concat, Add, Sub, Sum, Max and Min on the DLA. Reports those where
        the largest is at least four times the smallest.

    Why it matters
        The DLA has one scale for all inputs of such a layer, and takes the larger range (documented, TensorRT 8.2 to
        10.3). The tensor with the small range then uses a part of the 255 steps only: a ratio of 4 costs it 2 of its 8
        bits, a ratio of 16 costs 4. An output that the GPU gets right can be wrong on the DLA for that.

    Example
        A Concat of box offsets, up to 2, and class scores, up to 40.

    Fix
        Normalize what goes in, or keep the tensors apart: two outputs instead of one Concat. Or name the layer in
        `quantize: {skip: [...]}`, which on Orin's DLA is slow. `trtforge scales show` has all ranges.
    """

    code = "DLA110"
    title = "one DLA scale for different ranges"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla or context.engine.precision != "int8" or context.scales is None:
            return
        found: list[tuple[float, str]] = []
        for where in context.placement.places:
            if where.device == "dla" and where.precision == "int8" and where.node.op_type in ("Concat", *ELEMENTWISE):
                ratio = _ratio(context, where.node)
                if ratio >= LARGEST_RATIO:
                    found.append((ratio, place(where.node)))
        if found:
            found.sort(key=lambda entry: -entry[0])
            names = [name for _, name in found]
            message = (
                f"the ranges of its inputs differ up to {found[0][0]:.0f} times, and the DLA has one scale for all"
            )
            yield self.finding(
                names,
                message,
                "bring the ranges closer, make them two outputs, or name the layers in quantize: {skip: [...]}",
            )


def _ratio(context: Context, node: NodeProto) -> float:
    """The largest range of the inputs over the smallest that is not zero; 1 when fewer than two are known."""
    assert context.scales is not None  # the caller looked
    ranges = [context.scales.ranges[name].amax for name in node.input if name in context.scales.ranges]
    positive = [amax for amax in ranges if amax > 0]
    return max(positive) / min(positive) if len(positive) > 1 else 1.0
