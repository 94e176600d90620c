"""RTX104: attention in FP32."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class AttentionFp32(Rule):
    """What it does
        Reports ONNX `Attention` nodes (opset 23) that work in FP32, for TensorRT-RTX.

    Why it matters
        The compiler has a fused kernel for FP16 only and refuses FP32 ("Attention operation was not supported by a
        dedicated kernel"); the switch that would let it take the operation apart cannot be set from ONNX.

    Example
        A transformer exported in FP32 with opset 23, `precision: fp32`.

    Fix
        Use `precision: fp16`, or export with attention written out as MatMul, Softmax, MatMul.
    """

    code = "RTX104"
    title = "FP32 Attention has no kernel"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.backend != "tensorrt_rtx" or context.engine.precision == "fp16":
            return
        nodes = [
            node
            for node in context.of("Attention")
            if (query := context.types.get(node.input[0])) is not None and query.dtype == "float32"
        ]
        if nodes:
            message = "works on float32, for which TensorRT-RTX has no kernel"
            yield self.finding(places(nodes), message, "write precision: fp16, or export attention decomposed")
