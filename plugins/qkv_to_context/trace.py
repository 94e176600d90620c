"""From the operands of an attention back to the tensor its three projections read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from onnx import NodeProto

from trtforge.plugins.qkv_to_context import layout as views
from trtforge.plugins.qkv_to_context.layout import Axis, Layout
from trtforge.plugins.qkv_to_context.sizes import Shape, Size, Values, axes_of, is_view
from trtforge.surgery.rules import Near, View, attribute, is_op, label

HIDDEN = "hidden"
"""Source of the input's last axis, which the projections reduce."""
COLUMN = "column"
"""Source of a projection's last axis: the columns of its weight."""


@dataclass(frozen=True)
class Projection:
    """x @ weight + bias. ``transposed``: the weight is stored [out, in], as Gemm with transB reads it.

    ``output``: the tensor with the bias added; ``bias`` "" where there is none.
    """

    weight: str
    transposed: bool
    width: int
    output: str
    bias: str = ""


@dataclass(frozen=True)
class Traced:
    """A tensor as a rearrangement of x, or of a projection of x times ``scale``; ``offset``: its first column."""

    layout: Layout
    projection: Projection | None = None
    scale: float = 1.0
    offset: int = 0


class Tracer:
    """Everything between x and the operands of one attention. ``nodes``: those the tracing went through."""

    def __init__(self, view: View, x: str, shape: Shape, hidden: int) -> None:
        self.values = Values(view, self._shape_of)
        self.nodes: dict[int, NodeProto] = {}
        self._view = view
        rows = [views.whole(f"x{axis}", size) for axis, size in enumerate(shape[:-1])]
        self._traced = {x: Traced((*rows, views.whole(HIDDEN, Size(hidden))))}
        self._hidden = hidden

    def trace(self, tensor: str, who: str) -> Traced:
        """Raises Near: ``who``, "Q" for one, does something on the way that a projection and a view do not."""
        if tensor not in self._traced:
            node = self._view.index.producer(tensor)
            if node is None:
                raise Near(f"{who} is made from {tensor!r}, which does not come from the same tensor")
            self._traced[tensor] = self._node(node, tensor, who)
            self.nodes[id(node)] = node
        return self._traced[tensor]

    def view_of(self, node: NodeProto, source: Layout, who: str) -> Layout:
        """The layout behind a node that only rearranges. Raises Near when it cannot be told."""
        made: Layout | None = None
        if is_op(node, "Identity"):
            made = source
        elif is_op(node, "Transpose"):
            made = views.transpose(source, attribute(node, "perm"))
        elif is_op(node, "Reshape"):
            target = self.values.sizes(node.input[1])
            if target is None:
                raise Near(f"{who} is reshaped by {label(node)!r} to a shape that is not known")
            made = views.reshape(source, target, copy_zeros=not attribute(node, "allowzero", 0))
            if made is None:
                sizes = ", ".join(map(str, target))
                raise Near(f"{who}'s Reshape {label(node)!r} to [{sizes}] does not split the hidden size into heads")
        elif is_op(node, "Flatten"):
            axis = attribute(node, "axis", 1) % (len(source) + 1)
            made = (_joined(source[:axis]), _joined(source[axis:]))
        elif is_op(node, "Unsqueeze"):
            axes = axes_of(node, self.values)
            made = None if axes is None else views.unsqueeze(source, axes)
        elif is_op(node, "Squeeze"):
            made = views.squeeze(source, axes_of(node, self.values))
        if made is None:
            raise Near(f"{who} passes through {node.op_type} {label(node)!r}, whose axes are not known")
        return made

    def note(self, tensor: str, layout: Layout) -> None:
        """A tensor behind the projections, of which shapes are computed."""
        self._traced[tensor] = Traced(layout)

    def _shape_of(self, tensor: str) -> Shape | None:
        traced = self._traced.get(tensor)
        return None if traced is None else views.shape_of(traced.layout)

    def _node(self, node: NodeProto, tensor: str, who: str) -> Traced:
        if is_view(node):
            source = self.trace(node.input[0], who)
            return replace(source, layout=self.view_of(node, source.layout, who))
        if is_op(node, "MatMul", "Gemm"):
            return self._project(node, who)
        if is_op(node, "Add"):
            return self._add_bias(node, who)
        if is_op(node, "Mul", "Div"):
            return self._scale(node, who)
        if is_op(node, "Slice", "Split", "Gather"):
            return self._part(node, tensor, who)
        if is_op(node, "Concat"):
            raise Near(f"{who} passes through Concat {label(node)!r}: keys of earlier tokens are not part of it")
        raise Near(f"{who} passes through {node.op_type} {label(node)!r}, which is no projection and no view")

    def _project(self, node: NodeProto, who: str) -> Traced:
        weight, gemm = node.input[1], is_op(node, "Gemm")
        transposed = gemm and bool(attribute(node, "transB", 0))
        source = self.trace(node.input[0], who)
        dims = _weight_shape(self._view, weight)
        if source.projection is not None:
            raise Near(f"{who} is projected twice, by {source.projection.weight!r} and by {weight!r}")
        if dims is None:
            raise Near(f"{who}'s projection {label(node)!r} multiplies two computed tensors")
        if gemm and (attribute(node, "transA", 0) or attribute(node, "alpha", 1.0) != 1.0):
            raise Near(f"{who}'s projection {label(node)!r} transposes or scales its input")
        inner, width = dims[::-1] if transposed else dims
        if inner != self._hidden or source.layout[-1] != views.whole(HIDDEN, Size(self._hidden)):
            raise Near(f"{who}'s projection {label(node)!r} does not read the whole hidden axis")
        made = Projection(weight, transposed, width, node.output[0])
        if gemm and len(node.input) > 2 and node.input[2]:
            if attribute(node, "beta", 1.0) != 1.0:
                raise Near(f"{who}'s projection {label(node)!r} scales its bias")
            made = replace(made, bias=self._bias(node, node.input[2], width, who))
        return Traced((*source.layout[:-1], views.whole(COLUMN, Size(width))), made)

    def _add_bias(self, node: NodeProto, who: str) -> Traced:
        bias = next((name for name in node.input if constant_shape(self._view, name) is not None), None)
        if bias is None or len(node.input) != 2:
            raise Near(f"{who} passes through Add {label(node)!r} of two computed tensors")
        source = self.trace(node.input[1 if node.input[0] == bias else 0], who)
        made = source.projection
        if made is None:
            raise Near(f"{who}: something is added to the input by {label(node)!r} before the projection")
        if made.bias or source.scale != 1.0 or source.layout[-1] != views.whole(COLUMN, Size(made.width)):
            raise Near(f"{who}: {label(node)!r} adds a constant to something other than the whole projection")
        made = replace(made, bias=self._bias(node, bias, made.width, who), output=node.output[0])
        return replace(source, projection=made)

    def _bias(self, node: NodeProto, bias: str, width: int, who: str) -> str:
        dims = constant_shape(self._view, bias)
        if dims is None or not dims or dims[-1] != width or math.prod(dims) != width:
            raise Near(f"{who}'s bias {bias!r} at {label(node)!r} is not one constant number a column")
        return bias

    def _scale(self, node: NodeProto, who: str) -> Traced:
        factor = scalar_operand(node, self.values)
        if factor is None:
            raise Near(f"{who} passes through {node.op_type} {label(node)!r}, which is not by a constant number")
        position, number = factor
        source = self.trace(node.input[1 - position], who)
        if source.projection is None:
            raise Near(f"{who}: the input is scaled by {label(node)!r} before the projection")
        return replace(source, scale=source.scale * number)

    def _part(self, node: NodeProto, tensor: str, who: str) -> Traced:
        source = self.trace(node.input[0], who)
        axis, start, size = self._bounds(node, tensor, source.layout, who)
        made = views.cut(source.layout, axis, start, size)
        if made is None or made[1].source != COLUMN or made[1].stride.known is None:
            raise Near(f"{who} passes through {node.op_type} {label(node)!r}, which takes part of the tokens")
        layout, atom = made
        if is_op(node, "Gather"):
            layout = (*layout[:axis], *layout[axis + 1 :])
        return replace(source, layout=layout, offset=source.offset + start * atom.stride.factor)

    def _bounds(self, node: NodeProto, tensor: str, layout: Layout, who: str) -> tuple[int, int, int]:
        """Axis, first element and length of what a Slice, Split or Gather takes."""
        if is_op(node, "Slice"):
            found = self._slice(node, layout)
        elif is_op(node, "Gather"):
            axis = attribute(node, "axis", 0) % len(layout)
            value = self.values.value(node.input[1])
            index = self.values.integers(node.input[1])
            size = views.axis_size(layout[axis]).known
            found = None
            if value is not None and value.scalar and index and size is not None:
                found = axis, index[0] % size, 1
        else:
            found = self._split(node, tensor, layout)
        if found is None:
            raise Near(f"{who} passes through {node.op_type} {label(node)!r}, whose bounds are not known")
        return found

    def _slice(self, node: NodeProto, layout: Layout) -> tuple[int, int, int] | None:
        bounds = [self.values.integers(name) if name else None for name in node.input[1:]]
        starts, ends = bounds[0], bounds[1]
        axes = bounds[2] if len(bounds) > 2 else [0]
        if starts is None or ends is None or axes is None or not len(starts) == len(ends) == len(axes) == 1:
            return None
        if len(bounds) > 3 and bounds[3] != [1]:
            return None
        axis = axes[0] % len(layout)
        size = views.axis_size(layout[axis]).known
        if size is None:
            return None
        start, stop, _ = slice(starts[0], ends[0]).indices(size)
        return axis, start, stop - start

    def _split(self, node: NodeProto, tensor: str, layout: Layout) -> tuple[int, int, int] | None:
        axis = attribute(node, "axis", 0) % len(layout)
        size, part = views.axis_size(layout[axis]).known, list(node.output).index(tensor)
        if len(node.input) > 1 and node.input[1]:
            lengths = self.values.integers(node.input[1])
        else:
            lengths = attribute(node, "split")
            if lengths is None and size is not None:
                chunk = -(-size // len(node.output))
                lengths = [min(chunk, size - chunk * place) for place in range(len(node.output))]
        return None if lengths is None else (axis, sum(lengths[:part]), lengths[part])


def scalar_operand(node: NodeProto, values: Values) -> tuple[int, float] | None:
    """Which operand of a Mul or Div is a constant number, and the factor that the other one is multiplied by."""
    for position, name in enumerate(node.input):
        number = values.number(name)
        if number is not None and (is_op(node, "Mul") or (position == 1 and number)):
            return position, number if is_op(node, "Mul") else 1.0 / number
    return None


def _joined(axes: Layout) -> Axis:
    return views.merged([atom for axis in axes for atom in axis])


def weight_shape(view: View, weight: str) -> tuple[int, int]:
    """Shape of a weight that a match has, as it is stored."""
    dims = _weight_shape(view, weight)
    assert dims is not None
    return dims


def _weight_shape(view: View, weight: str) -> tuple[int, int] | None:
    dims = constant_shape(view, weight)
    return (dims[0], dims[1]) if dims is not None and len(dims) == 2 else None


def constant_shape(view: View, tensor: str) -> tuple[int, ...] | None:
    """Shape of a constant, or of the Transpose or Identity of one, which exporters leave; else None."""
    dims = view.constant_shape(tensor)
    node = view.index.producer(tensor)
    if dims is not None or node is None or not is_op(node, "Transpose", "Identity"):
        return dims
    inner = constant_shape(view, node.input[0])
    if inner is None or is_op(node, "Identity"):
        return inner
    return tuple(inner[axis] for axis in attribute(node, "perm", range(len(inner))[::-1]))


def projection_inputs(view: View, tensor: str) -> tuple[list[str], int]:
    """The tensor that the projection behind ``tensor`` reads and those it is a mere view of, nearest first; its width.

    Empty when no projection is there. Walks along first operands, and past biases and scales.
    """
    for node in _up(view, tensor):
        if is_op(node, "MatMul", "Gemm") and (dims := _weight_shape(view, node.input[1])) is not None:
            found = [node.input[0]]
            while (made := view.index.producer(found[-1])) is not None and is_view(made):
                found.append(made.input[0])
            return found, dims[1 if attribute(node, "transB", 0) else 0]
    return [], 0


def _up(view: View, tensor: str) -> Iterator[NodeProto]:
    node = view.index.producer(tensor)
    while node is not None:
        yield node
        data = [name for name in node.input if name and constant_shape(view, name) is None]
        if is_op(node, "Mul", "Div") and len(data) == 2 and _is_small(view, data[0]):
            data.reverse()
        node = view.index.producer(data[0]) if data else None


def _is_small(view: View, tensor: str) -> bool:
    """Whether a tensor has one element: a scale that is computed."""
    shape = view.shape(tensor)
    return shape is not None and all(size == 1 for size in shape)
