"""Activations as uint8, with TensorRT's integers: the same steps, and the same ends.

A tensor that cannot be negative has zero point 0, for which a kernel takes a Relu in. uint8 then ends at twice amax,
symmetric INT8 at amax, so a Clip of the integers at 127 stands behind the Q. It costs a pass over bytes, and there is
more to it than values calibration did not see: where a Relu stands for a ReLU6 (pass `relu6-to-relu`), or a range is
narrow on purpose, its end is part of what the network computes; and kernels that sum products in 16 bits rely on it.
"""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from trtforge.backends.onnxruntime_.rewrite import Array, Rewrite

TOP = 127
"""The largest integer of symmetric INT8."""


def unsign(rewrite: Rewrite) -> set[str]:
    """Make int8 activations uint8; returns the Q outputs that have zero point 0 and may exceed :data:`TOP`."""
    unsigned = set()
    for quantizer in rewrite.graph.node:
        if quantizer.op_type != "QuantizeLinear" or not _is_signed_activation(rewrite, quantizer):
            continue
        tensor = quantizer.input[0]
        is_unsigned = tensor in rewrite.nonnegative
        zero = rewrite.add(f"{tensor}_zero_point_u8", np.asarray(0 if is_unsigned else 128, np.uint8))
        rewrite.report.unsigned += is_unsigned
        rewrite.report.signed += not is_unsigned
        for node in [quantizer, *rewrite.index.consumers_of(quantizer.output[0])]:
            node.input[2] = zero
        if is_unsigned:
            unsigned.add(quantizer.output[0])
    return unsigned


def saturate(rewrite: Rewrite, unsigned: set[str]) -> None:
    """Clip the integers of ``unsigned`` at :data:`TOP`, and let them do what a float Clip before the Q did.

    The Clip's output has the name the Q's had. Rounding keeps order, so that clipping before it and behind it is the
    same; and no kernel takes a float Clip in whose range does not hold all of uint8.
    """
    taken_in: set[str] = set()
    nodes: list[NodeProto] = []
    for node in rewrite.graph.node:
        nodes.append(node)
        if node.op_type != "QuantizeLinear" or not _begins_at_zero(rewrite, node):
            continue
        low, high = 0, TOP if node.output[0] in unsigned else 255
        clip = rewrite.index.producer(node.input[0])
        bounds = None if clip is None else _integer_bounds(rewrite, clip, rewrite.step(node))
        if clip is not None and bounds is not None and rewrite.index.only_consumer(clip.output[0]) is not None:
            taken_in.add(clip.output[0])
            node.input[0] = clip.input[0]
            low, high = min(bounds[0], high), min(bounds[1], high)
        if (low, high) != (0, 255):
            nodes.append(_clip_behind(rewrite, node, low, high))
    rewrite.replace_nodes(node for node in nodes if node.output[0] not in taken_in)


def _integer_bounds(rewrite: Rewrite, clip: NodeProto, step: float) -> tuple[int, int] | None:
    """What a float Clip from 0 or more ends at, in steps from zero, within uint8; None for others."""
    if clip.op_type != "Clip" or clip.output[0] not in rewrite.nonnegative:
        return None
    bounds = [rewrite.values(name) if name else None for name in [*clip.input[1:3], ""][:2]]
    if bounds[0] is None or (bounds[1] is None and len(clip.input) > 2 and clip.input[2]):
        return None  # computed in the graph
    low, high = (255.0 if bound is None else _rounded(bound, step) for bound in bounds)
    return int(min(low, 255)), int(min(high, 255))


def _rounded(bound: Array, step: float) -> float:
    """In float32 and half to even, as the Q would round the bound itself."""
    return float(np.rint(np.float32(bound.reshape(())) / np.float32(step)))


def _clip_behind(rewrite: Rewrite, quantizer: NodeProto, low: int, high: int) -> NodeProto:
    output = quantizer.output[0]
    quantizer.output[0] = rewrite.fresh(f"{output}_unclipped")
    bounds = [
        rewrite.add(f"{output}_{end}", np.asarray(value, np.uint8)) for end, value in (("low", low), ("top", high))
    ]
    return helper.make_node("Clip", [quantizer.output[0], *bounds], [output], name=f"{output}_Clip")


def _is_signed_activation(rewrite: Rewrite, node: NodeProto) -> bool:
    zero = rewrite.index.constant(node.input[2]) if len(node.input) > 2 else None
    scalar = zero is not None and zero.data_type == TensorProto.INT8 and not zero.dims
    return scalar and rewrite.index.constant(node.input[0]) is None


def _begins_at_zero(rewrite: Rewrite, quantizer: NodeProto) -> bool:
    zero = rewrite.values(quantizer.input[2]) if len(quantizer.input) > 2 else None
    return zero is not None and zero.dtype == np.uint8 and zero.ndim == 0 and int(zero) == 0
