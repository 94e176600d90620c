"""DLA107: FP16 convolutions on Orin's DLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaFp16Convolution(Rule):
    """What it does
        Reports convolutions that will run in FP16 on the DLA of an Orin: all of them with `precision: fp16`, and with
        `int8` those named in `quantize.skip` or lacking a scale at their input or output.

    Why it matters
        Orin's DLA has its arithmetic in INT8. FP16 convolutions run on a smaller unit: a published ResNet-50
        measurement on an AGX Orin (TensorRT 10.3, batch 1) has 17.7 ms in FP16 beside 1.28 ms in INT8, and 1.03 ms in
        FP16 on the GPU. Xavier's DLA does not have this gap.

    Example
        `target: orin-agx-64gb/dla`, `precision: fp16`.

    Fix
        `precision: int8` with `calibration: {set: ...}`; in an engine that has both, take the layers out of
        `quantize: {skip: [...]}`, and calibrate again where DLA106 says that a scale is missing. What must stay in FP16
        is faster on the GPU: `target: orin-agx-64gb/gpu`.
    """

    code = "DLA107"
    title = "FP16 convolution on Orin's DLA"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        dla = context.target.dla
        if not context.target.is_dla or dla is None or dla.generation < 2:
            return
        convolutions = [
            place.node
            for place in context.placement.places
            if place.precision == "fp16" and place.node.op_type in ("Conv", "ConvTranspose")
        ]
        if not convolutions:
            return
        ways = [f"write target: {context.target.device}/gpu"]
        if context.engine.precision != "int8":
            ways.insert(0, "write precision: int8 and calibration: {set: ...}")
        else:
            skipped = any(label(node) in context.engine.quantize.skip for node in convolutions)
            ranges = any(label(node) not in context.engine.quantize.skip for node in convolutions)
            ways = (["trtforge calibrate RECIPE, for ranges that are missing"] if ranges else []) + ways
            ways = (["take them out of quantize.skip"] if skipped else []) + ways
        many = "one convolution" if len(convolutions) == 1 else f"{len(convolutions)} convolutions"
        message = f"{many} would run in FP16, an order of magnitude slower on Orin's DLA"
        yield self.finding(places(convolutions), message, "; or ".join(ways))
