"""Nodes that hand their input on unchanged."""

from __future__ import annotations

import onnx_graphsurgeon as gs

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
        with surgeon.edit(model.proto) as graph:
            outer, escaping = {id(node) for node in graph.nodes}, surgeon.subgraph_outputs(graph)
            removed = []
            for node in [node for node in graph.nodes if _does_nothing(node, context)]:
                ends = [node.inputs[0], node.outputs[0]]
                if not any(_reaches_subgraph(tensor, outer, escaping) for tensor in ends) and _bypass(graph, node):
                    removed.append(node)
            surgeon.remove(graph, removed)
        if not removed:
            return PassResult(False, f"{count(len(candidates), 'Identity or Dropout node')} must stay: {_WHY}")
        return PassResult(True, f"removed {count(len(removed), 'node')}")


_WHY = "in training mode, feeding a subgraph, or joining graph inputs, weights and outputs"


def _does_nothing(node: gs.Node, context: Context) -> bool:
    if node.domain not in (None, "", "ai.onnx"):
        return False
    if node.op == "Identity":
        return True
    if node.op != "Dropout" or any(output.outputs for output in node.outputs[1:]):
        return False
    if len(node.inputs) < 3 or node.inputs[2].is_empty():
        return True  # training_mode is false by default
    mode = surgeon.constant_proto(node.inputs[2])
    return mode is not None and not context.values(mode)


def _bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Join what the node reads and what it writes, if that can be done."""
    source, target = node.inputs[0], node.outputs[0]
    if any(output in graph.outputs for output in node.outputs[1:]):
        return False
    if target in graph.outputs:
        if not source.inputs or source in graph.outputs:
            return False  # an input, a weight or another output: someone has to connect the two
        producer = source.inputs[0]
        position = next(i for i, output in enumerate(producer.outputs) if output is source)
        node.outputs.clear()
        producer.outputs[position] = target
        _replace(source, target)
    else:
        _replace(target, source)
        node.outputs.clear()
    node.inputs.clear()
    return True


def _replace(old: gs.Tensor, new: gs.Tensor) -> None:
    """Every use of ``old`` becomes one of ``new``."""
    for consumer in list(old.outputs):
        for position, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[position] = new


def _reaches_subgraph(tensor: gs.Tensor, outer: set[int], escaping: set[str]) -> bool:
    return tensor.name in escaping or any(id(consumer) not in outer for consumer in tensor.outputs)
