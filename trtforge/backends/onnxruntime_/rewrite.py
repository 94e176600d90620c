"""One rewrite of a Q/DQ graph, in place: what its steps share."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from trtforge.backends.onnxruntime_.signs import nonnegative
from trtforge.graph.index import Index, fresh_name
from trtforge.graph.model import Model
from trtforge.graph.weights import Parked, read_tensor

ACTIVATIONS = frozenset({"Relu", "Clip"})
"""What a convolution's kernel can take in, where it cannot be negative."""

Array = np.ndarray[Any, Any]


@dataclass
class LoweringReport:
    """Counts for the manifest.

    ``adapted_weights``: rewritten so that kernels cannot saturate. ``extra_pairs``: convolution outputs that got a
    Q/DQ pair where TensorRT's graph has none.
    """

    unsigned: int = 0
    signed: int = 0
    integer_biases: int = 0
    adapted_weights: list[str] = field(default_factory=list)
    extra_pairs: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "unsigned_activations": self.unsigned,
            "signed_activations": self.signed,
            "integer_biases": self.integer_biases,
            "adapted_weights": self.adapted_weights,
            "extra_pairs": self.extra_pairs,
        }


class Rewrite:
    """A skeleton being rewritten. ``index`` is of the graph before a step: :meth:`replace_nodes` makes it anew.

    ``nonnegative``: tensors that cannot be negative. Steps keep the names of tensors and what they stand for.
    """

    def __init__(self, model: Model, parked: Parked) -> None:
        self._model = model
        self._parked = parked
        self.graph = model.proto.graph
        self.index = Index(self.graph)
        self.nonnegative = nonnegative(self.index)
        self._taken = self.index.names()
        self.report = LoweringReport()

    def values(self, name: str) -> Array | None:
        """A constant of the graph, also one this rewrite has added."""
        tensor = self.index.constant(name)
        return None if tensor is None else self.read(tensor)

    def read(self, tensor: TensorProto) -> Array:
        return read_tensor(self._model, self._parked.find(tensor))

    def shape(self, name: str) -> tuple[int, ...]:
        tensor = self.index.constant(name)
        return () if tensor is None else tuple(tensor.dims)

    def step(self, quantizer: NodeProto) -> float:
        """The scale of a Q, inf where it is no constant scalar."""
        values = self.values(quantizer.input[1])
        return math.inf if values is None or values.size != 1 else float(values.reshape(()))

    def add(self, wanted: str, values: Array) -> str:
        """A new initializer; returns its name."""
        name = self.fresh(wanted)
        tensor = numpy_helper.from_array(values, name)
        self.graph.initializer.append(tensor)
        self.index.initializers[name] = tensor
        return name

    def fresh(self, wanted: str) -> str:
        return fresh_name(wanted, self._taken)

    def replace_nodes(self, nodes: Iterable[NodeProto]) -> None:
        """Put a new node list in place. Copies, since the index holds the nodes; so it is made anew."""
        copies = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del self.graph.node[:]
        self.graph.node.extend(copies)
        self.index = Index(self.graph)


def dequantizes(node: NodeProto | None) -> bool:
    return node is not None and node.op_type == "DequantizeLinear"
