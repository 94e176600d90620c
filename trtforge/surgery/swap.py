"""Matches replaced by their lowerings, in a copy of the model.

A match is known by tensors, not by nodes, so the same matches fit the float graph they were found in and the Q/DQ
graph made of it: there the swallowed nodes read dequantized tensors, and the pairs inside fall away with them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnx import ModelProto, NodeProto, helper

from trtforge.graph.index import in_order, names_within, subgraphs, used_names
from trtforge.graph.model import Model
from trtforge.surgery.op import Lowered, Names
from trtforge.surgery.rules import Match


def names_of(model: Model) -> Names:
    """Fresh names for replacements in this model; one object for all of them.

    A name made or read anywhere inside a subgraph is taken too: there it would hide the new tensor.
    """
    taken = names_within(model.proto.graph)
    for node in _everywhere(model.proto.graph.node):
        taken.update((node.name, *node.input))
    return Names(taken)


def swap(model: Model, replacements: Sequence[tuple[Match, Lowered]]) -> Model:
    """A copy of ``model`` in which each match's nodes are its lowering's.

    Weights are shared with the given model where they are external, and copied where they are inline; what nobody
    reads any more is dropped. With no replacements the model itself comes back. Raises ValueError when two replacements
    bring functions of one name that differ.
    """
    if not replacements:
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    gone = frozenset().union(*(match.swallowed for match, _ in replacements))
    kept = [node for node in graph.node if gone.isdisjoint(node.output)]
    added = [node for _, lowered in replacements for node in lowered.nodes]
    nodes = _needed(in_order([*kept, *added]), {value.name for value in graph.output})
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)
    for _, lowered in replacements:
        graph.initializer.extend(lowered.initializers)
        _add_functions(proto, lowered)
        _raise_opsets(proto, lowered)
    _drop_unread(proto)
    return Model(proto, model.folder)


def _needed(nodes: list, outputs: set[str]) -> list:  # type: ignore[type-arg]
    """Without the nodes whose results nobody reads."""
    read = set(outputs)
    kept = []
    for node in reversed(nodes):
        if not read.isdisjoint(node.output):
            kept.append(node)
            read.update(used_names(node))
    return kept[::-1]


def _add_functions(proto: ModelProto, lowered: Lowered) -> None:
    known = {(function.domain, function.name): function for function in proto.functions}
    for each in lowered.functions:
        if (each.domain, each.name) not in known:
            proto.functions.append(each)
        elif each != known[each.domain, each.name]:
            raise ValueError(f"two functions {each.domain}::{each.name} that differ")


def _raise_opsets(proto: ModelProto, lowered: Lowered) -> None:
    needed = dict(lowered.opsets)
    if "" in needed and any(entry.domain == "ai.onnx" for entry in proto.opset_import):
        needed["ai.onnx"] = needed.pop("")
    for function in lowered.functions:
        needed.setdefault(function.domain, 1)
    for entry in proto.opset_import:
        entry.version = max(entry.version, needed.pop(entry.domain, 0))
    proto.opset_import.extend(helper.make_opsetid(domain, version) for domain, version in needed.items())


def _drop_unread(proto: ModelProto) -> None:
    graph = proto.graph
    read = {name for node in graph.node for name in used_names(node)} | {value.name for value in graph.output}
    made = {name for node in graph.node for name in node.output} | {value.name for value in graph.input}
    dropped = set()
    for position in range(len(graph.initializer) - 1, -1, -1):
        if (name := graph.initializer[position].name) not in read:
            dropped.add(name)
            del graph.initializer[position]
    for position in range(len(graph.input) - 1, -1, -1):
        if graph.input[position].name in dropped:  # old models list weights among the inputs too
            del graph.input[position]
    for position in range(len(graph.value_info) - 1, -1, -1):
        if graph.value_info[position].name not in made:
            del graph.value_info[position]
    used = _called(proto)
    for position in range(len(proto.functions) - 1, -1, -1):
        if (proto.functions[position].domain, proto.functions[position].name) not in used:
            del proto.functions[position]


def _called(proto: ModelProto) -> set[tuple[str, str]]:
    """Domain and operator of every node, those in subgraphs and in the functions that are called included."""
    bodies = {(function.domain, function.name): function.node for function in proto.functions}
    called: set[tuple[str, str]] = set()
    waiting = list(_everywhere(proto.graph.node))
    while waiting:
        node = waiting.pop()
        key = (node.domain, node.op_type)
        if key not in called:
            called.add(key)
            waiting.extend(_everywhere(bodies.get(key, ())))
    return called


def _everywhere(nodes: Iterable[NodeProto]) -> Iterator[NodeProto]:
    for node in nodes:
        yield node
        for inner in subgraphs(node):
            yield from _everywhere(inner.node)
