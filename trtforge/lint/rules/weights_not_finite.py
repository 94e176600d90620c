"""GRF112: weights that are no numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from trtforge.lint.nodes import place
from trtforge.lint.rule import Finding, Rule, Severity

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

WEIGHTED = (
    *("Conv", "ConvTranspose", "Gemm", "MatMul", "PRelu", "LSTM", "GRU", "RNN"),
    *("BatchNormalization", "InstanceNormalization", "LayerNormalization", "GroupNormalization"),
)
"""Whose constants are all trained. Others may have an infinity or NaN on purpose: masks of attention, for one."""


class WeightsNotFinite(Rule):
    """What it does
        Looks for NaN and infinity in the weights of layers that are trained: convolutions, matrix products,
        normalizations, recurrent layers. Weights in files of their own (`*.onnx_data`) are not read.

    Why it matters
        One NaN spreads over all that the layer computes, and from there to the outputs. No step of a build fails for
        it with a weight's name: a calibration finds ranges that are no numbers, an engine in FP32 or FP16 is built and
        answers NaN. Infinities alone are a warning: a bias of -inf rules a class out, which some do on purpose.

    Example
        A checkpoint of a training that had diverged. A BatchNormalization that was folded by hand with a variance
        of 0 and no epsilon.

    Fix
        Export an earlier checkpoint. `numpy.isnan` on the initializer that the finding names says where.
    """

    code = "GRF112"
    title = "weights that are NaN or infinite"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        seen: dict[str, _Odd] = {}
        found: list[tuple[NodeProto, str]] = []
        for node in context.of(*WEIGHTED):
            for name in node.input:
                if name not in seen:
                    seen[name] = _not_finite(context, name)
                if seen[name].count:
                    found.append((node, name))
                    break
        if found:
            first = found[0][1]
            size = prod(context.shape(first) or ())
            message = f"its weights are NaN or infinite in places: {seen[first].count} of {size} values of `{first}`"
            message += ", the first of these" if len(found) > 1 else ""
            where = list(dict.fromkeys(place(node) for node, _ in found))
            severity: Severity = "error" if any(seen[name].has_nan for _, name in found) else "warning"
            yield self.finding(where, message, "export a checkpoint whose weights are finite", severity=severity)


@dataclass(frozen=True)
class _Odd:
    """``count``: values that are NaN or infinite."""

    count: int = 0
    has_nan: bool = False


def _not_finite(context: Context, name: str) -> _Odd:
    """None of them in what is no constant of floats, or in a file of its own."""
    import numpy as np
    from onnx import TensorProto

    from trtforge.graph.weights import is_external

    floats = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)
    constant = context.index.constant(name)
    if constant is None or is_external(constant) or constant.data_type not in floats:
        return _Odd()
    values = context.values(name)
    if values is None:
        return _Odd()
    return _Odd(int(values.size - np.count_nonzero(np.isfinite(values))), bool(np.isnan(values).any()))
