"""Nodes that hand their input on unchanged."""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx import numpy_helper

from trtforge.graph import surgeon
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class RemoveIdentity(Pass):
    """Remove `Identity` nodes, and `Dropout` nodes, which do nothing in inference.

    The consumers read the node's input instead. Where the node produces a graph output, the output's name
    stays and its producer takes it over. A node stays when it connects a graph input or a weight straight to
    an output, joins two outputs, or feeds a subgraph.
    """

    name = "remove-identity"

    def apply(self, model: Model, context: Context) -> PassResult:
        candidates = [node for node in model.proto.graph.node if node.op_type in ("Identity", "Dropout")]
        if not candidates:
            return PassResult(False, "the graph has no Identity and no Dropout nodes")
        removed = 0
        with surgeon.edit(model.proto) as graph:
            outer = {id(node) for node in graph.nodes}
            for node in [node for node in graph.nodes if _does_nothing(node)]:
                removed += _bypass(graph, node, outer)
        if not removed:
            return PassResult(False, f"{count(len(candidates), 'Identity or Dropout node')} must stay: {_WHY}")
        return PassResult(True, f"removed {count(removed, 'node')}")


_WHY = "in training mode, feeding a subgraph, or joining graph inputs, weights and outputs"


def _does_nothing(node: gs.Node) -> bool:
    if node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True  # training_mode is false by default
    mode = surgeon.constant_proto(node.inputs[2])
    return mode is not None and not numpy_helper.to_array(mode)


def _bypass(graph: gs.Graph, node: gs.Node, outer: set[int]) -> int:
    source, target = node.inputs[0], node.outputs[0]
    if any(output in graph.outputs for output in node.outputs[1:]) or _reaches_subgraph(graph, [source, target], outer):
        return 0
    if target in graph.outputs:
        if not source.inputs or source in graph.outputs:
            return 0  # an input, a weight or another output: someone has to connect the two
        producer = source.inputs[0]
        position = next(i for i, output in enumerate(producer.outputs) if output is source)
        node.outputs.clear()
        producer.outputs[position] = target
        _replace(source, target)
    else:
        _replace(target, source)
        node.outputs.clear()
    node.inputs.clear()
    graph.nodes.remove(node)
    return 1


def _replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Every use of ``old`` becomes one of ``new``."""
    for consumer in list(old.outputs):
        for position, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[position] = new


def _reaches_subgraph(graph: gs.Graph, tensors: list[gs.Tensor], outer: set[int]) -> bool:
    if any(id(consumer) not in outer for tensor in tensors for consumer in tensor.outputs):
        return True
    names = {tensor.name for tensor in tensors}
    return any(output.name in names for subgraph in graph.subgraphs(recursive=True) for output in subgraph.outputs)
