"""ReLUs that a quantizer folded into a zero point, made nodes again.

onnxruntime's quantizer drops a Relu before an asymmetric pair whose range begins at zero: the QuantizeLinear clips
negative values itself. Symmetric INT8 does not, so a plain graph without the node would be another network.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import GraphProto, NodeProto, helper

from trtforge.graph.index import Index, fresh_name
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


def restore_relus(
    graph: GraphProto, clipped: Iterable[str], reads: set[Read], outputs: frozenset[str]
) -> tuple[dict[str, str], set[Read]]:
    """Put a Relu behind each of ``clipped`` that may be negative, in place.

    Args:
        clipped: tensors of the plain graph whose quantized range begins at zero.
        reads, outputs: node inputs and graph outputs that came through a DequantizeLinear; only these get the result.

    Returns the tensor that each Relu makes, by the one it was put behind (the same name, where everything read it
    quantized: then what the node before it makes is called ``<name>_unclipped``), and ``reads`` under the new names.
    """
    wanted = set(clipped)
    first = Index(graph)
    signed = [name for name in first.producers if name in wanted and not _not_negative(name, first, wanted)]
    taken = first.names()
    made: dict[str, str] = {}
    for name in signed:
        made[name], reads = _restore(graph, name, reads, outputs, taken)
    return made, reads


def _restore(
    graph: GraphProto, name: str, reads: set[Read], outputs: frozenset[str], taken: set[str]
) -> tuple[str, set[Read]]:
    """One Relu behind the tensor ``name``; its result and the reads, as above."""
    index = Index(graph)
    producer = index.producers[name]
    old_key = _key(producer)
    readers = index.consumers_of(name)
    places = [(reader, slot) for reader in readers for slot, read in enumerate(reader.input) if read == name]
    quantized = [(reader, slot) for reader, slot in places if (_key(reader), slot) in reads]
    alone = len(quantized) == len(places) and (name not in index.outputs or name in outputs)
    if alone:
        source, result = fresh_name(f"{name}_unclipped", taken), name
        producer.output[list(producer.output).index(name)] = source
    else:
        source, result = name, fresh_name(f"{name}_Relu", taken)
        for reader, slot in quantized:
            reader.input[slot] = result
    key = _key(producer)
    position = next(place for place, node in enumerate(graph.node) if source in node.output)
    graph.node.insert(position + 1, helper.make_node("Relu", [source], [result], name=f"{name}_Relu"))
    return result, {(key if output == old_key else output, slot) for output, slot in reads}


def _key(node: NodeProto) -> str:
    """What a Read calls a node: its first output."""
    return next(filter(None, node.output), "")


def _not_negative(name: str, index: Index, clipped: set[str]) -> bool:
    """Is no value of the tensor negative, by what makes it? An input of the graph is not looked into."""
    pending = [name]
    while pending:
        current = pending.pop()
        node = index.producer(current)
        if current != name and current in clipped:
            continue  # it is clipped itself, so that what it is read as is not negative
        if node is None:
            return False
        if node.op_type in _KEEP_SIGN:
            pending.extend(node.input if node.op_type == "Concat" else node.input[:1])
        elif node.op_type not in _NOT_NEGATIVE:
            return False
    return True
