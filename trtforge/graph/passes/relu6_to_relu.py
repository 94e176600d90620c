"""Clip to [0, 6] as plain Relu."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class Relu6ToRelu(Pass):
    """Replace `Clip` to [0, 6] by `Relu`, with the ranges of the graph that has the Clips.

    In INT8 nothing changes: a scale for at most 6 saturates where the Clip did. So ranges are gathered without this
    pass (behind it they would grow, and what the Clips cut off would come through: an SSD-MobileNet lost 8 of 10 faces
    that way). Where a layer runs in floating point the results differ; `verify` in the recipe tells by how much.
    """

    name = "relu6-to-relu"
    redefines = frozenset({"values"})
    ranges_from_before = True

    def apply(self, model: Model, context: Context) -> PassResult:
        clips = [node for node in model.proto.graph.node if node.op_type == "Clip"]
        if not clips:
            return PassResult(False, "the graph has no Clip nodes")
        replaced = 0
        with surgeon.edit(model.proto) as graph:
            for node in [node for node in graph.nodes if node.op == "Clip"]:
                if _bounds(node, context) == (0.0, 6.0):
                    node.op = "Relu"
                    node.attrs.clear()
                    while len(node.inputs) > 1:
                        node.inputs.pop()
                    replaced += 1
        if not replaced:
            return PassResult(False, f"none of {count(len(clips), 'Clip node')} has the constant bounds 0 and 6")
        return PassResult(True, f"replaced {count(replaced, 'Clip node')}")


def _bounds(node: gs.Node, context: Context) -> tuple[float | None, float | None]:
    if "min" in node.attrs or "max" in node.attrs:  # before opset 11
        return node.attrs.get("min"), node.attrs.get("max")
    found: list[float | None] = [None, None]
    for position, tensor in enumerate(node.inputs[1:3]):
        stored = surgeon.constant_proto(tensor)
        if stored is not None:
            found[position] = float(context.values(stored))
    return found[0], found[1]
