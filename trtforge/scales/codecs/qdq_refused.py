"""What cannot be taken out of a quantized model, and what to do instead."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto

from trtforge.errors.calibration import QdqNotPlain
from trtforge.errors.scales import QdqScalesDisagree
from trtforge.graph.index import subgraphs
from trtforge.graph.labels import label
from trtforge.scales.codecs.extraction import Conflict


def is_linear(node: NodeProto) -> bool:
    # com.microsoft has twins of both, written by onnxruntime for 16-bit types.
    return node.op_type in ("QuantizeLinear", "DequantizeLinear")


def linear_inside(graph: GraphProto) -> Iterator[tuple[NodeProto, str]]:
    """Q/DQ nodes inside the subgraphs of a graph's nodes, with why they cannot be taken out."""
    for owner in graph.node:
        for subgraph in subgraphs(owner):
            for node in subgraph.node:
                if is_linear(node):
                    yield (
                        node,
                        f"it stands in a subgraph of {owner.op_type} {label(owner)!r}; TensorRT runs it in float",
                    )
            yield from linear_inside(subgraph)


def linear_in_functions(proto: ModelProto) -> Iterator[tuple[NodeProto, str]]:
    """Q/DQ nodes in the model's own functions; what they make of a tensor depends on the call."""
    for function in proto.functions:
        for node in function.node:
            if is_linear(node):
                yield node, f"it stands in the function {function.name} of the model"


def is_integer(node: NodeProto) -> bool:
    """An operator on integers: QLinearConv, QLinearAdd, MatMulInteger and their kind."""
    return node.op_type.startswith("QLinear") or node.op_type in ("ConvInteger", "MatMulInteger", "QGemm")


AS_QDQ = "quantize again in Q/DQ form: `quantize_static(..., quant_format=QuantFormat.QDQ)`"


FOLD = (
    "if it follows from constants, fold them first: `polygraphy surgeon sanitize --fold-constants MODEL -o FOLDED`; "
    "else start from the float model"
)


TO_INT8 = "quantize again to 8-bit integers (onnxruntime: `QuantType.QInt8`), or start from the float model"


def not_plain(node: NodeProto, why: str, next: str = "") -> QdqNotPlain:
    return QdqNotPlain(
        f"the quantization at {node.op_type} {label(node)!r} has no counterpart in a scale table",
        where=label(node),
        why=why,
        next=next or "quantize activations per tensor with constant scales, or start from the float model",
    )


def nothing_found(graph: GraphProto) -> QdqNotPlain:
    other = next((node for node in graph.node if is_integer(node) or node.op_type == "DynamicQuantizeLinear"), None)
    what = "the model has no Q/DQ nodes to extract scales from"
    if other is None:
        why, remedy = (
            "it holds neither QuantizeLinear nor DequantizeLinear",
            "calibrate it: `trtforge calibrate RECIPE`",
        )
        return QdqNotPlain(what, where=f"graph {graph.name!r}", why=why, next=remedy)
    where = f"{other.op_type} {label(other)}"
    return QdqNotPlain(what, where=where, why="it computes in integers, not between Q/DQ nodes", next=AS_QDQ)


def disagree(conflicts: tuple[Conflict, ...]) -> QdqScalesDisagree:
    first, more = conflicts[0], len(conflicts) - 1
    told = ", ".join(f"amax {amax:g} at {node}" for node, amax in zip(first.nodes, first.amax, strict=True))
    return QdqScalesDisagree(
        f"the tensor {first.tensor!r} is quantized with {len(first.nodes)} scales"
        + (f", and {more} others like it" if more else ""),
        where=first.tensor,
        why=f"{told}; a cache and a scale table have one scale a tensor",
        next="add `--conflicts widest` to take the widest, or let the quantizers of one tensor share a scale",
    )
