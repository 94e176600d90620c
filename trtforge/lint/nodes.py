"""Small readings of a node that rules share. Imports no onnx, so that `trtforge explain` starts at once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from trtforge.graph.labels import first_output

if TYPE_CHECKING:
    from onnx import AttributeProto, NodeProto

DEFAULT_DOMAINS = ("", "ai.onnx")


def place(node: NodeProto) -> str:
    """How a node is named to a person: its name, else its first output."""
    return f"{node.op_type} `{node.name or first_output(node) or '?'}`"


def places(nodes: Iterable[NodeProto]) -> list[str]:
    return [place(node) for node in nodes]


def attribute(node: NodeProto, name: str) -> AttributeProto | None:
    return next((entry for entry in node.attribute if entry.name == name), None)


def ints(node: NodeProto, name: str) -> tuple[int, ...]:
    """A list attribute; empty when it is not given."""
    entry = attribute(node, name)
    return () if entry is None else tuple(entry.ints)


def integer(node: NodeProto, name: str, default: int) -> int:
    entry = attribute(node, name)
    return default if entry is None else int(entry.i)
