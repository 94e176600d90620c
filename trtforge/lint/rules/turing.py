"""RTX102: what TensorRT-RTX cannot do for Turing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class Turing(Rule):
    """What it does
        For SM 7.5 (T4) with TensorRT-RTX, reports FP32 matrix products, FP32 3-D convolutions and deconvolutions, and
        INT8 engines as a whole.

    Why it matters
        The compiler refuses the first three ("Cannot compile operation ... for Turing (SM75): FP32 GEMM is not
        supported"). It accepts INT8 convolutions and quietly runs them in floating point; in a plan for several SMs it
        then does so for all of them, because they share one program.

    Example
        `target: t4`, `backend: tensorrt_rtx`, `precision: fp32`, a model that ends in Gemm.

    Fix
        Use `precision: fp16` for this target, or `backend: tensorrt` on the device for INT8. Build Turing on its own.
    """

    code = "RTX102"
    title = "not possible on Turing with TensorRT-RTX"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.backend != "tensorrt_rtx" or context.target.sm != "7.5" or context.engine.precision == "fp16":
            return
        products = context.of("MatMul", "Gemm")
        volumes = [node for node in context.of("Conv", "ConvTranspose") if context.spatial_rank(node) == 3]
        for nodes, what in ((products, "FP32 matrix products"), (volumes, "FP32 3-D convolutions")):
            if nodes:
                yield self.finding(
                    places(nodes), f"TensorRT-RTX has no {what} for SM 7.5", "set precision: fp16 for this target"
                )
        if context.engine.precision == "int8":
            yield self.finding(
                f"target {context.target.key}",
                "TensorRT-RTX runs INT8 convolutions in floating point on SM 7.5",
                "set precision: fp16, or build with backend: tensorrt on the device",
                severity="warning",
            )
