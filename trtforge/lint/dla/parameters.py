"""Parameters of a layer against what the DLA takes: windows, axes, bounds, constants. One checker for each operator.

Figures that were recalled and not read again are marked so; those where NVIDIA's documentation and header disagree
are not certain, so that they are said and decide nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import prod
from typing import TYPE_CHECKING

from trtforge.lint.dla.advice import for_view
from trtforge.lint.dla.obstacle import Obstacle
from trtforge.lint.dla.windows import buffer_banks, of_window
from trtforge.lint.nodes import attribute, integer, ints
from trtforge.targets.dla_layers import DlaLayer

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

JOINS = ("Slice", "Split", "Concat")
LRN_WINDOWS = (3, 5, 7, 9)
CLIP_BOUNDS = (1, 127)
OPTIMIZED_SOFTMAX = 1024
ACCURATE_SOFTMAX = 8192
LARGEST_SCALE = {"nearest": 32, "linear": 4}


def of_parameters(context: Context, node: NodeProto, row: DlaLayer) -> Iterator[Obstacle]:
    """Obstacles in the parameters of a node whose operator the DLA runs."""
    if row.ranges:
        yield from of_window(context, node, row)
    if node.op_type == "Conv":
        yield from _buffer(context, node)
    checker = _CHECKERS.get(node.op_type)
    if checker is not None:
        yield from checker(context, node)
    if "disagree" in row.limits:
        yield Obstacle("parameter", f"NVIDIA's documentation and header disagree about {node.op_type}", certain=False)


def _buffer(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """The convolution buffer; NVIDIA published the arithmetic for Xavier, Orin's compiler has its own."""
    banks = buffer_banks(context, node)
    if banks is None or sum(banks) <= 16:
        return
    why = f"weights and data of one step need {banks[0]} + {banks[1]} banks of the convolution buffer, which has 16"
    fix = "fewer channels a group, or a smaller kernel, dilation or width"
    certain = context.dla_generation == 1
    yield Obstacle("parameter", why, versions="8.2, for Xavier's DLA", fix=fix, certain=certain)


def _product(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    left, right = (name in context.constants for name in node.input[:2])
    if left and not right:
        why = "its weights are the left factor, the DLA's layer has them on the right"
        yield Obstacle("parameter", why, fix="a 1x1 Conv with these weights, or factors swapped and transposed")
    elif not right:
        why = "it multiplies two activations; the DLA needs constant weights"
        yield Obstacle("parameter", why, fix="leave it to the GPU")
    elif integer(node, "transA", 0):
        why = "it transposes its input (transA), the DLA's layer takes it as it is"
        yield Obstacle("parameter", why, fix="export the factors swapped and transposed, with transA 0")


def _concat(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    rank, axis = context.rank(node.output[0]), integer(node, "axis", 1)
    if rank is not None and (rank != 4 or axis % rank != 1):
        why = f"it joins along axis {axis} of {rank}, the DLA only along the channels of four"
        fix = (
            "export it along the channels"
            if rank == 4
            else "join 4-D tensors along the channels, before they are reshaped"
        )
        yield Obstacle("parameter", why, fix=f"{fix}; or leave it to the GPU")


def _clip(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    low, high = clip_bounds(context, node)
    if low != 0 or high is None or not CLIP_BOUNDS[0] <= high <= CLIP_BOUNDS[1]:
        why = f"{_clipped(low, high)}, the DLA clips from 0 to a bound of {CLIP_BOUNDS[0]} to {CLIP_BOUNDS[1]}"
        yield Obstacle(
            "parameter", why, fix="export Relu, or Clip from 0 to a bound in that range, where that is meant"
        )


def _clipped(low: float | None, high: float | None) -> str:
    if low is None and high is None:
        return "it has no bound that is known"
    if low is None or high is None:
        return f"it has no {'lower' if low is None else 'upper'} bound that is known"
    return f"it clips from {low:g} to {high:g}"


def clip_bounds(context: Context, node: NodeProto) -> tuple[float | None, float | None]:
    """The constant bounds of a Clip; None for one that is open or not known."""
    return _bound(context, node, 1, "min"), _bound(context, node, 2, "max")


def _bound(context: Context, node: NodeProto, position: int, name: str) -> float | None:
    stated = attribute(node, name)  # before opset 11
    if stated is not None:
        return float(stated.f)
    values = context.values(node.input[position]) if len(node.input) > position and node.input[position] else None
    return None if values is None or values.size != 1 else float(values.item())


def _lrn(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    size = integer(node, "size", 0)
    if size not in LRN_WINDOWS:
        yield Obstacle("parameter", f"its window is {size}, the DLA's are {', '.join(map(str, LRN_WINDOWS))}")


def _softmax(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    shape = context.shape(node.input[0])
    if shape is None:
        return
    rank, axis = len(shape), integer(node, "axis", -1 if context.opset >= 13 else 1)
    if rank != 4 or axis % rank == 0:
        why = f"it normalizes axis {axis} of {rank}, the DLA C, H or W of a 4-D tensor"
        yield Obstacle("parameter", why, fix="leave the scores at the end of a network to the GPU")
        return
    behind = prod(shape[axis % rank + 1 :])
    if context.opset < 13 and behind > 1:
        count = shape[axis % rank] * behind
        why = f"before opset 13 it normalizes all {count} values from axis {axis} on, the DLA those of one axis"
        yield Obstacle("parameter", why, fix="export it with opset 13 or later, where one axis is meant")
        return
    length = shape[axis % rank]
    others = max(size for position, size in enumerate(shape[1:], 1) if position != axis % rank)
    if length > (ACCURATE_SOFTMAX if others == 1 else OPTIMIZED_SOFTMAX):
        why = f"it normalizes {length} values, the DLA {OPTIMIZED_SOFTMAX}, or {ACCURATE_SOFTMAX} where all else is 1"
        yield Obstacle("parameter", why)


def _pieces(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """Slice and Split."""
    rank = context.rank(node.input[0])
    if rank is not None and rank != 4:
        yield Obstacle("parameter", f"it slices {rank} dimensions, the DLA four", "observed")
        return
    if node.op_type == "Split":
        axes: tuple[int, ...] | None = (integer(node, "axis", 0),)
    else:
        axes = _integers(context, node, 3, "axes") or (tuple(range(4)) if len(node.input) < 4 else None)
        if any(name and name not in context.constants for name in node.input[1:]):
            yield Obstacle("parameter", "where it begins or ends is not constant")
        steps = _integers(context, node, 4, "steps") if context.opset >= 10 else None
        if steps is not None and set(steps) != {1}:
            yield Obstacle("parameter", f"its steps are {list(steps)}, the DLA's 1")
    if axes is not None and any(axis % 4 == 0 for axis in axes) and not _whole_batch(context, node):
        yield Obstacle("parameter", "it cuts the batch, the DLA only C, H and W")


def _whole_batch(context: Context, node: NodeProto) -> bool:
    """A Slice may name the batch and keep all of it."""
    before, after = context.shape(node.input[0]), context.shape(node.output[0])
    return node.op_type == "Slice" and before is not None and after is not None and before[0] == after[0]


def _view(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    before, after = context.shape(node.input[0]), context.shape(node.output[0])
    ranks = (context.rank(node.input[0]), context.rank(node.output[0]))
    if any(rank is not None and rank != 4 for rank in ranks):
        why = f"it makes {ranks[1]} dimensions of {ranks[0]}, the DLA keeps four"
        yield Obstacle("parameter", why, "observed", fix=for_view(context, node))
        return
    if _moves_batch(node, before, after):
        yield Obstacle("parameter", "it moves the batch", "recalled")
    beside = [context.index.producer(node.input[0]), *context.index.consumers_of(node.output[0])]
    if any(other is not None and other.op_type in JOINS for other in beside):
        fix = "move the view to the other side of the Conv, or to the end of the network"
        if any(context.rank(other.output[0]) not in (4, None) for other in context.index.consumers_of(node.output[0])):
            fix = "leave it to the GPU: what reads it has not four dimensions, and goes there anyway"
        yield Obstacle("parameter", "it lies right beside a Slice, Split or Concat", "observed", "10.3", fix)


def _moves_batch(node: NodeProto, before: tuple[int, ...] | None, after: tuple[int, ...] | None) -> bool:
    if node.op_type == "Transpose":
        return (ints(node, "perm") or (3, 2, 1, 0))[0] != 0
    return before is not None and after is not None and before[0] != after[0]


def _resize(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    mode = _text(node, "mode", "nearest")
    if mode not in LARGEST_SCALE:
        yield Obstacle("parameter", f"its mode is {mode}, the DLA's are nearest and linear")
        return
    if len(node.input) > 3 and node.input[3]:
        yield Obstacle("parameter", "it is given sizes, the DLA takes scales", fix="export Resize with scales")
        return
    values = _scales(context, node)
    if values is None:
        yield Obstacle("parameter", "its scales are not constant")
        return
    most = LARGEST_SCALE[mode]
    whole = len(values) == 4 and values[:2] == [1, 1] and all(s == int(s) and 1 <= s <= most for s in values[2:])
    if not whole:
        shown = ", ".join(f"{value:g}" for value in values)
        yield Obstacle("parameter", f"its scales are {shown}, the DLA's 1, 1 and two whole numbers up to {most}")
    yield from _sampling(context, node, mode)


def _sampling(context: Context, node: NodeProto, mode: str) -> Iterator[Obstacle]:
    """Which pixel a pixel comes from; only some pairs exist on the DLA. Before opset 11 there was one only."""
    early = node.op_type == "Upsample" or context.opset < 11
    centre = "asymmetric" if early else _text(node, "coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if early else _text(node, "nearest_mode", "round_prefer_floor")
    known = {("asymmetric", "floor"), ("half_pixel", "round_prefer_floor"), ("half_pixel", "round_prefer_ceil")}
    if mode == "nearest" and (centre, rounding) not in known:
        why = f"it samples {centre}, {rounding}; the DLA asymmetric, floor or half_pixel, round_prefer_floor or _ceil"
        yield Obstacle("parameter", why, fix="export with asymmetric and floor; the same for whole scales")
    elif mode == "linear" and centre not in ("half_pixel", "pytorch_half_pixel"):  # FORMULA, UPPER for single pixels
        fix = f"export with {'opset 11 or later and ' if early else ''}half_pixel"
        yield Obstacle("parameter", f"it samples {centre}, the DLA half_pixel", fix=fix)


def _scales(context: Context, node: NodeProto) -> list[float] | None:
    stated = attribute(node, "scales")  # Upsample before opset 9
    if stated is not None:
        return list(stated.floats)
    position = 2 if node.op_type == "Resize" and context.opset >= 11 else 1
    values = context.values(node.input[position]) if len(node.input) > position and node.input[position] else None
    if values is None:
        return None
    scales = [float(value) for value in values.reshape(-1)]
    axes, rank = ints(node, "axes"), context.rank(node.input[0]) or 4
    if not axes:
        return scales
    named = dict(zip((axis % rank for axis in axes), scales, strict=False))
    return [named.get(axis, 1.0) for axis in range(rank)]


def _reduce(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    rank, axes = context.rank(node.input[0]), _integers(context, node, 1, "axes")
    if rank is not None and (rank != 4 or axes is None or any(axis % rank == 0 for axis in axes)):
        shown = "all axes" if axes is None else f"axes {', '.join(map(str, axes))}"
        yield Obstacle("parameter", f"it reduces {shown} of {rank}, the DLA C, H and W of four", "recalled")
    elif not integer(node, "keepdims", 1):
        why = "it drops the axes that it reduces, the DLA keeps four dimensions"
        yield Obstacle("parameter", why, "recalled", fix="keepdims=1, and a view behind it where that is needed")


def _comparison(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    users = context.index.consumers_of(node.output[0])
    if len(users) != 1 or users[0].op_type != "Cast" or node.output[0] in context.index.outputs:
        yield Obstacle("parameter", "its result is not cast at once, which the DLA needs", fix="one Cast behind it")


def _normalization(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    names = ("scale", "bias", "mean", "variance")
    open_ = [what for what, name in zip(names, node.input[1:5], strict=False) if name not in context.constants]
    if open_:
        why = f"its {', '.join(open_)} {'is' if len(open_) == 1 else 'are'} not constant; the DLA's Scale needs them so"
        yield Obstacle("parameter", why, fix="export the network for inference, its statistics as weights")


def _slope(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    if node.input[1] not in context.constants:
        yield Obstacle("parameter", "its slope is not constant")


def _uniform(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """Div and Pow by one constant."""
    values = context.values(node.input[1]) if node.input[1] in context.constants else None
    if node.input[1] in context.constants and values is not None and values.size > 1 and len(set(values.flat)) > 1:
        yield Obstacle("parameter", "it divides or raises by different constants, the DLA by one", "recalled")
    yield from _broadcast(context, node)


def _broadcast(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    """Equal shapes, or one value for each channel or image; constants may be the same for all images."""
    whole = context.shape(node.output[0])
    if whole is None or len(whole) != 4:
        return
    for name in node.input:
        shape = context.shape(name) if name else None
        if shape is None:
            continue
        constant = name in context.constants
        full = (1,) * (4 - len(shape)) + shape
        batch = whole[0] if constant and full[0] == 1 else full[0]
        if (batch, *full[1:]) not in (whole, (*whole[:2], 1, 1), (whole[0], 1, 1, 1)):
            why = f"it spreads `{name}` of {list(shape)} over {list(whole)}, the DLA one value an image or channel"
            fix = "write the constant out to the size of the map" if constant else ""
            yield Obstacle("parameter", why, "recalled", fix=fix)


def _average(context: Context, node: NodeProto) -> Iterator[Obstacle]:
    padded = max(ints(node, "pads"), default=0) > 0
    if context.dla_generation == 1 and padded and not integer(node, "count_include_pad", 0):
        why = "its average leaves the padding out, which Xavier's DLA cannot"
        yield Obstacle("parameter", why, fix="count_include_pad=1, which changes values at the border")


def _integers(context: Context, node: NodeProto, position: int, name: str) -> tuple[int, ...] | None:
    """A list that newer operator sets take as an input; None when absent or not constant."""
    stated = ints(node, name)
    if stated:
        return stated
    values = context.values(node.input[position]) if len(node.input) > position and node.input[position] else None
    return None if values is None else tuple(int(value) for value in values.reshape(-1))


def _text(node: NodeProto, name: str, default: str) -> str:
    stated = attribute(node, name)
    return default if stated is None else stated.s.decode()


_CHECKERS: Mapping[str, Callable[[Context, NodeProto], Iterator[Obstacle]]] = {
    "MatMul": _product,
    "Gemm": _product,
    "Concat": _concat,
    "Clip": _clip,
    "LRN": _lrn,
    "Softmax": _softmax,
    "Slice": _pieces,
    "Split": _pieces,
    "Reshape": _view,
    "Transpose": _view,
    "Resize": _resize,
    "Upsample": _resize,
    "ReduceMax": _reduce,
    "Equal": _comparison,
    "Greater": _comparison,
    "Less": _comparison,
    "PRelu": _slope,
    "BatchNormalization": _normalization,
    "Div": _uniform,
    "Pow": _uniform,
    "Add": _broadcast,
    "Sub": _broadcast,
    "Mul": _broadcast,
    "Max": _broadcast,
    "Min": _broadcast,
    "Sum": _broadcast,
    "AveragePool": _average,
}
