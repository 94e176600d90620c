"""What is left over when a graph is rewired: constants that nothing reads any more."""

from __future__ import annotations

from onnx import ModelProto

from trtforge.graph.index import used_names


def drop_unused_constants(proto: ModelProto) -> None:
    """Remove initializers, Constant and Identity nodes that nothing reads, in place, also among old models' inputs."""
    graph = proto.graph
    used = {value.name for value in graph.output}
    for position in reversed(range(len(graph.node))):  # readers come behind what they read
        node = graph.node[position]
        if node.op_type in ("Constant", "Identity") and node.output[0] not in used:
            del graph.node[position]
        else:
            used.update(used_names(node))
    unused = {tensor.name for tensor in graph.initializer if tensor.name not in used}
    for values in (graph.initializer, graph.input, graph.value_info):
        for position in reversed(range(len(values))):
            if values[position].name in unused:
                del values[position]
