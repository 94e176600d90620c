"""Ranges that need no measuring: what a tensor's range says, exactly, about the tensors made from it.

Only operators whose every output value is an input value or a constant bound are here, so that a derived range is
the measured one bit for bit. MaxPool is not (its smallest value is not its input's smallest), nor is anything that
rounds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx
from onnx import NodeProto

from trtforge.graph.index import Index

Bounds = tuple[float, float]
"""Smallest and largest value."""

Rule = Callable[[Sequence[Bounds]], Bounds]


def derivation(node: NodeProto, index: Index) -> tuple[list[str], Rule] | None:
    """The tensors and the rule that give the range of the node's first output, or None: it must be measured."""
    if node.domain not in ("", "ai.onnx") or (node.op_type == "Dropout" and len(node.input) > 2):
        return None  # Dropout's third input may switch training on
    rule = _RULES.get(node.op_type)
    if node.op_type == "Clip":
        limits = _clip_limits(node, index)
        rule = _clipped(*limits) if limits else None
    if rule is None:
        return None
    return list(node.input) if rule is _union else [node.input[0]], rule


def resolve(
    derived: Mapping[str, tuple[list[str], Rule]], measured: Mapping[str, Bounds | None]
) -> dict[str, Bounds | None]:
    """Bounds of every derived tensor; None where all it depends on has none. ``derived`` is in graph order.

    A tensor without bounds was empty in every sample: joined to another it adds nothing.
    """
    known = dict(measured)
    for name, (sources, rule) in derived.items():
        bounds = [item for source in sources if (item := known[source]) is not None]
        known[name] = rule(bounds) if bounds else None
    return {name: known[name] for name in derived}


def _same(sources: Sequence[Bounds]) -> Bounds:
    return sources[0]


def _negated(sources: Sequence[Bounds]) -> Bounds:
    low, high = sources[0]
    return 0.0 - high, 0.0 - low  # a plain minus would make -0.0


def _union(sources: Sequence[Bounds]) -> Bounds:
    return min(low for low, _ in sources), max(high for _, high in sources)


def _clipped(smallest: float, largest: float) -> Rule:
    def rule(sources: Sequence[Bounds]) -> Bounds:
        low, high = sources[0]
        return min(max(low, smallest), largest) + 0.0, min(max(high, smallest), largest) + 0.0

    return rule


def _clip_limits(node: NodeProto, index: Index) -> Bounds | None:
    """(min, max) of a Clip: attributes up to opset 10, constant inputs after; None when computed at run time."""
    limits = {"min": -math.inf, "max": math.inf}
    for attribute in node.attribute:
        limits[attribute.name] = attribute.f
    for position, name in ((1, "min"), (2, "max")):
        if len(node.input) > position and node.input[position]:
            constant = index.constant(node.input[position])
            if constant is None or constant.data_location == onnx.TensorProto.EXTERNAL:
                return None
            limits[name] = float(onnx.numpy_helper.to_array(constant).reshape(()))
    if math.isnan(limits["min"]) or math.isnan(limits["max"]):
        return None
    return limits["min"], limits["max"]


_SAME_VALUES = (
    "DepthToSpace",
    "Dropout",  # at inference
    "Flatten",
    "Identity",
    "Reshape",
    "SpaceToDepth",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
_RULES: dict[str, Rule] = {
    **dict.fromkeys(_SAME_VALUES, _same),
    "Concat": _union,
    "Neg": _negated,
    "Relu": _clipped(0.0, math.inf),
}
