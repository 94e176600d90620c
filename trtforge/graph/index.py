"""Who produces and who consumes each tensor of a graph: the maps every edit starts from."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import AttributeProto, GraphProto, NodeProto, TensorProto


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


_NO_GRAPHS = frozenset(AttributeProto.AttributeType.values()) - {
    AttributeProto.UNDEFINED,
    AttributeProto.GRAPH,
    AttributeProto.GRAPHS,
}


def in_order(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes so that producers come before consumers; already sorted ones stay exactly as they are.

    Depth first from each node, without recursion. A cycle is left as it is, for the graph's check to report.
    """
    producers = {name: position for position, node in enumerate(nodes) for name in node.output if name}
    done: set[int] = set()
    begun: set[int] = set()
    ordered: list[NodeProto] = []
    for start in range(len(nodes)):
        stack = [start]
        while stack:
            position = stack[-1]
            if position in done:
                stack.pop()
                continue
            needed = [producers[name] for name in used_names(nodes[position]) if name in producers]
            waiting = [other for other in needed if other not in done and other not in begun]
            begun.add(position)
            if waiting:
                stack.extend(reversed(waiting))
                continue
            stack.pop()
            done.add(position)
            ordered.append(nodes[position])
    return ordered


def used_names(node: NodeProto) -> list[str]:
    """Distinct outer tensors a node reads, directly or from its subgraphs, in order."""
    names = dict.fromkeys(node.input)
    names.pop("", None)
    for subgraph in subgraphs(node):
        names.update(dict.fromkeys(captured_names(subgraph)))
    return list(names)


def fresh_name(wanted: str, taken: set[str]) -> str:
    """``wanted``, or with the first number that makes it new; the name is then taken."""
    name, number = wanted, 1
    while name in taken:
        name, number = f"{wanted}_{number}", number + 1
    taken.add(name)
    return name


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type in _NO_GRAPHS:  # nearly always: the fields below cost far more to look at
            continue
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def every_node(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph, each before those of the graphs inside it."""
    for node in graph.node:
        yield node
        for subgraph in subgraphs(node):
            yield from every_node(subgraph)


def names_within(graph: GraphProto) -> set[str]:
    """Every tensor name of a graph and of the graphs inside it."""
    names = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    names |= {sparse.values.name for sparse in graph.sparse_initializer}
    for node in graph.node:
        names.update(node.output)
        for subgraph in subgraphs(node):
            names |= names_within(subgraph)
    names.discard("")
    return names


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


def rename_tensors(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename tensors throughout a graph and its subgraphs, in place: old name -> new name."""
    if not names:
        return
    for named in [*graph.input, *graph.output, *graph.value_info, *graph.initializer]:
        named.name = names.get(named.name, named.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        for field in (node.input, node.output):
            for position, name in enumerate(field):
                field[position] = names.get(name, name)
        for subgraph in subgraphs(node):
            rename_tensors(subgraph, names)
