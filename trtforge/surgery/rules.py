"""Rules: a structure is found by what it computes, never by names, and what is nearly one gets a sentence why not.

A rule walks from an *anchor* node along producers and consumers. It ends in one of three ways: a :class:`Match`,
:class:`NotHere` (this is something else, nothing to say) or :class:`Near` (a person would call it the structure, and
one thing is in the way). Nothing is edited here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from onnx import AttributeProto, NodeProto, helper

from trtforge.graph import shapes
from trtforge.graph.index import Index
from trtforge.graph.io import default_opset
from trtforge.graph.labels import label
from trtforge.graph.model import Model
from trtforge.graph.weights import read_tensor

__all__ = [
    "Array",
    "Found",
    "Match",
    "Near",
    "NearMiss",
    "NotHere",
    "Rule",
    "View",
    "attribute",
    "is_op",
    "label",
]

Array = np.ndarray[Any, Any]


class NotHere(Exception):
    """The anchor belongs to something else. The argument, where there is one, is a clause that says what is missing."""


class Near(Exception):
    """Nearly the structure. The argument completes a sentence: "block c: the add has a second consumer 'aux_head'"."""


@dataclass(frozen=True)
class Match:
    """One place where a structure is.

    ``at``: a tensor a person finds it by. ``inputs``: operands of the function that stands for it, activations first,
    then weights, "" for one that is absent. ``inner``: tensors produced inside that nobody outside reads.
    ``ranges``: tensors whose range the INT8 form needs, in the plugin's own order. ``attributes``: of the function's
    node. ``facts``: whatever else the plugin's lowerings want to know.
    """

    rule: str
    at: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    inner: tuple[str, ...]
    ranges: tuple[str, ...] = ()
    attributes: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def swallowed(self) -> frozenset[str]:
        """Every tensor whose producer goes."""
        return frozenset((*self.inner, *self.outputs))


@dataclass(frozen=True)
class NearMiss:
    """``why`` is one sentence: what stands in the way."""

    rule: str
    at: str
    why: str

    @property
    def sentence(self) -> str:
        return f"{self.rule}: at {self.at!r}: {self.why}"


@dataclass(frozen=True)
class Found:
    """``nowhere``: a clause why there is no match, "" when there is one."""

    matches: tuple[Match, ...] = ()
    near: tuple[NearMiss, ...] = ()
    nowhere: str = ""


class View:
    """A graph as rules see it: who makes and reads each tensor, constants, types. Made once, never edited."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.graph = model.proto.graph
        self.index = Index(self.graph)
        self.opset = default_opset(model.proto) or 0

    @cached_property
    def types(self) -> dict[str, shapes.TensorType]:
        return shapes.tensor_types(self.model)

    @cached_property
    def first_of(self) -> dict[str, NodeProto]:
        """The first node of each operator of the standard domain."""
        return {node.op_type: node for node in reversed(self.graph.node) if is_op(node, node.op_type)}

    def nodes(self, *operators: str) -> list[NodeProto]:
        """Nodes of the standard domain with one of these operators, in graph order."""
        return [node for node in self.graph.node if is_op(node, *operators)]

    def made_by(self, tensor: str, *operators: str) -> NodeProto:
        """The node that makes a tensor, when it is one of these. Raises NotHere."""
        node = self.index.producer(tensor)
        if node is None:
            raise NotHere(f"the tensor {tensor!r} is made by no node")
        if not is_op(node, *operators):
            raise NotHere(f"{node.op_type} {label(node)!r} is where {_one_of(operators)} would be")
        return node

    def readers(self, tensor: str) -> list[NodeProto]:
        return self.index.consumers_of(tensor)

    def shape(self, tensor: str) -> tuple[int | str | None, ...] | None:
        """Sizes of a tensor, as far as known; None when even the rank is not."""
        if (stored := self.index.constant(tensor)) is not None:
            return tuple(stored.dims)
        known = self.types.get(tensor)
        return None if known is None or known.shape is None else tuple(known.shape)

    def constant_shape(self, tensor: str) -> tuple[int, ...] | None:
        """Sizes of a weight, without reading it; None for a tensor that is computed."""
        stored = self.index.constant(tensor)
        return None if stored is None else tuple(stored.dims)

    def value(self, tensor: str) -> Array | None:
        """A constant's values, wherever its bytes are; None for a tensor that is computed."""
        stored = self.index.constant(tensor)
        return None if stored is None else read_tensor(self.model, stored)

    def scalar(self, tensor: str) -> float | None:
        """A constant of one element as a number."""
        stored = self.constant_shape(tensor)
        if stored is None or any(size != 1 for size in stored):
            return None
        value = self.value(tensor)
        return None if value is None else float(value.reshape(-1)[0])

    def closed(self, nodes: Iterable[NodeProto], outputs: Sequence[str]) -> tuple[str, ...]:
        """Tensors made inside by ``nodes``, without ``outputs``. Raises Near when one of them is used outside."""
        inside = list(nodes)
        own = {id(node) for node in inside}
        inner = [name for node in inside for name in node.output if name and name not in outputs]
        for name in inner:
            if name in self.index.outputs:
                raise Near(f"the tensor {name!r} inside it is an output of the graph")
            for reader in self.readers(name):
                if id(reader) not in own:
                    raise Near(f"the tensor {name!r} inside it has a second consumer {label(reader)!r}")
        return tuple(inner)


class Rule(ABC):
    """One structure. The class docstring states its algebra: what is equal to what, and when."""

    name: ClassVar[str]
    begins: ClassVar[str] = "node to begin at"
    """What an anchor is, in words, without an article."""

    def requires(self, view: View) -> str:
        """A sentence when the rule cannot look at this graph at all, else empty."""
        return ""

    @abstractmethod
    def anchors(self, view: View) -> Iterable[NodeProto]:
        """Nodes that may be the beginning or end of the structure: few and cheap to name."""

    @abstractmethod
    def match(self, anchor: NodeProto, view: View) -> Match:
        """The structure at this anchor. Raises NotHere, Near."""

    def find(self, view: View) -> Found:
        """All of them; a tensor is swallowed by one match only, the first that asks for it."""
        if why := self.requires(view):
            return Found((), (NearMiss(self.name, self.name, why),), why)
        matches: list[Match] = []
        near: list[NearMiss] = []
        elsewhere: list[NearMiss] = []
        taken: set[str] = set()
        for anchor in self.anchors(view):
            try:
                one = self.match(anchor, view)
            except NotHere as miss:
                elsewhere.append(NearMiss(self.name, label(anchor), str(miss)))
                continue
            except Near as miss:
                near.append(NearMiss(self.name, label(anchor), str(miss)))
                continue
            if taken.isdisjoint(one.swallowed):
                matches.append(one)
                taken |= one.swallowed
        return Found(tuple(matches), tuple(near), "" if matches else self._nowhere(near, elsewhere))

    def _nowhere(self, near: Sequence[NearMiss], elsewhere: Sequence[NearMiss]) -> str:
        """Why there is no match, by the first anchor that something is to be said of."""
        if near:
            return f"nearly at {near[0].at!r}: {near[0].why}"
        if not elsewhere:
            return f"the graph has no {self.begins}"
        told = next((miss for miss in elsewhere if miss.why), elsewhere[0])
        others = len(elsewhere) - 1
        more = f"; nor do {others} others" if others > 1 else "; nor does another" if others else ""
        why = f": {told.why}" if told.why else ""
        return f"the {self.begins} {told.at!r} does not belong to one{why}{more}"


def _one_of(operators: Sequence[str]) -> str:
    """`Conv, Relu or Clip`; of many the first two."""
    if len(operators) > 3:
        return f"{', '.join(operators[:2])} or the like"
    return " or ".join(filter(None, (", ".join(operators[:-1]), operators[-1])))


def is_op(node: NodeProto, *operators: str) -> bool:
    return node.op_type in operators and node.domain in ("", "ai.onnx")


def attribute(node: NodeProto, name: str, default: Any = None) -> Any:
    """An attribute's value as Python; ``default`` where the node does not state it."""
    for one in node.attribute:
        if one.name == name:
            value = helper.get_attribute_value(one)
            if one.type == AttributeProto.STRING:
                return value.decode()
            return list(value) if one.type in (AttributeProto.INTS, AttributeProto.FLOATS) else value
    return default
