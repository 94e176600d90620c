"""RTX101: ConvTranspose stays in floating point."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class ConvTransposeFloat(Rule):
    """What it does
        Reports ConvTranspose nodes of an INT8 engine for TensorRT-RTX.

    Why it matters
        TensorRT-RTX 1.7 builds a quantized ConvTranspose, 2-D or 3-D, and then runs it in floating point: the plan
        dequantizes its inputs first. Accuracy pays for the quantization and speed gains nothing.

    Example
        The decoder of a U-Net, `quantize: {conv_transpose: true}`.

    Fix
        Leave `quantize.conv_transpose` off, its default, and expect these layers in the float column of the report.
        If they dominate, `pixel-shuffle-3d` in `surgery` makes those of a 3D-UNet a convolution and a shuffle; or
        export Resize and a convolution instead. Either convolution runs in INT8.
    """

    code = "RTX101"
    title = "ConvTranspose is not INT8"
    severity = "hint"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.backend != "tensorrt_rtx" or context.engine.precision != "int8":
            return
        config = context.engine.quantize
        nodes = context.of("ConvTranspose")
        asked = [node for node in nodes if config.conv_transpose and label(node) not in config.skip]
        if asked:
            message = "to be quantized, but TensorRT-RTX runs it in floating point"
            fix = "write quantize: {conv_transpose: false}"
            yield self.finding(places(asked), message, fix, severity="warning")
        elif nodes:
            message = "runs in floating point: TensorRT-RTX has no INT8 ConvTranspose"
            yield self.finding(places(nodes), message, "nothing to do; or export Resize and Conv instead")
