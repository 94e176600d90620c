"""What boxes are computed from: the spelling of a box decoder followed back, column by column.

A tensor of boxes is a row of columns, each a sum over what the network predicts for the box:

    c(p) = constant(p) + sum_i a_i(p) * loc_i(p) + sum_i b_i(p) * exp(s_i * loc_i(p))

Additions, products with constants, exponentials and views keep that form, so every spelling of a decoder ends in the
same columns, and the anchors and variances are read off them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from trtforge.plugins.nms.columns import Column, Unknown, add, constant, exponential, scaled
from trtforge.plugins.nms.views import Layout, concatenated, picked, reshaped, turned, widened, without
from trtforge.surgery.rules import Array, View, attribute, is_op

_ELEMENTWISE = ("Add", "Sub", "Mul", "Div", "Neg", "Exp", "Identity")
_NEAR = 1e-5
"""Anchors come back from rounded float32 arithmetic; what should be equal differs by a few parts in 10^7."""


@dataclass(frozen=True)
class Decoder:
    """``source``: the predictions, [N, P, 4]. ``anchors``: float32 [1, P, 4], or None; centre and size as the boxes.

    ``order``: which of the source's columns are y, x, h, w of the plugin. ``variances``: factors of those, in the
    plugin's order. ``nodes``: what it replaces.
    """

    source: str
    centre_size: bool
    anchors: Array | None
    order: tuple[int, ...]
    variances: tuple[float, ...]
    nodes: tuple[NodeProto, ...]


@dataclass(frozen=True)
class _Traced:
    """Columns of a tensor and which of its axes are images, boxes and columns."""

    layout: Layout
    columns: tuple[Column, ...]


def decoder_of(boxes: str, view: View) -> Decoder | None:
    """The decoder that makes corners [N, P, 4], or None: then the tensor is taken as it is."""
    shape = view.shape(boxes)
    if shape is None or len(shape) != 3 or shape[2] != 4 or not isinstance(shape[1], int):
        return None
    tracer = _Tracer(view, shape[1])
    try:
        traced = tracer.trace(boxes)
    except Unknown:
        return None
    if traced.layout.axes[1:] != ("box", "column") or len(traced.columns) != 4 or tracer.source is None:
        return None
    nodes = tuple(node for node in view.graph.node if id(node) in tracer.nodes)
    columns, source = traced.columns, tracer.source
    return _with_anchors(columns, shape[1], source, nodes) or _as_it_is(columns, source, nodes)


@dataclass
class _Tracer:
    view: View
    boxes: int
    source: str | None = None
    nodes: dict[int, NodeProto] = field(default_factory=dict)
    _seen: dict[str, _Traced] = field(default_factory=dict)

    def trace(self, tensor: str) -> _Traced:
        """Raises Unknown."""
        if tensor not in self._seen:
            node = self.view.index.producer(tensor)
            kept = dict(self.nodes), self.source, dict(self._seen)
            try:
                made = self._through(node, tensor)
            except Unknown:
                self.nodes, self.source, self._seen = kept
                made = self._leaf(tensor)
            else:
                assert node is not None
                self.nodes[id(node)] = node
            self._seen[tensor] = made
        return self._seen[tensor]

    def _leaf(self, tensor: str) -> _Traced:
        shape = self.view.shape(tensor)
        if shape is None or len(shape) != 3 or list(shape[1:]) != [self.boxes, 4]:
            raise Unknown
        if self.source not in (None, tensor):
            raise Unknown
        self.source = tensor
        columns = tuple(Column(0.0, {index: 1.0}, {}) for index in range(4))
        return _Traced(Layout(("image", "box", "column")), columns)

    def _through(self, node: NodeProto | None, tensor: str) -> _Traced:
        if node is None or node.op_type == "Constant":
            raise Unknown
        if is_op(node, *_ELEMENTWISE):
            return self._arithmetic(node)
        if is_op(node, "Concat"):
            parts = [self.trace(name) for name in node.input]
            layout = concatenated([(part.layout, len(part.columns)) for part in parts], attribute(node, "axis"))
            return _Traced(layout, tuple(column for part in parts for column in part.columns))
        return self._view(node, tensor)

    def _arithmetic(self, node: NodeProto) -> _Traced:
        if len(node.input) == 1:
            one = self.trace(node.input[0])
            if node.op_type == "Identity":
                return one
            change = exponential if node.op_type == "Exp" else lambda column: scaled(column, -1.0)
            return _Traced(one.layout, tuple(change(column) for column in one.columns))
        left, right = node.input
        values = {side: self.view.value(name) for side, name in (("left", left), ("right", right))}
        if values["left"] is not None and values["right"] is not None:
            raise Unknown
        if values["left"] is None and values["right"] is None:
            return _sum(self.trace(left), self.trace(right), node.op_type)
        if (known := values["right"]) is not None:
            return _with_constant(self.trace(left), known, node.op_type)
        known = values["left"]
        assert known is not None
        traced = self.trace(right)
        if node.op_type == "Div":
            raise Unknown
        if node.op_type == "Sub":
            negative = _Traced(traced.layout, tuple(scaled(column, -1.0) for column in traced.columns))
            return _with_constant(negative, known, "Add")
        return _with_constant(traced, known, node.op_type)

    def _view(self, node: NodeProto, tensor: str) -> _Traced:
        if not is_op(node, "Slice", "Split", "Gather", "Squeeze", "Unsqueeze", "Transpose", "Reshape"):
            raise Unknown
        one = self.trace(node.input[0])
        layout, columns = one.layout, one.columns
        if node.op_type == "Transpose":
            return _Traced(turned(layout, attribute(node, "perm")), columns)
        if node.op_type == "Reshape":
            return _Traced(reshaped(layout, self.view.shape(node.input[0]), self.view.shape(tensor)), columns)
        if node.op_type == "Unsqueeze":
            return _Traced(widened(layout, self._integers(node, 1)), columns)
        if node.op_type == "Squeeze":
            return _Traced(without(layout, len(columns), self._integers(node, 1)), columns)
        axis, indices, dropped = picked(node, tensor, len(columns), self._integers, self.view)
        if layout.axes[axis % len(layout.axes)] != "column":
            raise Unknown
        kept = tuple(columns[index] for index in indices)
        return _Traced(without(layout, 1, [axis % len(layout.axes)]) if dropped else layout, kept)

    def _integers(self, node: NodeProto, slot: int) -> list[int] | None:
        """Values of a constant operand; None where it is left out. Raises Unknown for one that is computed."""
        if slot >= len(node.input) or not node.input[slot]:
            return None
        value = self.view.value(node.input[slot])
        if value is None:
            raise Unknown
        return [int(each) for each in value.reshape(-1)]


def _sum(left: _Traced, right: _Traced, operator: str) -> _Traced:
    if operator not in ("Add", "Sub"):
        raise Unknown
    sign = 1.0 if operator == "Add" else -1.0
    if left.layout != right.layout or len(left.columns) != len(right.columns):
        raise Unknown
    pairs = zip(left.columns, right.columns, strict=True)
    return _Traced(left.layout, tuple(add(one, scaled(other, sign)) for one, other in pairs))


def _with_constant(traced: _Traced, value: Array, operator: str) -> _Traced:
    """Each column with its part of a constant that broadcasts to the tensor, and does not make it larger."""
    axes, width = traced.layout.axes, len(traced.columns)
    if value.ndim > len(axes):
        raise Unknown
    whole = value.astype(np.float64).reshape((1,) * (len(axes) - value.ndim) + value.shape)
    for axis, size in zip(axes, whole.shape, strict=True):
        if size != 1 and (axis in ("image", "one") or (axis == "column" and size != width)):
            raise Unknown
    changed = []
    for index, column in enumerate(traced.columns):
        part = whole
        for position, axis in reversed(list(enumerate(axes))):
            if axis != "box":
                part = part.take(index if axis == "column" and part.shape[position] > 1 else 0, position)
        factor = part.reshape(-1) if part.size > 1 else float(part.reshape(-1)[0])
        if operator in ("Mul", "Div"):
            changed.append(scaled(column, factor if operator == "Mul" else 1.0 / factor))
        else:
            changed.append(add(column, constant(factor if operator == "Add" else -factor)))
    return _Traced(traced.layout, tuple(changed))


def _with_anchors(columns: Sequence[Column], count: int, source: str, nodes: tuple[NodeProto, ...]) -> Decoder | None:
    """centre + v * loc * size -+ size / 2 * exp(v' * loc'): the columns of a decoder by centre and size."""
    axes = [_axis(columns[place], columns[place + 2]) for place in range(2)]
    y, x = axes
    if y is None or x is None or sorted((*y.order, *x.order)) != [0, 1, 2, 3]:
        return None
    order = (y.order[0], x.order[0], y.order[1], x.order[1])
    variances = (y.variances[0], x.variances[0], y.variances[1], x.variances[1])
    parts = [np.broadcast_to(part, (count,)) for part in (y.centre, x.centre, y.size, x.size)]
    anchors = np.stack(parts, -1).astype(np.float32)[None]
    return Decoder(source, True, anchors, order, tuple(_rounded(each) for each in variances), nodes)


@dataclass(frozen=True)
class _Axis:
    """One axis of the anchors: the columns that move and grow it, with their variances; its centres and sizes [P]."""

    order: tuple[int, int]
    variances: tuple[float, float]
    centre: Array
    size: Array


def _axis(low: Column, high: Column) -> _Axis | None:
    """What two ends of boxes along an axis are decoded from."""
    if any(len(column.linear) != 1 or len(column.exponential) != 1 for column in (low, high)):
        return None
    ((moved, shift),) = low.linear.items()
    (((grown, rate), half),) = high.exponential.items()
    mirrored = low.exponential.get((grown, rate))
    if mirrored is None or not _same(mirrored, -np.asarray(half)) or high.linear.keys() != low.linear.keys():
        return None
    size = 2.0 * np.atleast_1d(np.asarray(half))
    if not _same(high.linear[moved], shift) or not _same(high.constant, low.constant) or not (size > 0).all():
        return None
    variance = shift / size
    if not _same(variance, variance.flat[0]):
        return None
    return _Axis((moved, grown), (float(np.mean(variance)), rate), np.atleast_1d(np.asarray(low.constant)), size)


def _as_it_is(columns: Sequence[Column], source: str, nodes: tuple[NodeProto, ...]) -> Decoder | None:
    """Corners of boxes that the network gives by centre and size: loc_i -+ loc_k / 2."""
    order = [0] * 4
    for axis in range(2):
        ends: tuple[tuple[Column, float], ...] = ((columns[axis], -0.5), (columns[axis + 2], 0.5))
        for column, half in ends:
            if column.exponential or np.any(column.constant) or len(column.linear) != 2:
                return None
            parts: Mapping[int, float | Array] = column.linear
            centre = [index for index, factor in parts.items() if _same(factor, 1.0)]
            size = [index for index, factor in parts.items() if _same(factor, half)]
            if len(centre) != 1 or len(size) != 1:
                return None
            if half > 0 and (order[axis], order[axis + 2]) != (centre[0], size[0]):
                return None
            order[axis], order[axis + 2] = centre[0], size[0]
    return Decoder(source, True, None, tuple(order), (1.0,) * 4, nodes) if sorted(order) == [0, 1, 2, 3] else None


def _same(one: float | Array, other: float | Array) -> bool:
    one, other = np.asarray(one), np.asarray(other)
    return bool(np.allclose(one, other, rtol=_NEAR, atol=1e-7))


def _rounded(value: float) -> float:
    """A variance as people write it: 0.1 where arithmetic left 0.10000000149."""
    short = float(f"{value:.6g}")
    return short if abs(short - value) <= 1e-6 * abs(value) else value
