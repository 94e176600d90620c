"""QNT105: INT8 for a network without an INT8 operator."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.graph.labels import label
from trtforge.lint.nodes import DEFAULT_DOMAINS
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


_WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class NothingToQuantize(Rule):
    """What it does
        Reports an INT8 engine whose model has no convolution and no matrix product outside control flow, when its
        compiler takes INT8 as Q/DQ nodes (onnxruntime, TensorRT-RTX, TensorRT 11 and later).

    Why it matters
        Only these are given INT8; all else follows them or stays in floating point. With none there is no INT8
        engine, and the build says so after the calibration.

    Example
        A model of pre- or postprocessing only, with `precision: int8`.

    Fix
        Set `precision: fp16`, or `fp32` for the target `host`.
    """

    code = "QNT105"
    title = "nothing to run in INT8"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.engine.precision != "int8" or context.explicit_quantization is not True:
            return
        skipped = context.engine.quantize.skip
        able = [
            node
            for node in context.active_nodes
            if node.op_type in _WEIGHTED and node.domain in DEFAULT_DOMAINS and label(node) not in skipped
        ]
        if not context.engine.quantize.conv_transpose:
            able = [node for node in able if node.op_type != "ConvTranspose"]
        if not able:
            float_precision = "fp32" if context.target.kind == "host" else "fp16"
            yield self.finding(
                "precision",
                f"no node can run in INT8: the graph has none of {', '.join(_WEIGHTED)} that `quantize` leaves to it",
                f"set precision: {float_precision}",
            )
