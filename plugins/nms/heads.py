"""The convolutions behind boxes and scores: what a plugin that reads raw heads wants."""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from trtforge.surgery.rules import View, attribute, is_op

_NHWC = [0, 2, 3, 1]


@dataclass(frozen=True)
class Head:
    """One scale: boxes [N, 4A, H, W] and scores [N, CA, H, W], and A. ``merged``: both in one tensor, where one is."""

    boxes: str
    scores: str
    shapes: int
    size: int
    merged: str = ""


@dataclass(frozen=True)
class Heads:
    """``classes``: C, background included. ``background``: class 0 was cut off behind the heads."""

    scales: tuple[Head, ...]
    classes: int
    background: bool


def heads_of(boxes: str, scores: str, view: View) -> Heads | None:
    """The heads of boxes [N, P, 4] and scores [N, P, C]; None where they are made in another way.

    Known is: the tensors of the scales side by side, each [N, values * A, H, W] turned to [N, H, W, values * A] and
    reshaped to [N, H * W * A, values]; and a Slice that cuts class 0 off.
    """
    cut = view.index.producer(scores)
    background = cut is not None and is_op(cut, "Slice")
    if cut is not None and background:
        given = [None if value is None else value.reshape(-1).tolist() for value in map(view.value, cut.input[1:4])]
        width = (view.shape(cut.input[0]) or (None,))[-1]
        if len(given) < 3 or given[0] != [1] or given[2] not in ([2], [-1]) or not isinstance(width, int):
            return None
        if given[1] is None or given[1][0] < width:
            return None
        scores = cut.input[0]
    shape = view.shape(scores)
    if shape is None or not isinstance(shape[-1], int):
        return None
    pairs = (_scales(boxes, 4, view), _scales(scores, shape[-1], view))
    if not pairs[0] or [each[1:] for each in pairs[0]] != [each[1:] for each in pairs[1]]:
        return None
    scales = [
        Head(box, score, shapes, size, _merged(box, score, view))
        for (box, shapes, size), (score, _, _) in zip(*pairs, strict=True)
    ]
    return Heads(tuple(scales), shape[-1], background)


def _scales(tensor: str, values: int, view: View) -> list[tuple[str, int, int]]:
    """(tensor [N, values * A, H, H], A, H) of each scale; empty where one is made in another way."""
    join = view.index.producer(tensor)
    if join is None or not is_op(join, "Concat") or attribute(join, "axis") not in (1, -2):
        return []
    made = []
    for rows in join.input:
        reshape = view.index.producer(rows)
        turn = None if reshape is None or not is_op(reshape, "Reshape") else view.index.producer(reshape.input[0])
        if turn is None or not is_op(turn, "Transpose") or attribute(turn, "perm") != _NHWC:
            return []
        shape, after = view.shape(turn.input[0]), view.shape(rows)
        if shape is None or after is None or len(shape) != 4:
            return []
        channels, height, width = shape[1:]
        if not isinstance(channels, int) or not isinstance(height, int) or height != width or channels % values:
            return []
        if list(after[1:]) != [height * height * (channels // values), values]:
            return []
        made.append((turn.input[0], channels // values, height))
    return made


def _merged(boxes: str, scores: str, view: View) -> str:
    """The tensor that is split into boxes and scores, in this order; "" where there is none."""
    split: NodeProto | None = view.index.producer(boxes)
    if split is None or not is_op(split, "Split") or list(split.output) != [boxes, scores]:
        return ""
    return str(split.input[0]) if attribute(split, "axis", 0) == 1 else ""
