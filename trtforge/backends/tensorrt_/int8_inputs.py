"""INT8 inputs in a network that says its types: the quantization of an input moves out of the graph, to the caller."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import ModelProto, NodeProto, TensorProto

from trtforge.graph.index import Index, used_names
from trtforge.graph.model import Model


def quantized_outside(model: Model, names: Iterable[str]) -> tuple[Model, str]:
    """The Q/DQ graph with these inputs as INT8, read by what their QuantizeLinear nodes gave; or why that cannot be.

    The caller then quantizes by the very scale that the node had. The model itself is not changed.
    """
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    index = Index(proto.graph)
    for name in names:
        quantizers = index.consumers_of(name)
        strays = [node for node in quantizers if node.op_type != "QuantizeLinear" or node.input[0] != name]
        if not quantizers or strays or name in index.outputs:
            return model, f"{_whose(strays)} reads {name!r} in floating point"
        if len({tuple(node.input[1:]) for node in quantizers}) > 1:
            return model, f"{name!r} is quantized by more than one scale"
        given = {output for node in quantizers for output in node.output}
        if given & set(index.outputs):
            return model, f"the quantized {name!r} is an output of the graph"
        for node in quantizers:
            proto.graph.node.remove(node)
        _rename(proto.graph.node, given, name)
        value = next(value for value in proto.graph.input if value.name == name)
        value.type.tensor_type.elem_type = TensorProto.INT8
    read = {name for node in proto.graph.node for name in used_names(node)}
    for weight in [tensor for tensor in proto.graph.initializer if tensor.name not in read]:
        proto.graph.initializer.remove(weight)
    return Model(proto, model.folder), ""


def _rename(nodes: Iterable[NodeProto], old: set[str], new: str) -> None:
    for node in nodes:
        for place, name in enumerate(node.input):
            if name in old:
                node.input[place] = new


def _whose(nodes: list[NodeProto]) -> str:
    return f"{nodes[0].op_type} {nodes[0].name!r}" if nodes else "nothing quantized"
