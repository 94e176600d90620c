"""What non-maximum suppression with padded outputs means, as ONNX functions: `EfficientNMS_TRT`'s semantics.

One function for each `Variant`, since a function's body cannot depend on its attributes. All take float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from trtforge.surgery.op import function_proto

OUTPUTS = ("num_detections", "detection_boxes", "detection_scores", "detection_classes")
ATTRIBUTES = ("score_threshold", "iou_threshold", "max_output_boxes", "background_class")

STEP = 2.0**-24
LEAST = 1.1754943508222875e-38
"""t - (t * STEP + LEAST), in float32, is the number before t, for t = 0 and for any t of 1e-30 or more: ONNX compares
by `>` where the plugin does by `>=`. LEAST is the smallest number that no CPU flushes to zero, and what is before it is
0: it is the threshold for scores above 0."""

OUT = -1.0
"""Stands for a score that is not a candidate: scores that count are not negative."""


@dataclass(frozen=True)
class Variant:
    """``centre_size``: boxes, and anchors, are [y, x, h, w], else [y1, x1, y2, x2]. ``anchors``: boxes are offsets to a
    third input. ``per_class``: boxes [N, P, C, 4], else [N, P, 4]. ``sigmoid``: scores are logits. ``agnostic``:
    boxes of different classes suppress each other."""

    centre_size: bool = False
    anchors: bool = False
    per_class: bool = False
    sigmoid: bool = False
    agnostic: bool = False

    @property
    def name(self) -> str:
        """The function's, and the node's."""
        parts = {
            "CentreSize": self.centre_size,
            "Anchors": self.anchors,
            "PerClass": self.per_class,
            "Sigmoid": self.sigmoid,
            "Agnostic": self.agnostic,
        }
        return "Nms" + "".join(part for part, there in parts.items() if there)


def nms(variant: Variant) -> FunctionProto:
    """(boxes, scores [N, P, C][, anchors [1 or N, P, 4]]) -> (num_detections int32 [N, 1], detection_boxes [N, K, 4],
    detection_scores [N, K], detection_classes int32 [N, K]); floats are float32, every size may be open.

    Attributes: ``score_threshold`` (>= 0; scores below it are out), ``iou_threshold`` (> 0; of two boxes that overlap
    by it or more the one of lower score is out), ``max_output_boxes`` K, ``background_class`` (left out; -1 for none).

    With anchors a of centre and size, a box is [y * a.h + a.y, x * a.w + a.x, a.h * exp(h), a.w * exp(w)]; with anchors
    of corners the two are added, corners in ascending order. detection_boxes are corners. They go by falling
    score; of equal scores the lower class is first, then the lower index. What is behind num_detections is 0.
    """
    nodes = [
        *_constants(),
        *_decoded(variant),
        *_candidates(variant),
        *_suppressed(variant),
        *_best(variant),
    ]
    inputs = ["boxes", "scores", *(["anchors"] if variant.anchors else [])]
    doc = "Non-maximum suppression with outputs of a fixed size."
    return function_proto(variant.name, inputs, OUTPUTS, nodes, attributes=ATTRIBUTES, doc=doc)


def _node(operator: str, inputs: list[str], *outputs: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, list(outputs), **attributes)


def _constant(name: str, value: float | int | list[int]) -> NodeProto:
    if isinstance(value, list):
        return _node("Constant", [], name, value_ints=value)
    return _node("Constant", [], name, **{"value_float" if isinstance(value, float) else "value_int": value})


def _attribute(name: str, kind: AttributeProto.AttributeType) -> NodeProto:
    """An attribute of the function as a scalar tensor of its name."""
    node = helper.make_node("Constant", [], [name])
    field = "value_float" if kind == AttributeProto.FLOAT else "value_int"
    node.attribute.append(AttributeProto(name=field, ref_attr_name=name, type=kind))
    return node


def _constants() -> list[NodeProto]:
    return [
        _attribute("score_threshold", AttributeProto.FLOAT),
        _attribute("iou_threshold", AttributeProto.FLOAT),
        _attribute("max_output_boxes", AttributeProto.INT),
        _attribute("background_class", AttributeProto.INT),
        _constant("step", STEP),
        _constant("least", LEAST),
        _constant("out", OUT),
        _constant("none", 0.0),
        _constant("half", 0.5),
        _constant("zero", 0),
        _constant("one", 1),
        _constant("first_axis", [0]),
        _constant("second_axis", [1]),
        _constant("third_axis", [2]),
        _constant("pairs", [2, 2]),
        _constant("by_image", [0, -1]),
        _node("Unsqueeze", ["max_output_boxes", "first_axis"], "most"),
        *_before("score_threshold"),
        *_before("iou_threshold"),
        _constant("all", 1.0),
        _node("Clip", ["iou_threshold_above", "none", "all"], "overlap_above"),  # an overlap is from 0 to 1
    ]


def _before(threshold: str) -> list[NodeProto]:
    """The number before a threshold, as `<threshold>_above`: ONNX's comparisons are strict."""
    return [
        _node("Mul", [threshold, "step"], f"{threshold}_step"),
        _node("Add", [f"{threshold}_step", "least"], f"{threshold}_down"),
        _node("Sub", [threshold, f"{threshold}_down"], f"{threshold}_above"),
    ]


def _decoded(variant: Variant) -> list[NodeProto]:
    """The boxes as `corners`, of the boxes' shape."""
    if not variant.centre_size and not variant.anchors:
        return [_node("Identity", ["boxes"], "corners")]
    nodes = [_node("Split", ["boxes", "pairs"], "box_0", "box_1", axis=-1)]
    if variant.anchors:
        prior = "anchors"
        if variant.per_class:
            nodes.append(_node("Unsqueeze", ["anchors", "third_axis"], "anchors_by_class"))
            prior = "anchors_by_class"
        nodes.append(_node("Split", [prior, "pairs"], "anchor_0", "anchor_1", axis=-1))
    return [*nodes, *(_centres(variant) if variant.centre_size else _moved_corners())]


def _centres(variant: Variant) -> list[NodeProto]:
    if variant.anchors:
        nodes = [
            _node("Mul", ["box_0", "anchor_1"], "shift"),
            _node("Add", ["shift", "anchor_0"], "centre"),
            _node("Exp", ["box_1"], "growth"),
            _node("Mul", ["anchor_1", "growth"], "size"),
        ]
    else:
        nodes = [_node("Identity", ["box_0"], "centre"), _node("Identity", ["box_1"], "size")]
    return [
        *nodes,
        _node("Mul", ["size", "half"], "half_size"),
        _node("Sub", ["centre", "half_size"], "corner_0"),
        _node("Add", ["centre", "half_size"], "corner_1"),
        _node("Concat", ["corner_0", "corner_1"], "corners", axis=-1),
    ]


def _moved_corners() -> list[NodeProto]:
    ordered = [
        _node(operator, [f"{what}_0", f"{what}_1"], f"{what}_{end}")
        for what in ("box", "anchor")
        for operator, end in (("Min", "low"), ("Max", "high"))
    ]
    moved = [_node("Add", [f"box_{end}", f"anchor_{end}"], f"corner_{end}") for end in ("low", "high")]
    return [*ordered, *moved, _node("Concat", ["corner_low", "corner_high"], "corners", axis=-1)]


def _candidates(variant: Variant) -> list[NodeProto]:
    """Scores by class, `candidates` [N, C, P], the background's `OUT`; corners by class where they differ."""
    activated = _node("Sigmoid", ["scores"], "probabilities")
    nodes = [
        activated if variant.sigmoid else _node("Identity", ["scores"], "probabilities"),
        _node("Transpose", ["probabilities"], "by_class", perm=[0, 2, 1]),
        _node("Shape", ["by_class"], "class_count", start=1, end=2),
        _node("Shape", ["by_class"], "box_count", start=2, end=3),
        _node("Squeeze", ["class_count", "first_axis"], "class_end"),
        _node("Range", ["zero", "class_end", "one"], "classes"),
        _node("Equal", ["classes", "background_class"], "is_background"),
        _node("Unsqueeze", ["is_background", "second_axis"], "background_rows"),
        _node("Where", ["background_rows", "out", "by_class"], "candidates"),
    ]
    if variant.per_class:
        nodes.append(_node("Transpose", ["corners"], "corners_by_class", perm=[0, 2, 1, 3]))
    elif variant.agnostic:
        nodes += [
            _node("Concat", ["one_row", "class_count", "one_row", "one_row"], "repeats", axis=0),
            _node("Unsqueeze", ["corners", "second_axis"], "corners_once"),
            _node("Tile", ["corners_once", "repeats"], "corners_by_class"),
        ]
        nodes.insert(0, _constant("one_row", [1]))
    if variant.per_class or variant.agnostic:
        nodes += [
            _constant("all_of_image", [0, -1, 4]),
            _node("Reshape", ["corners_by_class", "all_of_image"], "corners_of_all"),
        ]
    return nodes


def _suppressed(variant: Variant) -> list[NodeProto]:
    """`kept` [N, C * P]: the scores that survive, `OUT` elsewhere."""
    boxes, scores = "corners", "candidates"
    nodes = []
    if variant.agnostic:  # one class of C * P boxes
        boxes, scores = "corners_of_all", "scores_of_all"
        nodes = [_constant("one_class", [0, 1, -1]), _node("Reshape", ["candidates", "one_class"], scores)]
    elif variant.per_class:  # N * C images of one class
        boxes, scores = "corners_of_class", "scores_of_class"
        nodes = [
            _constant("class_boxes", [-1]),
            _constant("four", [4]),
            _node("Concat", ["class_boxes", "box_count", "four"], "class_boxes_shape", axis=0),
            _node("Reshape", ["corners_by_class", "class_boxes_shape"], boxes),
            _node("Concat", ["class_boxes", "second_axis", "box_count"], "class_scores_shape", axis=0),
            _node("Reshape", ["candidates", "class_scores_shape"], scores),
        ]
    thresholds = ["most", "overlap_above", "score_threshold_above"]
    nodes += [
        _node("NonMaxSuppression", [boxes, scores, *thresholds], "selected"),
        _node("GatherND", [scores, "selected"], "selected_scores"),
        _node("Shape", [scores], "scores_shape"),
        _node("ConstantOfShape", ["scores_shape"], "nothing", value=helper.make_tensor("", 1, [1], [OUT])),
        _node("ScatterND", ["nothing", "selected", "selected_scores"], "survivors"),
    ]
    if variant.per_class and not variant.agnostic:
        nodes += [
            _node("Shape", ["candidates"], "candidates_shape"),
            _node("Reshape", ["survivors", "candidates_shape"], "survivors_by_image"),
        ]
    last = nodes[-1].output[0]
    return [*nodes, _node("Reshape", [last, "by_image"], "kept")]


def _best(variant: Variant) -> list[NodeProto]:
    """The K best of each image, and zeros where there are fewer."""
    shared = not variant.per_class and not variant.agnostic
    source = "corners" if shared else "corners_of_all"
    return [
        _constant("no_padding", [0, 0, 0]),
        _constant("none_below", OUT / 2),
        _node("Concat", ["no_padding", "most"], "padding", axis=0),
        _node("Pad", ["kept", "padding", "out"], "enough"),
        _node("TopK", ["enough", "most"], "best", "places", axis=1),
        _node("Greater", ["best", "none_below"], "valid"),
        _node("Cast", ["valid"], "valid_count", to=TensorProto.INT32),
        _node("ReduceSum", ["valid_count", "second_axis"], OUTPUTS[0], keepdims=1),
        _node("Where", ["valid", "best", "none"], OUTPUTS[2]),
        _node("Div", ["places", "box_count"], "class_of"),
        _node("Where", ["valid", "class_of", "zero"], "valid_class"),
        _node("Cast", ["valid_class"], OUTPUTS[3], to=TensorProto.INT32),
        _node("Shape", [source], "source_count", start=1, end=2),
        _node("Mod", ["places", "source_count"], "box_of"),
        _node("Unsqueeze", ["box_of", "third_axis"], "box_of_each"),
        _node("GatherND", [source, "box_of_each"], "best_boxes", batch_dims=1),
        _node("Unsqueeze", ["valid", "third_axis"], "valid_boxes"),
        _node("Where", ["valid_boxes", "best_boxes", "none"], OUTPUTS[1]),
    ]
