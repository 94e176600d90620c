"""Which tensors can never be negative, by what computes them: a proof, where calibration only gives a hint."""

from __future__ import annotations

from onnx import NodeProto, numpy_helper

from trtforge.graph.index import Index

_ALWAYS = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Softplus", "Sqrt", "ReduceL2"})
_IF_INPUT = frozenset(
    {
        *("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax", "ReduceMin"),
        *("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "Slice", "Gather", "DepthToSpace"),
        *("SpaceToDepth", "Expand", "Tile", "Dropout", "QuantizeLinear", "DequantizeLinear"),
    }
)
_IF_ALL_INPUTS = frozenset({"Add", "Mul", "Concat", "Max", "Min", "Sum", "Mean"})


def nonnegative(index: Index) -> set[str]:
    """Names of the tensors that are >= 0 whatever the graph's inputs are. NaN aside.

    Nodes are in topological order (an ONNX requirement), so one walk is enough. Operators not listed here, and all
    graph inputs, may be negative.
    """
    proven: set[str] = set()
    for node in index.graph.node:
        if node.domain in ("", "ai.onnx") and _is_nonnegative(node, index, proven):
            proven.update(name for name in node.output if name)
    return proven


def _is_nonnegative(node: NodeProto, index: Index, proven: set[str]) -> bool:
    if node.op_type in _ALWAYS:
        return True
    if node.op_type == "Clip" and _clips_at_zero(node, index):
        return True
    if node.op_type in _IF_INPUT:
        return node.input[0] in proven
    if node.op_type in _IF_ALL_INPUTS:
        return all(name in proven or _constant_nonnegative(name, index) for name in node.input)
    return False


def _clips_at_zero(node: NodeProto, index: Index) -> bool:
    for attribute in node.attribute:  # opset < 11
        if attribute.name == "min":
            return bool(attribute.f >= 0)
    return len(node.input) > 1 and _constant_nonnegative(node.input[1], index)


def _constant_nonnegative(name: str, index: Index) -> bool:
    """Only small inline constants are looked at; a weight in another file is taken as signed."""
    tensor = index.constant(name)
    if tensor is None or tensor.external_data or len(tensor.dims) > 1:
        return False
    return bool((numpy_helper.to_array(tensor) >= 0).all())
