"""Which axes of a tensor are images, boxes and columns, through operators that move nothing else."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from onnx import NodeProto

from trtforge.plugins.nms.columns import Unknown
from trtforge.surgery.rules import View, attribute

Axis = Literal["image", "box", "column", "one"]
Shape = tuple[int | str | None, ...] | None
Integers = Callable[[NodeProto, int], "list[int] | None"]
"""Values of a node's constant operand."""


@dataclass(frozen=True)
class Layout:
    """``axes``: what each axis is; "one" has a size of 1. Without a "column" the tensor has a single one."""

    axes: tuple[Axis, ...]


def turned(layout: Layout, order: Sequence[int] | None) -> Layout:
    places = order if order is not None else range(len(layout.axes))[::-1]
    return Layout(tuple(layout.axes[place] for place in places))


def widened(layout: Layout, axes: Sequence[int] | None) -> Layout:
    if axes is None:
        raise Unknown
    rank = len(layout.axes) + len(axes)
    new = {axis % rank for axis in axes}
    rest = iter(layout.axes)
    return Layout(tuple("one" if place in new else next(rest) for place in range(rank)))


def without(layout: Layout, width: int, axes: Sequence[int] | None) -> Layout:
    """Less some axes of size 1; a single column may go. Raises Unknown where it is not said which."""
    if axes is None:
        raise Unknown
    gone = {axis % len(layout.axes) for axis in axes}
    for place in gone:
        if layout.axes[place] not in ("one", "column") or (layout.axes[place] == "column" and width != 1):
            raise Unknown
    return Layout(tuple(axis for place, axis in enumerate(layout.axes) if place not in gone))


def reshaped(layout: Layout, before: Shape, after: Shape) -> Layout:
    """A Reshape that only adds or takes away axes of size 1. Raises Unknown for any other."""
    if before is None or after is None or None in before or None in after:
        raise Unknown
    kept = [axis for axis, size in zip(layout.axes, before, strict=True) if size != 1]
    if [size for size in before if size != 1] != [size for size in after if size != 1]:
        raise Unknown
    lost = [axis for axis, size in zip(layout.axes, before, strict=True) if size == 1 and axis != "one"]
    rest = iter(kept)
    made: list[Axis] = ["one" if size == 1 else next(rest) for size in after]
    for axis in lost:  # one image, or a single column, that keeps its name where there is a place for it
        if axis == "image" and made and made[0] == "one":
            made[0] = "image"
    return Layout(tuple(made))


def concatenated(parts: Sequence[tuple[Layout, int]], axis: int) -> Layout:
    """Columns side by side: along their axis, or along one of size 1 where each part is a single column."""
    layout = parts[0][0]
    place = axis % len(layout.axes)
    if any(part != layout for part, _ in parts):
        raise Unknown
    if layout.axes[place] == "column":
        return layout
    if layout.axes[place] != "one" or "column" in layout.axes or any(width != 1 for _, width in parts):
        raise Unknown
    return Layout(tuple("column" if each == place else kind for each, kind in enumerate(layout.axes)))


def picked(node: NodeProto, tensor: str, width: int, integers: Integers, view: View) -> tuple[int, list[int], bool]:
    """Slice, Split or Gather along one axis: which axis, which of ``width`` columns, and whether the axis goes."""
    columns = list(range(width))
    if node.op_type == "Gather":
        indices, rank = integers(node, 1), view.constant_shape(node.input[1])
        if indices is None or rank is None or len(rank) > 1 or not all(-width <= each < width for each in indices):
            raise Unknown
        return attribute(node, "axis", 0), [columns[each] for each in indices], not rank
    if node.op_type == "Split":
        sizes, place = integers(node, 1), list(node.output).index(tensor)
        if sizes is None:
            sizes = [width // len(node.output)] * len(node.output)
        start = sum(sizes[:place])
        return attribute(node, "axis", 0), columns[start : start + sizes[place]], False
    starts, ends, axes, steps = (integers(node, slot) for slot in (1, 2, 3, 4))
    if starts is None or ends is None or axes is None or len(starts) != 1:
        raise Unknown
    return axes[0], columns[starts[0] : ends[0] : steps[0] if steps else 1], False
