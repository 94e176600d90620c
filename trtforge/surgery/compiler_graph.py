"""The graph a TensorRT parser is given: nodes of ours that are its plugins, in place of calls of functions.

A parser writes out a function whose definition it finds, even when a plugin of that name is registered. So the
definitions go, and the constants come in the order the kernels read.
"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, numpy_helper

from trtforge.graph.index import Index, fresh_name, used_names
from trtforge.graph.model import Model
from trtforge.graph.weights import read_tensor
from trtforge.kernels.plugin import PluginKind
from trtforge.surgery.op import DOMAIN
from trtforge.surgery.rules import attribute


def for_compiler(model: Model, kinds: Mapping[str, PluginKind]) -> Model:
    """A copy of the model for a parser that knows ``kinds``; the model itself when it has no such node.

    Functions of ours that are no plugin stay, and the parser writes them out. Raises ValueError for a node whose
    weights are computed in the graph; the errors of ``trtforge.graph.weights.read_tensor``.
    """
    if not any(node.domain == DOMAIN and node.op_type in kinds for node in model.proto.graph.node):
        return model
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    for position in range(len(proto.functions) - 1, -1, -1):
        if proto.functions[position].domain == DOMAIN and proto.functions[position].name in kinds:
            del proto.functions[position]
    index = Index(proto.graph)
    taken = index.names()
    for number, node in enumerate(proto.graph.node):
        if node.domain != DOMAIN or (kind := kinds.get(node.op_type)) is None or not kind.weights:
            continue
        first = len(node.input) - kind.weights
        values = []
        for weight in node.input[first:]:
            if (stored := index.constant(weight)) is None:
                raise ValueError(f"{node.op_type} packs its weights, and {weight!r} is not a constant")
            values.append(read_tensor(model, stored))
        fields = {name: attribute(node, name) for name in kind.fields}
        packed = kind.compile_weights(values, fields)
        del node.input[first:]
        for place, array in enumerate(packed):
            name = fresh_name(f"trtforge_plugin_{number}_{place}", taken)
            node.input.append(name)
            proto.graph.initializer.append(numpy_helper.from_array(array, name))
    read = {name for node in proto.graph.node for name in used_names(node)}
    read |= {value.name for value in proto.graph.output}
    for position in range(len(proto.graph.initializer) - 1, -1, -1):
        if proto.graph.initializer[position].name not in read:
            del proto.graph.initializer[position]
    return Model(proto, model.folder)
