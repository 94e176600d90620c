"""Where Q/DQ pairs go: TensorRT's placement rules, as decisions on a graph that is not changed here.

The rules (TensorRT developer guide, "Working with Quantized Types", Q/DQ placement):

* All inputs of a weighted operation are quantized: activations per tensor, constant weights per output channel.
* Bias stays float; no pair goes between an operation and what it fuses with (bias, BatchNorm, activation).
* Outputs are not quantized by default: a pair stands where a tensor is *read* by a quantized operation.
* Residual: of the two tensors an Add joins, one is the output of a quantized convolution and fuses with the Add; the
  other, the skip, is quantized, so that conv + add + relu runs as one INT8 kernel.
* Average pooling neither commutes with quantization nor has weights: it needs pairs on input and output.
* Max pooling, transposes and reshapes commute: the compiler moves pairs across them by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto, TensorProto

from trtforge.graph.index import Index
from trtforge.graph.labels import label
from trtforge.recipe.models import Quantize
from trtforge.scales.table import TensorRange

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
POOLS = ("AveragePool", "GlobalAveragePool")
FUSES_AFTER_CONV = ("BatchNormalization", "Relu", "LeakyRelu", "PRelu", "Clip")

Edge = tuple[int, int]
"""(position of a node in the graph, position of one of its inputs)"""


@dataclass(frozen=True)
class FloatNode:
    """A node that could run in INT8 and will not."""

    node: str
    op: str
    reason: str
    consequence: str


@dataclass(frozen=True)
class WeightRead:
    """A constant weight as one node reads it. ``axis``: output channels; None: one scale for the whole tensor."""

    tensor: str
    axis: int | None


@dataclass
class Placement:
    """What to quantize. ``quantized``: node position -> op type, for weighted nodes. ``outputs``: of the graph, that
    leave through a pair too."""

    quantized: dict[int, str] = field(default_factory=dict)
    activations: dict[str, list[Edge]] = field(default_factory=dict)
    weights: dict[Edge, WeightRead] = field(default_factory=dict)
    residual_adds: list[str] = field(default_factory=list)
    pools: list[str] = field(default_factory=list)
    left_float: list[FloatNode] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)

    def read(self, tensor: str, edge: Edge) -> None:
        self.activations.setdefault(tensor, []).append(edge)


def place(graph: GraphProto, ranges: Mapping[str, TensorRange], policy: Quantize) -> Placement:
    """Decide every pair. ``ranges``: the tensors whose scale is known."""
    placement = Placement()
    others = _other_types(graph)
    nodes = [
        (position, node)
        for position, node in enumerate(graph.node)
        if node.domain in ("", "ai.onnx") and label(node) not in policy.skip
    ]
    _place_weighted(placement, graph, ranges, policy, others)
    ranges = of_float32(graph, ranges)
    upstream = _Upstream(graph, placement)
    for position, node in nodes:
        if node.op_type == "Add":
            _place_residual(placement, upstream, position, node, ranges)
    for position, node in nodes:
        if node.op_type in POOLS:
            _place_pool(placement, upstream, position, node, ranges)
    return placement


def of_float32(graph: GraphProto, ranges: Mapping[str, TensorRange]) -> dict[str, TensorRange]:
    """The ranges without those of tensors that a float32 scale does not fit."""
    others = _other_types(graph)
    return {name: seen for name, seen in ranges.items() if name not in others}


def _other_types(graph: GraphProto) -> dict[str, str]:
    """Tensors the graph states another type for than float32: a float32 scale does not fit them."""
    return {
        value.name: TensorProto.DataType.Name(value.type.tensor_type.elem_type).lower()
        for value in [*graph.input, *graph.value_info, *graph.output]
        if value.type.tensor_type.elem_type not in (TensorProto.UNDEFINED, TensorProto.FLOAT)
    }


def _place_weighted(
    placement: Placement,
    graph: GraphProto,
    ranges: Mapping[str, TensorRange],
    policy: Quantize,
    others: Mapping[str, str],
) -> None:
    index = Index(graph)
    for position, node in enumerate(graph.node):
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx"):
            continue
        activations, weights = reads(node, index)
        reason = _why_float(node, index, policy)
        unfit = [node.input[slot] for slot in activations if node.input[slot] in others]
        missing = [node.input[slot] for slot in activations if node.input[slot] not in ranges]
        if not reason and unfit:
            reason = f"its input {unfit[0]!r} is {others[unfit[0]]}, not float32"
        elif not reason and missing:
            reason = f"no range is known for its input {missing[0]!r}"
        if reason:
            consequence = "it runs in floating point"
            placement.left_float.append(FloatNode(label(node), node.op_type, reason, consequence))
            continue
        placement.quantized[position] = node.op_type
        for slot in activations:
            placement.read(node.input[slot], (position, slot))
        for slot, axis in weights.items():
            placement.weights[position, slot] = WeightRead(node.input[slot], axis)


def _why_float(node: NodeProto, index: Index, policy: Quantize) -> str:
    """Why a weighted node cannot or shall not be quantized, whatever the ranges; empty when it can."""
    left, right = (index.constant(node.input[slot]) for slot in (0, 1))
    other = [tensor for tensor in (left, right) if tensor is not None and tensor.data_type != TensorProto.FLOAT]
    reason = ""
    if label(node) in policy.skip:
        reason = "it is named in `quantize.skip`"
    elif node.op_type == "ConvTranspose" and not policy.conv_transpose:
        reason = "`quantize.conv_transpose` is off"
    elif other:
        reason = f"its weight is {TensorProto.DataType.Name(other[0].data_type).lower()}, not float32"
    elif left is not None and right is not None:
        reason = "both its inputs are constants; the pass `fold-constants` removes it"
    elif node.op_type in ("Conv", "ConvTranspose") and left is not None:
        reason = "it convolves a constant"
    elif node.op_type in ("Conv", "ConvTranspose") and right is None:
        reason = "its weight is computed in the graph; the pass `fold-constants` may make it constant"
    return reason


def reads(node: NodeProto, index: Index) -> tuple[list[int], dict[int, int | None]]:
    """Activation inputs, and weight inputs with their output-channel axis."""
    left, right = (index.constant(node.input[slot]) for slot in (0, 1))
    if node.op_type == "Conv":
        return [0], {1: 0}
    if node.op_type == "ConvTranspose":
        return [0], {1: 1}
    if right is not None:
        return [0], {1: _right_axis(node, len(right.dims))}
    if left is not None:
        return [1], {0: _left_axis(node, len(left.dims))}
    return [0, 1], {}


def _right_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of the columns of the product in its right factor: each has its own scale. A vector has only one."""
    if rank < 2:
        return None
    return 0 if node.op_type == "Gemm" and _flag(node, "transB") else rank - 1


def _left_axis(node: NodeProto, rank: int) -> int | None:
    """Axis of the rows of the product in its left factor."""
    if rank < 2:
        return None
    return 1 if node.op_type == "Gemm" and _flag(node, "transA") else rank - 2


def _flag(node: NodeProto, name: str) -> bool:
    return any(attribute.name == name and attribute.i for attribute in node.attribute)


class _Upstream:
    """Questions about what a tensor comes from, given which nodes are quantized."""

    def __init__(self, graph: GraphProto, placement: Placement) -> None:
        self.index = Index(graph)
        self.readers: dict[str, list[Edge]] = {}
        for position, node in enumerate(graph.node):
            for slot, name in enumerate(node.input):
                self.readers.setdefault(name, []).append((position, slot))
        self._from_conv = {
            output
            for position, op in placement.quantized.items()
            if op == "Conv"
            for output in graph.node[position].output
        }
        self._depth = _depths(graph)

    def depth(self, tensor: str) -> int:
        return self._depth.get(tensor, 0)

    def fuses_with_reader(self, tensor: str) -> bool:
        """Is this the output of a quantized convolution that only one node reads (bias and BatchNorm between)?"""
        current: str | None = tensor
        while current is not None and self.index.only_consumer(current) is not None:
            if current in self._from_conv:
                return True
            current = self._scaled_input(current)
        return False

    def comes_from_conv(self, tensor: str) -> bool:
        """Does a quantized convolution reach this tensor through what it fuses with (bias, norm, relu, a residual)?"""
        pending, seen = [tensor], set[str]()
        while pending:
            current = pending.pop()
            node = self.index.producer(current)
            if node is None or current in seen:
                continue
            seen.add(current)
            if current in self._from_conv:
                return True
            if node.op_type in FUSES_AFTER_CONV:
                pending.append(node.input[0])
            elif node.op_type == "Add":
                pending.extend(node.input)
        return False

    def _scaled_input(self, tensor: str) -> str | None:
        """What a per-channel scale or shift made this tensor from; None when another node made it."""
        node = self.index.producer(tensor)
        if node is not None and node.op_type == "BatchNormalization":
            return str(node.input[0])
        if node is not None and node.op_type in ("Add", "Mul"):
            variable = [str(name) for name in node.input if self.index.constant(name) is None]
            return variable[0] if len(variable) == 1 else None
        return None


def _depths(graph: GraphProto) -> dict[str, int]:
    """Longest path from an input, in nodes, of every tensor. Nodes are in topological order (an ONNX requirement)."""
    depth: dict[str, int] = {}
    for node in graph.node:
        below = 1 + max((depth.get(name, 0) for name in node.input), default=0)
        depth.update((name, below) for name in node.output)
    return depth


def _place_residual(
    placement: Placement, upstream: _Upstream, position: int, node: NodeProto, ranges: Mapping[str, TensorRange]
) -> None:
    left, right = node.input
    fused = [slot for slot in (0, 1) if upstream.fuses_with_reader(node.input[slot])]
    if not fused or left == right or any(upstream.index.constant(name) is not None for name in node.input):
        return
    # Both come from convolutions where a block changes its width: the shorter branch is the shortcut.
    main = max(fused, key=lambda slot: (upstream.depth(node.input[slot]), -slot))
    skip = 1 - main
    if node.input[skip] not in ranges:
        reason = f"no range is known for its skip input {node.input[skip]!r}"
        consequence = "the convolution before it writes floating point, and the sum is a kernel of its own"
        placement.left_float.append(FloatNode(label(node), "Add", reason, consequence))
        return
    placement.read(node.input[skip], (position, skip))
    placement.residual_adds.append(label(node))


def _place_pool(
    placement: Placement, upstream: _Upstream, position: int, node: NodeProto, ranges: Mapping[str, TensorRange]
) -> None:
    source, result = node.input[0], node.output[0]
    if source not in placement.activations and not upstream.comes_from_conv(source):
        return  # in a float part of the graph: converting for the pool alone gains nothing
    index = upstream.index
    if result in index.outputs:
        return  # a caller reads it in float
    missing = [name for name in (source, result) if name not in ranges]
    if missing:
        reason = f"no range is known for {missing[0]!r}"
        consequence = "the layer before it writes floating point"
        placement.left_float.append(FloatNode(label(node), node.op_type, reason, consequence))
        return
    placement.read(source, (position, 0))
    known = placement.activations.setdefault(result, [])
    known.extend(edge for edge in upstream.readers.get(result, []) if edge not in known)
    placement.pools.append(label(node))
