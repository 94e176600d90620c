"""ReLUs that a quantizer folded into a zero point, made nodes again.

onnxruntime's quantizer drops a Relu or Clip before an asymmetric pair: the QuantizeLinear clips by itself, to the range
of its integers. Symmetric INT8 does not clip below zero, and a layer in float not at all, so a plain graph without the
node would be another network.

How far up the node clipped is not written anywhere. Where the range ends at a whole number, to the last bit of the
scale, it was a ReLU6 or its like: measured values do not end there by chance.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from trtforge.graph.index import Index, fresh_name
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.weights import SMALL, nbytes, read_tensor
from trtforge.scales.codecs.extraction import Read

_NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
_KEEP_SIGN = (
    "AveragePool",
    "Concat",
    "DepthToSpace",
    "Dropout",
    "Expand",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "Max",
    "MaxPool",
    "Mean",
    "Min",
    "ReduceMax",
    "ReduceMean",
    "ReduceMin",
    "Reshape",
    "Resize",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
    "Upsample",
)
"""Operators whose results are within the bounds of the tensors they read; a cubic Resize is not one of them."""

_ADD_UP = ("Add", "Mul", "Sum")
"""Operators that make nothing negative of tensors that are not, and know no upper bound."""

_OF_ALL = ("Concat", "Max", "Mean", "Min", *_ADD_UP)
"""Operators of which each input counts; of the others the first."""

_UP_TO_ONE = ("HardSigmoid", "Sigmoid", "Softmax")
_STEPS = 255


@dataclass(frozen=True)
class _Edit:
    """A Relu from ``source`` to ``result`` behind what makes ``tensor``; one of the two has that name.

    ``readers``: nodes, and their inputs, that read the result. ``top``: it is a Clip, from 0 to this.
    """

    tensor: str
    source: str
    result: str
    readers: tuple[tuple[NodeProto, int], ...]
    top: int | None

    def node(self, graph: GraphProto, taken: set[str], opset: int) -> NodeProto:
        """The Relu, or the Clip, whose bounds are initializers since opset 11."""
        if self.top is None:
            return helper.make_node("Relu", [self.source], [self.result], name=f"{self.tensor}_Relu")
        name = f"{self.tensor}_Clip"
        if opset < 11:
            return helper.make_node("Clip", [self.source], [self.result], name=name, min=0.0, max=float(self.top))
        bounds = [fresh_name(f"{name}_{bound}", taken) for bound in ("min", "max")]
        for bound, value in zip(bounds, (0, self.top), strict=True):
            graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), bound))
        return helper.make_node("Clip", [self.source, *bounds], [self.result], name=name)


def top_of(scale: np.ndarray[tuple[int, ...], np.dtype[np.floating]]) -> int | None:
    """The whole number that a range from zero ends at, when its scale is exactly what a quantizer makes of one."""
    top = round(_STEPS * float(scale))
    exact = scale.dtype == np.float32 and top > 0 and np.float32(top / _STEPS) == scale
    return top if exact else None


def restore_relus(
    model: Model, clipped: Mapping[str, int | None], reads: set[Read], outputs: frozenset[str]
) -> tuple[dict[str, str], set[Read]]:
    """Put a Relu or Clip behind each of ``clipped`` that may be beyond it, in place; not behind inputs of the graph.

    Args:
        model: the plain model, of which scalars can be read.
        clipped: its tensors whose quantized range begins at zero, and the whole number that it ends at, if it does.
        reads, outputs: node inputs and graph outputs that came through a DequantizeLinear; only these get the result.

    Returns the tensor that each Relu makes, by the one it was put behind (the same name, where everything read it
    quantized: then what the node before it makes is called ``<name>_unclipped``), and ``reads`` under the new names.
    Raises as ``read_tensor`` does, for the bound of a Clip.
    """
    graph = model.proto.graph
    index = Index(graph)
    beyond = [name for name in index.producers if name in clipped and not _within(name, model, index, clipped, reads)]
    taken = index.names()
    edits = [_edit(name, clipped[name], index, reads, outputs, taken) for name in beyond]
    renamed = _rename(edits, index)
    nodes = {edit.source: edit.node(graph, taken, default_opset(model.proto) or 0) for edit in edits}
    _write(graph, nodes)
    made = {edit.tensor: edit.result for edit in edits}
    return made, {(renamed.get(output, output), slot) for output, slot in reads}


def _edit(
    name: str, top: int | None, index: Index, reads: set[Read], outputs: frozenset[str], taken: set[str]
) -> _Edit:
    readers = index.consumers_of(name)
    places = [(reader, slot) for reader in readers for slot, read in enumerate(reader.input) if read == name]
    quantized = tuple((reader, slot) for reader, slot in places if (_key(reader), slot) in reads)
    if len(quantized) == len(places) and (name not in index.outputs or name in outputs):
        return _Edit(name, fresh_name(f"{name}_unclipped", taken), name, (), top)
    return _Edit(name, name, fresh_name(f"{name}_Relu", taken), quantized, top)


def _rename(edits: list[_Edit], index: Index) -> dict[str, str]:
    """Give nodes around the Relus the new names to read and to make; returns those by which a Read calls a node."""
    renamed = {}
    for edit in edits:
        producer = index.producers[edit.tensor]
        if _key(producer) == edit.tensor:
            renamed[edit.tensor] = edit.source
        producer.output[list(producer.output).index(edit.tensor)] = edit.source
        for reader, slot in edit.readers:
            reader.input[slot] = edit.result
    return renamed


def _write(graph: GraphProto, added: Mapping[str, NodeProto]) -> None:
    """The graph's nodes with each new one behind the node that makes what it reads."""
    if not added:
        return
    nodes: list[NodeProto] = []
    for node in graph.node:
        nodes += [node, *(added[name] for name in node.output if name in added)]
    del graph.node[:]
    graph.node.extend(nodes)


def _key(node: NodeProto) -> str:
    """What a Read calls a node: its first output."""
    return next(filter(None, node.output), "")


def _within(name: str, model: Model, index: Index, clipped: Mapping[str, int | None], reads: set[Read]) -> bool:
    """Is every value of the tensor from 0 to its top, by what makes it? An input of the graph is not looked into."""
    top, pending, seen = clipped[name], [name], {name}
    while pending:
        current = pending.pop()
        node = index.producer(current)
        if node is None:
            return False
        if (node.op_type in _KEEP_SIGN and not _overshoots(node)) or (node.op_type in _ADD_UP and top is None):
            sources = node.input if node.op_type in _OF_ALL else node.input[:1]
            for slot, source in enumerate(sources):
                through_pair = source in clipped and (_key(node), slot) in reads
                if source in seen or (through_pair and _is_below(clipped[source], top)):
                    continue  # a pair clips what is read through it, and nothing else
                seen.add(source)
                pending.append(source)
        elif not _makes_within(node, top, model, index):
            return False
    return True


def _overshoots(node: NodeProto) -> bool:
    """Is it a Resize that goes beyond its input: by cubic weights below 0, or by a value for what lies outside?"""
    given = {attribute.name: attribute.s for attribute in node.attribute}
    return given.get("mode") == b"cubic" or given.get("coordinate_transformation_mode") == b"tf_crop_and_resize"


def _is_below(value: float | None, top: int | None) -> bool:
    """Is an upper bound (None: there is none) within the other?"""
    return top is None or (value is not None and value <= top)


def _makes_within(node: NodeProto, top: int | None, model: Model, index: Index) -> bool:
    """Does the operator itself make nothing below 0 and nothing above ``top``?"""
    if node.op_type == "Clip":
        low, high = (_bound(node, number, name, model, index) for number, name in ((1, "min"), (2, "max")))
        return low is not None and low >= 0 and _is_below(high, top)
    return node.op_type in _UP_TO_ONE or (node.op_type in _NOT_NEGATIVE and top is None)


def _bound(node: NodeProto, slot: int, name: str, model: Model, index: Index) -> float | None:
    """The constant bound of a Clip; None where it has none, or one that is computed."""
    for attribute in node.attribute:  # before opset 11
        if attribute.name == name:
            return float(attribute.f)
    stored = index.constant(node.input[slot]) if len(node.input) > slot else None
    if stored is None or nbytes(stored) > SMALL:
        return None
    return float(read_tensor(model, stored))
