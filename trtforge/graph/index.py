"""Who produces and who consumes each tensor of a graph: the maps every edit starts from."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, NodeProto, TensorProto


class Index:
    """Producer, consumer and constant maps of one graph, made in one walk. Does not follow later edits.

    A node whose subgraphs capture a tensor of this graph counts as a consumer of it.
    """

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.initializers: dict[str, TensorProto] = {tensor.name: tensor for tensor in graph.initializer}
        self.sparse = {sparse.values.name for sparse in graph.sparse_initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.initializers]
        """Inputs a caller must give: old models list initializers among the graph's inputs too."""
        self.outputs = [value.name for value in graph.output]
        self.producers: dict[str, NodeProto] = {}
        self.consumers: dict[str, list[NodeProto]] = {}
        for node in graph.node:
            for name in node.output:
                if name:
                    self.producers[name] = node
            for name in used_names(node):
                self.consumers.setdefault(name, []).append(node)

    def producer(self, name: str) -> NodeProto | None:
        return self.producers.get(name)

    def consumers_of(self, name: str) -> list[NodeProto]:
        return self.consumers.get(name, [])

    def constant(self, name: str) -> TensorProto | None:
        """The tensor behind a name: an initializer, or the `value` of a Constant node; else None."""
        if name in self.initializers:
            return self.initializers[name]
        node = self.producers.get(name)
        if node is not None and node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensor: TensorProto = attribute.t
                    return tensor
        return None

    def only_consumer(self, name: str) -> NodeProto | None:
        """The single node that uses a tensor; None when there are several uses or it is a graph output."""
        users = self.consumers_of(name)
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def names(self) -> set[str]:
        """Every tensor name of the graph."""
        return {value.name for value in self.graph.input} | set(self.initializers) | self.sparse | set(self.producers)


def used_names(node: NodeProto) -> list[str]:
    """Distinct outer tensors a node reads, directly or from its subgraphs, in order."""
    names = dict.fromkeys(name for name in node.input if name)
    for subgraph in subgraphs(node):
        names.update(dict.fromkeys(captured_names(subgraph)))
    return list(names)


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def captured_names(graph: GraphProto) -> list[str]:
    """Outer tensors a subgraph reads."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {sparse.values.name for sparse in graph.sparse_initializer}
    captured: dict[str, None] = {}
    for node in graph.node:
        captured.update(dict.fromkeys(name for name in used_names(node) if name not in own))
        own.update(node.output)
    captured.update(dict.fromkeys(value.name for value in graph.output if value.name not in own))
    return list(captured)
