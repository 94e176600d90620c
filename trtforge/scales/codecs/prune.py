"""What is left over when a graph is rewired: constants that nothing reads any more."""

from __future__ import annotations

from onnx import ModelProto

from trtforge.graph.index import used_names


def drop_unused_constants(proto: ModelProto) -> None:
    """Remove initializers and Constant nodes that nothing reads, in place, also among the inputs of old models."""
    graph = proto.graph
    used = {name for node in graph.node for name in used_names(node)} | {value.name for value in graph.output}
    unused = {tensor.name for tensor in graph.initializer if tensor.name not in used}
    for values in (graph.initializer, graph.input, graph.value_info):
        for position in reversed(range(len(values))):
            if values[position].name in unused:
                del values[position]
    for position in reversed(range(len(graph.node))):
        node = graph.node[position]
        if node.op_type == "Constant" and node.output[0] not in used:
            del graph.node[position]
