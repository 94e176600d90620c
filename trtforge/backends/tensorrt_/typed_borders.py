"""Inputs and outputs of a network that says its types, in the types that a recipe wants: INT8, FP16 or FP32.

What a weakly typed network does out of sight is written into the graph: an INT8 input comes quantized by the caller, an
INT8 output leaves through a QuantizeLinear, and a Cast stands between FP16 and FP32. Names of inputs and outputs stay.
"""

from __future__ import annotations

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from trtforge.graph.index import Index, fresh_name, names_within, rename_tensors, used_names
from trtforge.graph.model import Model
from trtforge.graph.shapes import tensor_types, value_type
from trtforge.scales.codecs.prune import drop_unused_constants

TYPES = {"int8": TensorProto.INT8, "float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT}


def with_border(model: Model, name: str, dtype: str, scale: float | None) -> tuple[Model, str]:
    """The graph with one input or output as ``dtype``; or the same model, and why that cannot be.

    Args:
        model: the Q/DQ or FP16 graph; it is not changed.
        scale: of an INT8 one: what the caller divides by, or multiplies with; None where calibration has none.
    """
    sides = model.proto.graph.input, model.proto.graph.output
    taken, given = ({value.name: value_type(value).dtype for value in side} for side in sides)
    there = {**taken, **given}.get(name)
    if there == dtype:
        return model, ""
    if why := _why_not(model, name, there, dtype, scale):
        return model, why
    assert there is not None  # `_why_not` looked
    proto = ModelProto()
    proto.CopyFrom(model.proto)
    graph = proto.graph
    inside = fresh_name(f"{name}_{there}", names_within(graph))
    value = _moved(graph, name, inside)
    value.type.tensor_type.elem_type = TYPES[dtype]
    if name in taken:
        _take(graph, name, inside, TYPES[there], dtype, scale)
        drop_unused_constants(proto)  # that the nodes that went had for themselves
    elif not _gave_already(graph, name, inside, TYPES[there], scale, _tensors_of(model, dtype)):
        graph.node.append(_converter(graph, inside, name, TYPES[dtype], scale, "QuantizeLinear"))
    for old in [each for each in graph.value_info if each.name == name]:
        graph.value_info.remove(old)  # of a tensor that took the border's name
    return Model(proto, model.folder), ""


def _why_not(model: Model, name: str, there: str | None, dtype: str, scale: float | None) -> str:
    index = Index(model.proto.graph)
    if there is None:
        return f"the network has no {name!r} at its border: it has {', '.join([*index.inputs, *index.outputs])}"
    if name in index.outputs and index.producer(name) is None:
        return f"{name!r} leaves the network as it came, and no node says its type"
    if dtype == "int8" and there == "float32":
        return "" if scale is not None else f"calibration has no range for {name!r}"
    if {dtype, there} <= {"float16", "float32"}:
        return ""
    return f"the graph says {there} there"


def _moved(graph: GraphProto, name: str, inside: str) -> ValueInfoProto:
    """The border's own entry, under its name; every node reads and writes ``inside`` in its place."""
    rename_tensors(graph, {name: inside})
    value: ValueInfoProto = next(each for each in [*graph.input, *graph.output] if each.name == inside)
    value.name = name
    return value


def _take(graph: GraphProto, name: str, inside: str, there: int, dtype: str, scale: float | None) -> None:
    """``inside`` from the input; nodes that would only bring it to the input's new type are gone."""
    index = Index(graph)
    for node in index.consumers_of(inside):
        same = _quantizes(index, node, inside, scale) if dtype == "int8" else _casts(node, inside, TYPES[dtype])
        if same and node.output[0] not in index.outputs:
            graph.node.remove(node)
            rename_tensors(graph, {node.output[0]: name})
    if any(inside in used_names(node) for node in graph.node):
        graph.node.insert(0, _converter(graph, name, inside, there, scale, "DequantizeLinear"))


def _gave_already(graph: GraphProto, name: str, inside: str, there: int, scale: float | None, ready: set[str]) -> bool:
    """The output is what a Cast or DequantizeLinear made ``inside`` of, which is wanted itself: that is given.

    ``ready``: tensors of the new type, of which a Cast converts.
    """
    index = Index(graph)
    maker, taken = index.producer(inside), {*index.inputs, *index.outputs, *index.initializers}
    if maker is None or maker.input[0] in taken:
        return False
    before = index.producer(maker.input[0])
    casts = scale is None and _casts(maker, None, there) and maker.input[0] in ready
    if not casts and not (scale is not None and _dequantizes(index, maker, before, scale)):
        return False
    rename_tensors(graph, {maker.input[0]: name})
    if not any(inside in used_names(node) for node in graph.node):
        graph.node.remove(maker)
    return True


def _converter(graph: GraphProto, source: str, result: str, to: int, scale: float | None, kind: str) -> NodeProto:
    if scale is None:
        return helper.make_node("Cast", [source], [result], name=f"{result}_Cast", to=to)
    taken, border = names_within(graph), result if kind == "QuantizeLinear" else source
    names = [fresh_name(f"{border}_border_{what}", taken) for what in ("scale", "zero_point")]
    for constant, number in zip(names, (np.float32(scale), np.int8(0)), strict=True):
        graph.initializer.append(numpy_helper.from_array(np.asarray(number), constant))
    return helper.make_node(kind, [source, *names], [result], name=f"{border}_border_{kind}")


def _dequantizes(index: Index, node: NodeProto, before: NodeProto | None, scale: float) -> bool:
    """Does it undo the QuantizeLinear before it, which does what one for the output would?"""
    undoes = before is not None and node.op_type == "DequantizeLinear" and node.input[1:] == before.input[1:]
    return undoes and before is not None and _quantizes(index, before, before.input[0], scale)


def _quantizes(index: Index, node: NodeProto, name: str, scale: float | None) -> bool:
    """Is this the quantization that the caller does: to INT8, by one scale, around 0?"""
    if node.op_type != "QuantizeLinear" or node.input[0] != name or len(node.input) < 3:
        return False
    constants = [index.constant(each) for each in node.input[1:3]]
    if any(each is None or each.data_location == TensorProto.EXTERNAL for each in constants):
        return False
    by, zero = (numpy_helper.to_array(each) for each in constants if each is not None)
    return by.size == 1 and zero.dtype == np.int8 and not zero.any() and np.float32(by.item()) == np.float32(scale)


def _tensors_of(model: Model, dtype: str) -> set[str]:
    return {name for name, kind in tensor_types(model).items() if kind.dtype == dtype}


def _casts(node: NodeProto, source: str | None, to: int) -> bool:
    """Does it convert that tensor, or any, to this type and nothing else?"""
    there = next((attribute.i for attribute in node.attribute if attribute.name == "to"), None)
    return node.op_type == "Cast" and there == to and source in (None, node.input[0])
