"""How a node is called in messages, in `quantize.skip` and by plugins. Imports no onnx: `explain` starts at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnx import NodeProto


def label(node: NodeProto) -> str:
    """The node's name; where an exporter gave none, its first output."""
    return node.name or first_output(node) or node.op_type


def first_output(node: NodeProto) -> str:
    """Tells nodes of one name apart: ONNX asks for different names of tensors only. "" when it has no output."""
    return next((name for name in node.output if name), "")
