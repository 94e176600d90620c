"""onnx-graphsurgeon on a skeleton, without its losses.

GraphSurgeon gives passes a graph of linked objects to edit. Its own export rewrites every node and drops what
it does not model (metadata, doc strings, rare attribute types), so only what an edit touched is taken from it:
all else is copied from the original protobuf.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import onnx
import onnx_graphsurgeon as gs
from onnx import GraphProto, ModelProto, NodeProto, ValueInfoProto
from onnx_graphsurgeon.exporters.onnx_exporter import OnnxExporter
from onnx_graphsurgeon.ir.tensor import LazyValues
from onnx_graphsurgeon.logger import G_LOGGER

from trtforge.graph.index import Index, in_order, used_names

G_LOGGER.severity = G_LOGGER.CRITICAL + 1  # it logs to stdout, which is for results; what is critical it also raises


@contextmanager
def edit(proto: ModelProto) -> Iterator[gs.Graph]:
    """The model as a GraphSurgeon graph; what the block changes is written back into ``proto`` at its end.

    Nodes keep their order, except where an edit put a consumer before its producer. Weights are not loaded.
    Nothing is written when the block raises.
    """
    copy = ModelProto()
    copy.CopyFrom(proto)  # GraphSurgeon renames tensors inside the protobuf it was given
    del copy.functions[:]
    graph = gs.import_onnx(copy)
    origins = {id(node): _Origin(original, node) for original, node in zip(proto.graph.node, graph.nodes, strict=True)}
    types = {tensor.name: _type_of(tensor) for tensor in graph.tensors().values() if isinstance(tensor, gs.Variable)}
    yield graph
    _write_back(proto.graph, graph, origins, types)


class _Origin:
    """The protobuf of an imported node, and what it looked like, to tell whether an edit touched it."""

    def __init__(self, proto: NodeProto, node: gs.Node) -> None:
        self.proto = proto
        self.node = node  # keeps the object alive, so that its id stays its own
        self.op, self.name, self.attributes = node.op, node.name, dict(node.attrs)

    def untouched(self, node: gs.Node) -> bool:
        same = (node.op, node.name) == (self.op, self.name) and node.attrs.keys() == self.attributes.keys()
        has_subgraph = any(isinstance(value, gs.Graph) for value in node.attrs.values())
        return same and not has_subgraph and all(_same(node.attrs[key], self.attributes[key]) for key in node.attrs)


def _same(one: Any, other: Any) -> bool:
    return one is other or (type(one) is type(other) and not isinstance(one, gs.Tensor) and bool(one == other))


def _type_of(tensor: gs.Variable) -> tuple[Any, Any]:
    return tensor.dtype, tuple(tensor.shape) if tensor.shape is not None else None


def _write_back(
    graph: GraphProto, edited: gs.Graph, origins: dict[int, _Origin], types: dict[str, tuple[Any, Any]]
) -> None:
    before = Index(graph)
    nodes = in_order([_export_node(node, origins.get(id(node))) for node in edited.nodes])
    tensors = edited.tensors()
    stated = {value.name: value for value in [*graph.input, *graph.output, *graph.value_info]}

    def value(tensor: gs.Variable) -> ValueInfoProto:
        if tensor.name in stated and types.get(tensor.name) == _type_of(tensor):
            return _copy(stated[tensor.name])
        exported: ValueInfoProto = OnnxExporter.export_value_info_proto(tensor, do_type_check=False)
        return exported

    inputs = [value(tensor) for tensor in edited.inputs]
    outputs = [value(tensor) for tensor in edited.outputs]
    ends = {tensor.name for tensor in [*edited.inputs, *edited.outputs]}
    inner = {
        name: tensor
        for name, tensor in tensors.items()
        if isinstance(tensor, gs.Variable) and name not in ends and tensor.dtype is not None
    }
    names = dict.fromkeys([info.name for info in graph.value_info] + list(inner))
    infos = [value(inner[name]) for name in names if name in inner]
    weights = _weights(graph, before, tensors, nodes)

    for field, items in (("node", nodes), ("input", inputs), ("output", outputs), ("value_info", infos)):
        graph.ClearField(field)
        getattr(graph, field).extend(items)
    graph.ClearField("initializer")
    graph.initializer.extend(weights)


def _copy(value: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(value)
    return copy


def _export_node(node: gs.Node, origin: _Origin | None) -> NodeProto:
    if origin is None or not origin.untouched(node):
        exported: NodeProto = OnnxExporter.export_node(node)
        return exported
    proto = NodeProto()
    proto.CopyFrom(origin.proto)
    for names, tensors in ((proto.input, node.inputs), (proto.output, node.outputs)):
        del names[:]
        names.extend(tensor.name for tensor in tensors)
    return proto


def _weights(
    graph: GraphProto, before: Index, tensors: dict[str, gs.Tensor], nodes: list[NodeProto]
) -> list[onnx.TensorProto]:
    """Initializers after the edit, the old ones first and in their order; those it left without a use go."""
    used = {name for node in nodes for name in used_names(node)} | {value.name for value in graph.output}
    used |= {name for name in before.initializers if not before.consumers_of(name)}
    kept, known = [], set()
    for tensor in graph.initializer:
        edited = tensors.get(tensor.name)
        replaced = isinstance(edited, gs.Constant) and not isinstance(edited._values, LazyValues)
        if tensor.name in used and not replaced:
            copy = onnx.TensorProto()
            copy.CopyFrom(tensor)
            kept.append(copy)
            known.add(tensor.name)
    kept += [
        OnnxExporter.export_tensor_proto(tensor)
        for name, tensor in tensors.items()
        if isinstance(tensor, gs.Constant) and name in used and name not in known and name not in before.sparse
    ]
    return kept


def constant_proto(tensor: gs.Tensor) -> onnx.TensorProto | None:
    """The stored tensor behind a GraphSurgeon tensor: initializer or Constant node; None for an activation."""
    if isinstance(tensor, gs.Constant):
        if isinstance(tensor._values, LazyValues):
            proto: onnx.TensorProto = tensor._values.tensor
            return proto
        return onnx.numpy_helper.from_array(tensor.values, tensor.name)
    if len(tensor.inputs) == 1 and tensor.inputs[0].op == "Constant":
        value = tensor.inputs[0].attrs.get("value")
        return constant_proto(value) if isinstance(value, gs.Constant) else None
    return None


class FreshNames:
    """Names for the tensors an edit adds: none that a tensor of the graph, or of a subgraph, has.

    Make one for a whole edit: it walks the graph once.
    """

    def __init__(self, graph: gs.Graph) -> None:
        self._taken = {tensor.name for tensor in [*graph.inputs, *graph.outputs]}
        for one in [graph, *graph.subgraphs(recursive=True)]:
            self._taken.update(one.tensors())

    def make(self, wish: str) -> str:
        """``wish``, or ``wish_2``, ``wish_3`` ... when a tensor has that name already."""
        name, number = wish, 2
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name


def subgraph_outputs(graph: gs.Graph) -> set[str]:
    """Names of the tensors that subgraphs return; one that is produced outside has its use there unseen."""
    return {output.name for inner in graph.subgraphs(recursive=True) for output in inner.outputs}


def remove(graph: gs.Graph, nodes: list[gs.Node]) -> None:
    """Take nodes out of the graph and off their tensors, in one walk (`list.remove` compares nodes field by field)."""
    gone = {id(node) for node in nodes}
    for node in nodes:
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes = [node for node in graph.nodes if id(node) not in gone]
