"""QNT109: a model that is quantized already."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import place
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class AlreadyQuantized(Rule):
    """What it does
        Reports an INT8 engine whose model has QuantizeLinear or DequantizeLinear nodes.

    Why it matters
        `precision: int8` takes the float model, and writes the scales where the target's compiler wants them: a cache
        through TensorRT 10, Q/DQ nodes elsewhere. Calibrated on top of Q/DQ nodes the ranges would be those of rounded
        values, under names that no float model has. The build refuses it (CAL232).

    Example
        A model from onnxruntime's `quantize_static` or from modelopt, with `precision: int8`.

    Fix
        `trtforge scales convert MODEL OUT --to json --plain FLOAT` makes a float model of it, without the pairs: name
        FLOAT as `model.onnx`. To keep the scales that the model has, `--to trt-cache` writes them for trtexec.
    """

    code = "QNT109"
    title = "model quantized already"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if context.engine.precision != "int8":
            return
        for node in [*context.of("QuantizeLinear", "DequantizeLinear")][:1]:
            message = "the model is quantized already: the build refuses it"
            yield self.finding(place(node), message, "trtforge scales convert MODEL OUT --to json --plain FLOAT")
