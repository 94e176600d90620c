"""The weights of a match as one convolution each: BatchNormalization folded in, a bias everywhere."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from onnx import NodeProto

from trtforge.surgery.op import Names
from trtforge.surgery.rules import Array, Match, View, attribute


@dataclass(frozen=True)
class Norm:
    """A BatchNormalization: names of its four constants of shape [O], and its epsilon."""

    scale: str
    bias: str
    mean: str
    variance: str
    epsilon: float


def norm_of(node: NodeProto | None) -> Norm | None:
    if node is None:
        return None
    scale, bias, mean, variance = node.input[1:5]
    return Norm(scale, bias, mean, variance, attribute(node, "epsilon", 1e-5))


def fold(weight: str, bias: str, norm: Norm | None, view: View) -> tuple[Array, Array]:
    """Weight [O, I, k, k] and bias [O] of one convolution, of the weight's dtype.

    With f = scale / sqrt(variance + epsilon), one factor per output channel: W' = f W and b' = (b - mean) f + bias of
    the normalization (the formula of the pass fold-batchnorm). Computed in float64; a value that leaves the range of
    the dtype becomes infinite. A bias "" is zero.
    """
    values = _value(weight, view)
    wide = np.zeros(len(values)) if bias == "" else _value(bias, view).astype(np.float64)
    if norm is None:
        return values, wide.astype(values.dtype)
    scale, shift, mean, variance = (
        _value(name, view).astype(np.float64) for name in (norm.scale, norm.bias, norm.mean, norm.variance)
    )
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):  # the rule looks at the result
        factor = scale / np.sqrt(variance + norm.epsilon)
        folded = values.astype(np.float64) * factor.reshape(-1, 1, 1, 1)
        return folded.astype(values.dtype), ((wide - mean) * factor + shift).astype(values.dtype)


def folded(match: Match, view: View) -> list[tuple[Array, Array]]:
    """Weight [O, I, k, k] and bias [O] of the ten convolutions in the match's order, of the model's dtype."""
    names, norms = match.inputs[1:], match.facts["norms"]
    return [fold(weight, bias, norm, view) for weight, bias, norm in zip(names[::2], names[1::2], norms, strict=True)]


def operands(match: Match, view: View, names: Names) -> list[str]:
    """Names of the twenty weights in the match's order: the model's own, and new ones where something is folded in
    or a bias is absent."""
    chosen: list[str] = []
    own = match.inputs[1:]
    for weight, bias, norm in zip(own[::2], own[1::2], match.facts["norms"], strict=True):
        if norm is None and bias:
            chosen += [weight, bias]
            continue
        values, shift = fold(weight, bias, norm, view)
        chosen.append(weight if norm is None else names.weight(f"{weight}_folded", values))
        chosen.append(names.weight(f"{weight}_bias", shift))
    return chosen


def _value(name: str, view: View) -> Array:
    value = view.value(name)
    assert value is not None, name  # the rule matches constants only
    return value
