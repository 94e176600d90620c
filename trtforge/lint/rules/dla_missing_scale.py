"""DLA106: INT8 tensors without a scale on the DLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.precision import may_be_int8
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaMissingScale(Rule):
    """What it does
        For an INT8 engine on a DLA, reports the inputs and outputs of layers the DLA runs in INT8 for which the scale
        table has no entry. Constants, and tensors that are not floating point, need none.

    Why it matters
        Through TensorRT 10.7 the DLA is quantized by ranges alone. One tensor without a range makes TensorRT run its
        producer and its consumers in FP16, which on Orin's DLA is an order of magnitude slower, or on the GPU.

    Example
        A calibration cache that covers the output of every Relu but not of the Conv in front of an Add.

    Fix
        Calibrate all tensors of this model: `trtforge calibrate RECIPE` covers every float activation.
    """

    code = "DLA106"
    title = "DLA tensor without a scale"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla or context.engine.precision != "int8" or context.scales is None:
            return
        missing = missing_scales(context)
        if missing:
            many = (
                "one tensor of INT8 layers has" if len(missing) == 1 else f"{len(missing)} tensors of INT8 layers have"
            )
            yield self.finding(
                [f"`{name}`" for name in missing],
                f"{many} no scale: the layers around run in FP16 or on the GPU",
                "trtforge calibrate RECIPE",
            )


def missing_scales(context: Context) -> list[str]:
    """Float activations at INT8-capable DLA layers that the table does not cover, in graph order."""
    ranges = context.scales.ranges if context.scales is not None else {}
    missing: dict[str, None] = {}
    for node in context.active_nodes:
        if not may_be_int8(context, node):
            continue
        for name in (*node.input, *node.output):
            if name and name not in ranges and name not in context.constants and _is_float(context, name):
                missing[name] = None
    return list(missing)


def _is_float(context: Context, name: str) -> bool:
    known = context.types.get(name)
    return known is None or known.dtype.startswith(("float", "unknown"))
