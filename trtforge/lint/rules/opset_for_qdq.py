"""QNT101: an opset too old for Q/DQ nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class OpsetForQdq(Rule):
    """What it does
        Reports an INT8 engine whose model has an opset below 13, when its compiler takes INT8 as Q/DQ nodes
        (onnxruntime, TensorRT-RTX, TensorRT 11 and later).

    Why it matters
        QuantizeLinear and DequantizeLinear exist from opset 10, but one scale per output channel, which weights
        need to stay accurate, came with the `axis` attribute in opset 13.

    Example
        An opset 9 export from tf2onnx, with `precision: int8`.

    Fix
        Let surgery lift the model first; names of tensors do not change:

            surgery: [upgrade-opset]
    """

    code = "QNT101"
    title = "opset too old for Q/DQ"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        lifted = "upgrade-opset" in context.engine.surgery
        if context.engine.precision != "int8" or context.explicit_quantization is not True or lifted:
            return
        if context.opset < 13:
            lacks = "Q/DQ nodes" if context.opset < 10 else "scales per channel"
            yield self.finding(
                f"opset {context.opset}",
                f"opset {context.opset} has no {lacks}; INT8 for {context.backend} needs opset 13",
                "add `upgrade-opset` to surgery",
            )
