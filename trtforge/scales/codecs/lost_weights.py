"""Weight scales that a calibration cache cannot hold: TensorRT finds its own, and sometimes other ones.

A cache has activations only. Without Q/DQ nodes TensorRT quantizes a weight itself, by max |w| / 127 of each output
channel. Where the quantizer chose another scale (trained, clipped, one for the whole tensor), the engine computes with
other integers than the quantized model did.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from trtforge.graph.index import Index
from trtforge.graph.labels import label
from trtforge.graph.weights import read_tensor
from trtforge.scales.codecs.extraction import Extraction, QuantizedWeight
from trtforge.scales.codecs.placement import WEIGHTED, reads
from trtforge.scales.codecs.weights import channel_scales

_MOVES = ("Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze")

Kind = Literal["other scales", "per tensor", "other axis", "asymmetric", "other type"]

SAME = 1.0 / 254.0
"""Relative difference of two scales under which no integer changes: 127 steps move by less than half a step."""


@dataclass(frozen=True)
class LostScales:
    """A weight that TensorRT quantizes otherwise than the model did. ``node``: the first that reads it.

    ``channels`` of ``of`` have another scale; ``ratio``: the model's scale over TensorRT's where they are furthest
    apart. "other type": it was stored in 4 or 16 bits, which INT8 rounds to other values.
    """

    tensor: str
    node: str
    kind: Kind
    channels: int
    of: int
    ratio: float


def lost_weights(found: Extraction) -> tuple[LostScales, ...]:
    """Weights whose scales differ from TensorRT's own choice by enough to change an integer.

    One weight is in memory at a time. Raises the errors of ``trtforge.graph.weights.read_tensor``.
    """
    index = Index(found.model.proto.graph)
    lost = [_lost(found, weight, index) for weight in found.weights if index.consumers_of(weight.tensor)]
    return tuple(entry for entry in lost if entry is not None)


def _lost(found: Extraction, weight: QuantizedWeight, index: Index) -> LostScales | None:
    stored = index.constant(weight.tensor)
    assert stored is not None  # extraction names constants of its own graph
    values = np.asarray(read_tensor(found.model, stored), np.float32)
    place = _output_axis(weight.tensor, index)
    if place is None:
        return None
    axis, node = place
    kind: Kind = "other scales"
    if weight.stored not in ("int8", "uint8"):
        kind = "other type"
    elif not weight.symmetric:
        kind = "asymmetric"
    elif weight.axis is not None and axis is not None and weight.axis != axis:
        kind = "other axis"
    elif weight.axis is None and axis is not None:
        kind = "per tensor"
    per = axis if kind == "per tensor" or weight.axis is None else weight.axis
    own = channel_scales(values, per)
    used = np.asarray(weight.scales, np.float64)
    live = np.broadcast_to(_seen(values, per), own.shape)
    ratios = np.where(live, used / own, 1.0)
    differing = np.abs(ratios - 1.0) > SAME
    if kind in ("other scales", "per tensor") and not differing.any():
        return None
    furthest = ratios.flat[int(np.argmax(np.abs(np.log(np.maximum(ratios, np.finfo(np.float64).tiny)))))]
    return LostScales(weight.tensor, node, kind, int(differing.sum()), int(own.size), float(furthest))


def _seen(
    values: np.ndarray[tuple[int, ...], np.dtype[np.float32]], axis: int | None
) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Channels that hold something else than zeros: of the others any scale is right."""
    others = None if axis is None else tuple(dim for dim in range(values.ndim) if dim != axis)
    return np.asarray((values != 0).any(axis=others))


def _output_axis(tensor: str, index: Index) -> tuple[int | None, str] | None:
    """Axis of the output channels in the node that reads the weight, and that node.

    The axis is None where TensorRT uses one scale, or where the weight is moved before it is read. None: a constant
    that no weighted node reads, like the summand of an Add; it stays float.
    """
    readers = index.consumers_of(tensor)
    for node in readers:
        if node.op_type in WEIGHTED:
            for slot, axis in reads(node, index)[1].items():
                if node.input[slot] == tensor:
                    return axis, label(node)
    return next(((None, label(node)) for node in readers if node.op_type in _MOVES), None)
