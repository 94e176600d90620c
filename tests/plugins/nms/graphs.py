"""Detection heads written as text, and the plugin's meaning by loops."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.plugins import rewriting as tools
from trtforge.graph.model import Model
from trtforge.plugins.nms.function import Variant

Array = np.ndarray[Any, Any]

IMAGES, BOXES, CLASSES, KEEP = 2, 12, 3, 5

CONSTANTS: dict[str, Array] = {
    "keep": np.array([KEEP]),
    "overlap": np.float32(0.4),
    "least": np.float32(0.3),
    "by_image": np.array([0, -1]),
    "padding": np.array([0, 0, 0, KEEP]),
    "out": np.float32(-1),
    "below": np.float32(-0.5),
    "none": np.float32(0),
    "zero": np.array(0),
    "one_axis": np.array([1]),
    "two_axis": np.array([2]),
    "count": np.array(BOXES),
}
FRONT = """
  p = Sigmoid(raw)
  t = Transpose<perm = [0, 2, 1]>(p)
"""
TAIL = """
  found = NonMaxSuppression(boxes, t, keep, overlap, least)
  got = GatherND(t, found)
  shape = Shape(t)
  nothing = ConstantOfShape<value = float[1] {-1}>(shape)
  left = ScatterND(nothing, found, got)
  flat = Reshape(left, by_image)
  more = Pad(flat, padding, out)
  best, places = TopK<axis = 1>(more, keep)
  valid = Greater(best, below)
  valid_number = Cast<to = 6>(valid)
  num = ReduceSum<keepdims = 1>(valid_number, one_axis)
  out_scores = Where(valid, best, none)
  kind = Div(places, count)
  valid_kind = Where(valid, kind, zero)
  out_classes = Cast<to = 6>(valid_kind)
  row = Mod(places, count)
  rows = Unsqueeze(row, two_axis)
  picked = GatherND<batch_dims = 1>(boxes, rows)
  valid_row = Unsqueeze(valid, two_axis)
  out_boxes = Where(valid_row, picked, none)
"""
OUTPUTS = {
    "num": f"int32[{IMAGES}, 1] num",
    "out_boxes": f"float[{IMAGES}, {KEEP}, 4] out_boxes",
    "out_scores": f"float[{IMAGES}, {KEEP}] out_scores",
    "out_classes": f"int32[{IMAGES}, {KEEP}] out_classes",
}


def detector(
    changes: Mapping[str, str] | None = None,
    constants: Mapping[str, Array | None] | None = None,
    *,
    front: str = FRONT,
    inputs: str = f"float[{IMAGES}, {BOXES}, 4] boxes, float[{IMAGES}, {BOXES}, {CLASSES}] raw",
    outputs: str | None = None,
    opset: int = 17,
) -> Model:
    """A head whose text, constants or outputs are changed. A change of text must find its place."""
    text = front + TAIL
    for old, new in (changes or {}).items():
        assert old in text, old
        text = text.replace(old, new)
    known = {**CONSTANTS, **(constants or {})}
    used = {name: np.asarray(value) for name, value in known.items() if value is not None and name in text}
    made = ", ".join(OUTPUTS.values()) if outputs is None else outputs
    return tools.parsed(f"g ({inputs}) => ({made}) {{{text}}}", used, opset)


def feeds(seed: int = 0, **more: tuple[int, ...]) -> dict[str, Array]:
    """Boxes that overlap a good deal, any corner first, and logits."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1, (IMAGES, BOXES, 2))
    corners = np.concatenate([low, low + rng.uniform(0.2, 0.6, low.shape)], -1)
    made = {"boxes": corners, "raw": rng.normal(0, 2, (IMAGES, BOXES, CLASSES))}
    made |= {name: rng.normal(0, 1, shape) for name, shape in more.items()}
    return {name: value.astype(np.float32) for name, value in made.items()}


def assert_same(before: Model, after: Model, given: Mapping[str, Array]) -> None:
    names = {value.name for value in before.proto.graph.input}
    want, got = (tools.run(model, {name: given[name] for name in names}) for model in (before, after))
    assert list(want) == list(got)
    for name, values in want.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5, err_msg=name)


def by_loops(
    variant: Variant,
    boxes: Array,
    scores: Array,
    anchors: Array | None = None,
    *,
    score_threshold: float,
    iou_threshold: float,
    max_output_boxes: int,
    background_class: int = -1,
) -> list[Array]:
    """What NVIDIA's README and kernels say, one box at a time, in float32."""
    images, count, classes = scores.shape
    values = (1 / (1 + np.exp(-scores)) if variant.sigmoid else scores).astype(np.float32)
    corners = _corners(variant, boxes if variant.per_class else np.repeat(boxes[:, :, None], classes, 2), anchors)
    outputs = [
        np.zeros((images, 1), np.int32),
        np.zeros((images, max_output_boxes, 4), np.float32),
        np.zeros((images, max_output_boxes), np.float32),
        np.zeros((images, max_output_boxes), np.int32),
    ]
    for image in range(images):
        candidates = [
            (-values[image, box, kind], kind, box)
            for kind in range(classes)
            for box in range(count)
            if kind != background_class and values[image, box, kind] >= np.float32(score_threshold)
        ]
        kept: list[tuple[int, int]] = []
        for score, kind, box in sorted(candidates):
            rivals = [(b, k) for b, k in kept if variant.agnostic or k == kind]
            overlaps = [overlap(corners[image, box, kind], corners[image, b, k]) for b, k in rivals]
            if len(kept) < max_output_boxes and all(each < np.float32(iou_threshold) for each in overlaps):
                place = len(kept)
                kept.append((box, kind))
                outputs[1][image, place] = corners[image, box, kind]
                outputs[2][image, place], outputs[3][image, place] = -score, kind
        outputs[0][image] = len(kept)
    return outputs


def _corners(variant: Variant, boxes: Array, anchors: Array | None) -> Array:
    near, far = boxes[..., :2], boxes[..., 2:]
    if anchors is not None:
        prior = anchors[:, :, None]
        first, second = prior[..., :2], prior[..., 2:]
        if variant.centre_size:
            near, far = near * second + first, second * np.exp(far)
        else:
            low, high = np.minimum(near, far), np.maximum(near, far)
            near, far = low + np.minimum(first, second), high + np.maximum(first, second)
    if variant.centre_size:
        near, far = near - far * np.float32(0.5), near + far * np.float32(0.5)
    return np.concatenate([near, far], -1)


def overlap(one: Array, other: Array) -> np.float32:
    ends = [(np.minimum(box[:2], box[2:]), np.maximum(box[:2], box[2:])) for box in (one, other)]
    common = np.minimum(ends[0][1], ends[1][1]) - np.maximum(ends[0][0], ends[1][0])
    shared = np.prod(common) if (common > 0).all() else np.float32(0)
    whole = sum(np.prod(high - low) for low, high in ends) - shared
    return np.float32(shared / whole) if shared > 0 and whole > 0 else np.float32(0)
