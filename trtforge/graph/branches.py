"""`If` nodes whose condition is known: the branch taken becomes part of the graph around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper

from trtforge.graph.index import Index, rename_tensors, used_names


def inline_known_branches(graph: GraphProto, values: Callable[[TensorProto], np.ndarray[Any, Any]]) -> int:
    """Replace, in place, each `If` with a constant condition by the nodes of its branch; returns how many.

    ``values`` reads a weight, wherever its bytes are.
    The node's outputs keep their names; tensors of the branch keep theirs where they are free.
    """
    if all(node.op_type != "If" for node in graph.node):
        return 0
    index = Index(graph)
    taken = index.names()
    nodes: list[NodeProto] = []
    inlined = 0
    for node in graph.node:
        condition = index.constant(node.input[0]) if node.op_type == "If" else None
        if condition is None:
            nodes.append(node)
            continue
        wanted = "then_branch" if values(condition).item() else "else_branch"
        branch = next(attribute.g for attribute in node.attribute if attribute.name == wanted)
        nodes += _body(graph, node, branch, taken)
        inlined += 1
    if inlined:
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        graph.ClearField("node")
        graph.node.extend(copies)
    return inlined


def _body(graph: GraphProto, node: NodeProto, branch: GraphProto, taken: set[str]) -> list[NodeProto]:
    body = GraphProto()
    body.CopyFrom(branch)
    produced = {name for inner in body.node for name in inner.output if name}
    names: dict[str, str] = {}
    links: list[NodeProto] = []
    for own, outer in zip([value.name for value in body.output], node.output, strict=False):
        if own in produced and own not in names:
            names[own] = outer
        elif outer:  # a captured tensor, a weight of the branch, or one tensor for two outputs
            links.append(helper.make_node("Identity", [own], [outer]))
    local = produced | {tensor.name for tensor in body.initializer}
    for name in sorted(local - names.keys()):
        names[name] = _free(name, taken)
        taken.add(names[name])
    rename_tensors(body, names)
    for link in links:
        link.input[0] = names.get(link.input[0], link.input[0])
    graph.initializer.extend(body.initializer)
    graph.sparse_initializer.extend(body.sparse_initializer)
    graph.value_info.extend(info for info in body.value_info if any(info.name in used_names(n) for n in body.node))
    return [*body.node, *links]


def _free(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}_{number}", number + 1
    return candidate
