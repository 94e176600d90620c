"""Nodes and weights that no output depends on."""

from __future__ import annotations

from trtforge.graph.index import used_names
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Context, Pass, PassResult, count


class DeadCode(Pass):
    """Remove nodes and weights that contribute to no graph output.

    Graph inputs stay, used or not: callers feed them by name.
    """

    name = "dead-code"

    def apply(self, model: Model, context: Context) -> PassResult:
        graph = model.proto.graph
        needed = {value.name for value in graph.output}
        dead_nodes = []
        for position in range(len(graph.node) - 1, -1, -1):
            node = graph.node[position]
            if needed.isdisjoint(node.output):
                dead_nodes.append(position)
            else:
                needed.update(used_names(node))
        dead_weights = [i for i, tensor in enumerate(graph.initializer) if tensor.name not in needed]
        dead_sparse = [i for i, sparse in enumerate(graph.sparse_initializer) if sparse.values.name not in needed]
        if not (dead_nodes or dead_weights or dead_sparse):
            return PassResult(False, "every node and weight contributes to an output")
        for position in dead_nodes:
            del graph.node[position]
        for field, positions in ((graph.initializer, dead_weights), (graph.sparse_initializer, dead_sparse)):
            for position in reversed(positions):
                del field[position]
        _forget_types(model)
        weights = len(dead_weights) + len(dead_sparse)
        removed = [count(number, label) for number, label in ((len(dead_nodes), "node"), (weights, "weight")) if number]
        return PassResult(True, "removed " + " and ".join(removed))


def _forget_types(model: Model) -> None:
    graph = model.proto.graph
    produced = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    for position in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[position].name not in produced:
            del graph.value_info[position]
