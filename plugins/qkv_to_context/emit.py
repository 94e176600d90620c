"""Nodes around an attention that all lowerings share: x as [B, S, E], weights head by head, the result's form."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, helper

from trtforge.graph.weights import read_tensor
from trtforge.plugins.qkv_to_context.structure import Attention, Part, Rows, attention_of
from trtforge.plugins.qkv_to_context.trace import Projection, weight_shape
from trtforge.scales.codecs.weights import channel_scales, quantize
from trtforge.surgery.op import Names
from trtforge.surgery.rules import Array, Match, View, attribute, is_op


class Emitter:
    """Nodes in order, with new names that begin with the match's output."""

    def __init__(self, match: Match, names: Names) -> None:
        self.nodes: list[NodeProto] = []
        self.names = names
        self._prefix = f"{match.at}_qkv"

    def add(self, operator: str, inputs: Sequence[str], output: str = "", **attributes: Any) -> str:
        """A node of the standard domain; returns its output."""
        return self.put(helper.make_node(operator, list(inputs), [output or self.fresh(operator)], **attributes))

    def put(self, node: NodeProto) -> str:
        node.name = node.name or self.names.fresh(f"{self._prefix}_{node.op_type}_node")
        self.nodes.append(node)
        return str(node.output[0])

    def fresh(self, wish: str) -> str:
        return self.names.fresh(f"{self._prefix}_{wish}")

    def constant(self, wish: str, values: Any, dtype: Any = np.int64) -> str:
        return self.names.weight(f"{self._prefix}_{wish}", np.asarray(values, dtype))

    def batch_first(self, x: str, found: Attention, view: View) -> str:
        """x as [B, S, E]."""
        rows, made = found.source, found.parts[0].projection
        hidden = weight_shape(view, made.weight)[1 if made.transposed else 0]
        if rows.rank == 2:
            sizes = [found.batch or -1, found.sequence or -1]
            order = sizes[::-1] if rows.time_first else sizes
            x = self.add("Reshape", [x, self.constant("rows", [*order, hidden])])
        return self.add("Transpose", [x], perm=[1, 0, 2]) if rows.time_first else x

    def as_result(self, make: Any, rows: Rows, width: int, output: str) -> None:
        """``make(name)`` makes the context [B, S, width] under a name; here it becomes what the graph had."""
        last = [*(["Transpose"] if rows.time_first else []), *(["Reshape"] if rows.rank == 2 else [])]
        made = make("" if last else output)
        if rows.time_first:
            made = self.add("Transpose", [made], "" if rows.rank == 2 else output, perm=[1, 0, 2])
        if rows.rank == 2:
            self.add("Reshape", [made, self.constant("flat", [-1, width])], output)

    def weight_nodes(self, part: Part, found: Attention, view: View) -> tuple[str, str]:
        """Names of the weight [E, N*H] and bias [N*H] of Q, K or V, taken out of the graph's by nodes."""
        made = part.projection
        columns = part.columns(found.heads, found.head_size)
        whole = len(columns) == made.width and (columns == np.arange(made.width)).all()
        weight = self.add("Transpose", [made.weight], perm=[1, 0]) if made.transposed else made.weight
        bias = made.bias or self.constant("no_bias", np.zeros(made.width), weight_dtype(made, view))
        if whole:
            return weight, bias
        index = self.constant("columns", columns)
        return self.add("Gather", [weight, index], axis=1), self.add("Gather", [bias, index], axis=-1)

    def whole_weight(self, made: Projection, view: View) -> tuple[str, str]:
        """Names of a projection's weight [E, width] and bias [width], new ones where the graph has no such tensor."""
        weight = made.weight
        if made.transposed or view.constant_shape(weight) is None:
            values = np.ascontiguousarray(weight_values(made, view))
            weight = self.constant("weight", values, values.dtype)
        if made.bias and view.constant_shape(made.bias) is not None:
            return weight, made.bias
        values = bias_values(made, view)
        return weight, self.constant("bias", values, values.dtype)

    def project(self, x: str, weight: Array, bias: Array, *, int8: bool = False) -> str:
        """x @ weight + bias with new weights; ``int8``: x is dequantized already, the weight is stored in INT8 with one
        scale a column."""
        if not int8:
            product = self.add("MatMul", [x, self.constant("weight", weight, weight.dtype)])
        else:
            scales = channel_scales(weight.astype(np.float32), 1)
            scale = self.constant("weight_scale", scales, np.float32)
            zero = self.constant("weight_zero", np.zeros(scales.shape), np.int8)
            stored = self.constant("weight_int8", quantize(weight.astype(np.float32), scales, 1), np.int8)
            restored = self.add("DequantizeLinear", [stored, scale, zero], axis=1)
            product = self.add("MatMul", [x, restored])
        return self.add("Add", [product, self.constant("bias", bias, bias.dtype)])

    def quantize(self, tensor: str, amax: float) -> tuple[str, str]:
        """A Q/DQ pair with the scale amax / 127, rank 0: the INT8 tensor and the float one."""
        pair = [self.constant("scale", amax / 127, np.float32), self.constant("zero", 0, np.int8)]
        stored = self.add("QuantizeLinear", [tensor, *pair])
        return stored, self.add("DequantizeLinear", [stored, *pair])


def weight_values(made: Projection, view: View) -> Array:
    """[E, width], as x is multiplied by it."""
    values = _constant(made.weight, view)
    return values.T if made.transposed else values


def weight_dtype(made: Projection, view: View) -> np.dtype[Any]:
    """Of the weight, which is not read."""
    stored = _stored(made.weight, view)
    return np.dtype(helper.tensor_dtype_to_np_dtype(stored.data_type))


def _stored(tensor: str, view: View) -> TensorProto:
    """The constant that a tensor is, or is the Transpose or Identity of."""
    while (stored := view.index.constant(tensor)) is None:
        node = view.index.producer(tensor)
        assert node is not None  # the rule takes constants, their Transpose and their Identity
        tensor = node.input[0]
    return stored


def bias_values(made: Projection, view: View) -> Array:
    """[width]; zeros where there is none."""
    if not made.bias:
        return np.zeros(made.width, weight_dtype(made, view))
    return _constant(made.bias, view).reshape(-1)


def _constant(tensor: str, view: View) -> Array:
    stored = view.index.constant(tensor)
    if stored is not None:
        return read_tensor(view.model, stored)
    node = view.index.producer(tensor)
    assert node is not None  # the rule takes constants, their Transpose and their Identity
    inner = _constant(node.input[0], view)
    return inner if is_op(node, "Identity") else np.transpose(inner, attribute(node, "perm"))


def merged_weights(match: Match, view: View, *, by_head: bool) -> tuple[Array, Array]:
    """One weight [E, 3*N*H] and bias [3*N*H] for Q, K and V: columns [N, 3, H] by head, else [3, N, H]."""
    found = attention_of(match)
    weights, biases = [], []
    for part in found.parts:
        columns = part.columns(found.heads, found.head_size)
        weights.append(weight_values(part.projection, view)[:, columns])
        biases.append(bias_values(part.projection, view)[columns])
    order = np.arange(3 * found.width)
    if by_head:
        order = order.reshape(3, found.heads, found.head_size).transpose(1, 0, 2).reshape(-1)
    return np.ascontiguousarray(np.concatenate(weights, 1)[:, order]), np.concatenate(biases)[order]
