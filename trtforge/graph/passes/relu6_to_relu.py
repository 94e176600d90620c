"""Clip to [0, 6] as plain Relu."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count

FLOATS = ("float16", "bfloat16", "float32", "float64")
INT32_SINCE = 14
"""The first opset whose Relu takes int32. It takes no unsigned integers in any, and Clip does."""

_STANDARD = (None, "", "ai.onnx")
"""Domains of the standard operators; None is GraphSurgeon's."""


class Relu6ToRelu(Pass):
    """Replace `Clip` to [0, 6] by `Relu`, with the ranges of the graph that has the Clips.

    In TensorRT's INT8 nothing changes: a scale for at most 6 saturates where the Clip did. So ranges are gathered
    without this pass (behind it they would grow, and what the Clips cut off would come through: an SSD-MobileNet lost 8
    of 10 faces that way). Where a layer runs in floating point the results differ, and with `backend: onnxruntime`,
    whose kernels clip a Relu at twice its range; `verify` in the recipe tells by how much. Taken are Clips of floats,
    and of int32 from opset 14 on, where Relu takes it too.
    """

    name = "relu6-to-relu"
    redefines = frozenset({"values"})
    ranges_from_before = True

    def apply(self, model: Model, context: Context) -> PassResult:
        clips = [node for node in model.proto.graph.node if node.op_type == "Clip" and node.domain in _STANDARD]
        if not clips:
            return PassResult(False, "the graph has no Clip nodes")
        types = (*FLOATS, "int32") if (default_opset(model.proto) or 0) >= INT32_SINCE else FLOATS
        replaced = 0
        with surgeon.edit(model.proto) as graph:
            for node in [node for node in graph.nodes if node.op == "Clip" and node.domain in _STANDARD]:
                if _is_relu6(node, context, types):
                    node.op = "Relu"
                    node.attrs.clear()
                    while len(node.inputs) > 1:
                        node.inputs.pop()
                    replaced += 1
        if not replaced:
            what = count(len(clips), "Clip node")
            return PassResult(False, f"none of {what} has the constant bounds 0 and 6, of a type that Relu takes")
        return PassResult(True, f"replaced {count(replaced, 'Clip node')}")


def _is_relu6(node: gs.Node, context: Context, types: tuple[str, ...]) -> bool:
    """Whether its bounds are constants, 0 and 6. They have the type of what it clips."""
    if "min" in node.attrs or "max" in node.attrs:  # before opset 11, for floats alone
        return (node.attrs.get("min"), node.attrs.get("max")) == (0.0, 6.0)
    stored = [surgeon.constant_proto(tensor) for tensor in node.inputs[1:3]]
    if len(stored) < 2 or None in stored:
        return False
    bounds = [context.values(tensor) for tensor in stored if tensor is not None]
    fit = all(bound.dtype.name in types and bound.size == 1 for bound in bounds)
    return fit and [bound.item() for bound in bounds] == [0, 6]
