"""Whether a parsed model can be read at all: protobuf lets texts that are no UTF-8 and unknown types through.

So is an attribute with which onnx's own shape inference, and its version converter, read memory that is not theirs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto, TypeProto

_TYPES = frozenset(TensorProto.DataType.values()) - {TensorProto.UNDEFINED}
_GATHERS = (("GatherND", ""), ("GatherND", "ai.onnx"))


def unreadable_part(proto: ModelProto) -> str:
    """A sentence for the first text, type, size or axis in a model that means nothing; empty when all can be read."""
    return next(_faults(proto), "")


def _faults(message: Any) -> Iterator[str]:
    if isinstance(message, TensorProto):
        yield from _tensor_faults(message)
        return
    if isinstance(message, TypeProto.Tensor) and message.elem_type not in {*_TYPES, TensorProto.UNDEFINED}:
        yield f"a tensor is stated to have the element type {message.elem_type}, which ONNX does not have"
    if isinstance(message, NodeProto) and (message.op_type, message.domain) in _GATHERS:
        yield from _gather_faults(message)
    for field, value in message.ListFields():
        if field.type == field.TYPE_MESSAGE:
            for item in value if hasattr(value, "add") else [value]:
                yield from _faults(item)
        elif field.type == field.TYPE_STRING:
            yield from _text_faults(field.name, [value] if isinstance(value, (str, bytes)) else value)


def _tensor_faults(tensor: TensorProto) -> Iterator[str]:
    """As for other messages, without asking for the values: that would copy them."""
    yield from _text_faults("name", [tensor.name])
    yield from _text_faults("doc_string", [tensor.doc_string])
    for entry in tensor.external_data:
        yield from _faults(entry)
    if tensor.data_type not in _TYPES:
        yield f"the weight {tensor.name!r} has the element type {tensor.data_type}, which ONNX does not have"
    if any(size < 0 for size in tensor.dims):
        yield f"the weight {tensor.name!r} has the shape {list(tensor.dims)}, with a negative size"


def _gather_faults(node: NodeProto) -> Iterator[str]:
    """onnx counts shared axes from the front of both shapes and does not look whether it stays in them."""
    for entry in node.attribute:
        if entry.name == "batch_dims" and entry.i < 0:
            name = node.name or next(iter(node.output), "?")
            yield f"node {name!r} (GatherND) has batch_dims {entry.i}, and a number of axes is 0 or more"


def _text_faults(field: str, texts: Any) -> Iterator[str]:
    for text in texts:
        if isinstance(text, bytes):  # what protobuf returns when the bytes are no UTF-8
            yield f"the field {field!r} holds {text[:40]!r}, which is no text"
