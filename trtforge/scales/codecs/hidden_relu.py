"""ReLUs that a quantizer folded into a zero point, made nodes again.

onnxruntime's quantizer drops a Relu before an asymmetric pair whose range begins at zero: the QuantizeLinear clips
negative values itself. Symmetric INT8 does not, so a plain graph without the node would be another network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from onnx import GraphProto, NodeProto, helper

from trtforge.graph.index import Index, fresh_name
from trtforge.graph.model import Model
from trtforge.graph.weights import SMALL, nbytes, read_tensor
from trtforge.scales.codecs.extraction import Read

_NOT_NEGATIVE = ("Abs", "Exp", "HardSigmoid", "Relu", "Sigmoid", "Softmax", "Softplus", "Sqrt")
_KEEP_SIGN = (
    "AveragePool",
    "Concat",
    "DepthToSpace",
    "Flatten",
    "Gather",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "Identity",
    "MaxPool",
    "ReduceMax",
    "ReduceMean",
    "Reshape",
    "Slice",
    "SpaceToDepth",
    "Split",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
"""Operators whose results are not negative where the tensors they read are not; Concat reads several."""


@dataclass(frozen=True)
class _Edit:
    """A Relu from ``source`` to ``result`` behind what makes ``tensor``; one of the two has that name.

    ``readers``: nodes, and their inputs, that read the result.
    """

    tensor: str
    source: str
    result: str
    readers: tuple[tuple[NodeProto, int], ...]

    def relu(self) -> NodeProto:
        return helper.make_node("Relu", [self.source], [self.result], name=f"{self.tensor}_Relu")


def restore_relus(
    model: Model, clipped: Iterable[str], reads: set[Read], outputs: frozenset[str]
) -> tuple[dict[str, str], set[Read]]:
    """Put a Relu behind each of ``clipped`` that may be negative, in place. Inputs of the graph are left alone.

    Args:
        model: the plain model, of which scalars can be read.
        clipped: its tensors whose quantized range begins at zero.
        reads, outputs: node inputs and graph outputs that came through a DequantizeLinear; only these get the result.

    Returns the tensor that each Relu makes, by the one it was put behind (the same name, where everything read it
    quantized: then what the node before it makes is called ``<name>_unclipped``), and ``reads`` under the new names.
    Raises as ``read_tensor`` does, for the bound of a Clip.
    """
    graph, wanted = model.proto.graph, set(clipped)
    index = Index(graph)
    signed = [name for name in index.producers if name in wanted and not _not_negative(name, model, index, wanted)]
    taken = index.names()
    edits = [_edit(name, index, reads, outputs, taken) for name in signed]
    renamed = _rename(edits, index)
    _write(graph, {edit.source: edit for edit in edits})
    made = {edit.tensor: edit.result for edit in edits}
    return made, {(renamed.get(output, output), slot) for output, slot in reads}


def _edit(name: str, index: Index, reads: set[Read], outputs: frozenset[str], taken: set[str]) -> _Edit:
    readers = index.consumers_of(name)
    places = [(reader, slot) for reader in readers for slot, read in enumerate(reader.input) if read == name]
    quantized = tuple((reader, slot) for reader, slot in places if (_key(reader), slot) in reads)
    if len(quantized) == len(places) and (name not in index.outputs or name in outputs):
        return _Edit(name, fresh_name(f"{name}_unclipped", taken), name, ())
    return _Edit(name, name, fresh_name(f"{name}_Relu", taken), quantized)


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


def _write(graph: GraphProto, edits: dict[str, _Edit]) -> None:
    """The graph's nodes with each Relu behind the node that makes what it reads."""
    if not edits:
        return
    nodes: list[NodeProto] = []
    for node in graph.node:
        behind = [edits[name] for name in node.output if name in edits]
        nodes += [node, *(edit.relu() for edit in behind)]
    del graph.node[:]
    graph.node.extend(nodes)


def _key(node: NodeProto) -> str:
    """What a Read calls a node: its first output."""
    return next(filter(None, node.output), "")


def _not_negative(name: str, model: Model, index: Index, clipped: set[str]) -> bool:
    """Is no value of the tensor negative, by what makes it? An input of the graph is not looked into."""
    pending, seen = [name], {name}
    while pending:
        current = pending.pop()
        node = index.producer(current)
        if current != name and current in clipped:
            continue  # it is clipped itself, so that what it is read as is not negative
        if node is None:
            return False
        if node.op_type in _KEEP_SIGN:
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            pending.extend(source for source in sources if source not in seen)
            seen.update(sources)
        elif node.op_type not in _NOT_NEGATIVE and not _clips_negative(node, model, index):
            return False
    return True


def _clips_negative(node: NodeProto, model: Model, index: Index) -> bool:
    """Is it a Clip with a constant lower bound of 0 or more?"""
    if node.op_type != "Clip":
        return False
    for attribute in node.attribute:  # before opset 11
        if attribute.name == "min":
            return bool(attribute.f >= 0)
    bound = index.constant(node.input[1]) if len(node.input) > 1 else None
    if bound is None or nbytes(bound) > SMALL:
        return False
    return bool((read_tensor(model, bound) >= 0).all())
