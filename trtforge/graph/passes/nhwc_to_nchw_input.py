"""Take images channels first, as the engines do."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult


class NhwcToNchwInput(Pass):
    """Give a channels-last input the channels-first layout, by absorbing the Transpose behind it.

    Networks exported from TensorFlow take `[n, h, w, c]` and transpose at once. The input keeps its name and
    takes `[n, c, h, w]` (or `[n, c, d, h, w]`); the Transpose goes. Feed the network channels first from then
    on: `layout: nchw` in the recipe.
    """

    name = "nhwc-to-nchw-input"
    redefines = frozenset({"inputs"})

    def apply(self, model: Model, context: Context) -> PassResult:
        names = {value.name for value in model.proto.graph.input}
        if not any(node.op_type == "Transpose" and node.input[0] in names for node in model.proto.graph.node):
            return PassResult(False, "no graph input feeds a Transpose")
        changed = []
        with surgeon.edit(model.proto) as graph:
            for tensor in graph.inputs:
                if _feeds_only_layout_changes(graph, tensor):
                    _absorb(graph, tensor)
                    changed.append(tensor.name)
        if not changed:
            return PassResult(False, "no graph input feeds only Transposes from channels-last to channels-first")
        return PassResult(True, f"channels first now: {', '.join(changed)}")


def _feeds_only_layout_changes(graph: gs.Graph, tensor: gs.Variable) -> bool:
    if tensor in graph.outputs or not tensor.outputs or tensor.shape is None:
        return False
    rank = len(tensor.shape)
    wanted = [0, rank - 1, *range(1, rank - 1)]
    in_graph = {id(node) for node in graph.nodes}
    return rank in (4, 5) and all(
        id(node) in in_graph
        and node.op == "Transpose"
        and list(node.attrs.get("perm", [])) == wanted
        and node.outputs[0] not in graph.outputs
        and all(id(consumer) in in_graph for consumer in node.outputs[0].outputs)
        for node in tensor.outputs
    )


def _absorb(graph: gs.Graph, tensor: gs.Variable) -> None:
    batch, *spatial, channels = tensor.shape
    for transpose in list(tensor.outputs):
        output = transpose.outputs[0]
        for consumer in list(output.outputs):
            for position, used in enumerate(consumer.inputs):
                if used is output:
                    consumer.inputs[position] = tensor
        transpose.inputs.clear()
        transpose.outputs.clear()
        graph.nodes.remove(transpose)
    tensor.shape = [batch, channels, *spatial]
