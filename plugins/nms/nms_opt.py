"""Lowering to `NMS_OPT_TRT`, the plugin of NVIDIA's MLPerf submissions for SSD, where the recipe names it.

It is not in TensorRT: MLPerf's tree has its source (closed/NVIDIA/code/plugin/NMSOptPlugin), and whoever builds the
engine loads the library. Fields, inputs and output are those of its creator and kernels. Not yet run on a TensorRT.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from onnx import NodeProto, TensorProto, helper

from trtforge.plugins.nms.heads import Heads, heads_of
from trtforge.plugins.nms.operands import Operands
from trtforge.recipe.models import LoweringName
from trtforge.surgery.op import Creator, Lowered, Lowering, Names, Plugin, Situation
from trtforge.surgery.rules import Match, View, is_op

CREATOR = Creator("NMS_OPT_TRT", "2")
"""Version 1 is for implicit batches."""

DOMAIN = "trt.plugins"
"""Domain of the node, as `stock.DOMAIN`."""

SCALES = (5, 6)
SHAPES = (3, 4, 6, 9)
"""Numbers of scales, and of anchors at a place, that its kernels are compiled for."""

CANDIDATES = 256
"""Of each class it looks at the best `topK` scores, and sorts no more than this."""

TF_CENTER = 3
"""`codeType`: boxes by centre and size, the vertical first."""

VALUES = 7
"""Of each detection: image, y1, x1, y2, x2, score, class; -1 is the class of padding."""


class NmsOpt(Lowering):
    """The six raw heads and the anchors into one node, and its [N, 1, 1, 7K + 1] into the four outputs.

    Behind the detections the plugin writes their number as an integer's bits into a float; so they are counted.
    """

    name: ClassVar[LoweringName] = "nms-opt"
    only_if_named: ClassVar[bool] = True

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        return _no_plugin(situation) or _does_not_fit(match, view)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        operands: Operands = match.facts["operands"]
        heads = heads_of(operands.boxes, operands.scores, view)
        assert heads is not None  # ``refuses`` has looked
        nodes: list[NodeProto] = []
        merged = [scale.merged or _joined(nodes, names, scale.boxes, scale.scores) for scale in heads.scales]
        anchors = names.weight(f"{operands.boxes}_anchors", _anchors(operands))
        fields = _fields(match, heads)
        raw = names.fresh(f"{match.at}_raw")
        node = helper.make_node(
            CREATOR.name,
            [*merged, anchors, *merged],
            [raw],
            name=match.at,
            domain=DOMAIN,
            plugin_version=CREATOR.version,
            plugin_namespace=CREATOR.namespace,
            **fields,
        )
        nodes += [node, *_unpacked(raw, match, heads.background, names)]
        return Lowered(tuple(nodes), tuple(names.initializers), opsets={DOMAIN: 1}, plugin=Plugin(CREATOR, "", fields))


def _no_plugin(situation: Situation) -> str:
    if situation.backend != "tensorrt":
        return f"{CREATOR.name} is a plugin for TensorRT, and the backend is {situation.backend}"
    if situation.probed and CREATOR not in situation.creators:
        release = f"TensorRT {situation.tensorrt}" if situation.tensorrt else "this TensorRT"
        return f"the plugin registry of {release} has no {CREATOR.name} version {CREATOR.version}"
    return ""


def _does_not_fit(match: Match, view: View) -> str:
    operands: Operands = match.facts["operands"]
    keep = match.attributes["max_output_boxes"]
    why = ""
    if keep > CANDIDATES:
        why = f"it sorts {CANDIDATES} scores of a class, and {keep} boxes are wanted"
    elif match.attributes["score_threshold"] <= 0:
        why = "it drops scores of 0, and there is no score threshold"
    elif operands.decoder is None or operands.decoder.anchors is None or operands.decoder.order != (0, 1, 2, 3):
        why = "it decodes boxes by centre and size itself, the vertical first, and the graph has no such decoder"
    elif not operands.variant.sigmoid:
        why = "it takes scores without an activation, and what is in front of the scores is not a sigmoid"
    elif not _is_clipped(operands.outputs[1], view):
        why = "it clips boxes to the image, and the graph does not: no Clip to [0, 1] is behind the boxes"
    elif (heads := heads_of(operands.boxes, operands.scores, view)) is None:
        why = "boxes and scores are not convolutions of square feature maps side by side, by row, column and anchor"
    else:
        why = _wrong_heads(heads)
    return why


def _wrong_heads(heads: Heads) -> str:
    if len(heads.scales) not in SCALES:
        return f"it is compiled for 5 or 6 scales, and here are {len(heads.scales)}"
    shapes = {scale.shapes for scale in heads.scales}
    if odd := sorted(shapes - set(SHAPES)):
        return f"it is compiled for 3, 4, 6 or 9 anchors at a place, and here are {odd[0]}"
    return ""


def _is_clipped(boxes: str, view: View) -> bool:
    """Whether all that reads the boxes is Clip to [0, 1]."""
    readers = view.readers(boxes)
    if not boxes:
        return True
    return (
        bool(readers)
        and boxes not in view.index.outputs
        and all(
            is_op(node, "Clip") and len(node.input) == 3 and [view.scalar(end) for end in node.input[1:]] == [0.0, 1.0]
            for node in readers
        )
    )


def _anchors(operands: Operands) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """float32 [2, 4P, 1]: corners x1, y1, x2, y2 of each anchor, then its variances of x, y, w, h."""
    assert operands.decoder is not None and operands.decoder.anchors is not None
    y, x, h, w = operands.decoder.anchors[0].astype(np.float64).T
    corners = np.stack([x - w / 2, y - h / 2, x + w / 2, y + h / 2], -1)
    of_y, of_x, of_h, of_w = operands.decoder.variances
    variances = np.broadcast_to([of_x, of_y, of_w, of_h], corners.shape)
    return np.stack([corners.reshape(-1), variances.reshape(-1)])[..., None].astype(np.float32)


def _fields(match: Match, heads: Heads) -> dict[str, Any]:
    """By the names of MLPerf's creator. It drops by overlap above the threshold, as ONNX does."""
    scales = len(heads.scales)
    below = np.nextafter(np.float32(match.attributes["iou_threshold"]), np.float32(0))
    return {
        "shareLocation": 1,
        "varianceEncodedInTarget": 0,
        "backgroundLabelId": 0 if heads.background else match.attributes["background_class"],
        "numClasses": heads.classes,
        "topK": CANDIDATES,
        "keepTopK": match.attributes["max_output_boxes"],
        "confidenceThreshold": match.attributes["score_threshold"],
        "nmsThreshold": float(below),
        "inputOrder": [0, scales + 1, scales],
        "confSigmoid": 1,
        "confSoftmax": 0,
        "isNormalized": 1,
        "codeType": TF_CENTER,
        "numLayers": scales,
    }


def _joined(nodes: list[NodeProto], names: Names, boxes: str, scores: str) -> str:
    """Boxes and scores in one tensor: what `merge-sibling-convs` makes of the convolutions is better."""
    made = names.fresh(f"{boxes}_and_scores")
    nodes.append(helper.make_node("Concat", [boxes, scores], [made], made, axis=1))
    return made


def _unpacked(raw: str, match: Match, background: bool, names: Names) -> list[NodeProto]:
    operands: Operands = match.facts["operands"]
    keep = match.attributes["max_output_boxes"]
    count, boxes, scores, classes = (name or names.fresh(f"{match.at}_unused") for name in operands.outputs)
    made: list[NodeProto] = []

    def constant(what: str, value: object, dtype: type = np.int64) -> str:
        return names.weight(f"{match.at}_{what}", np.array(value, dtype))

    def put(operator: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or names.fresh(f"{match.at}_{operator.lower()}")
        made.append(helper.make_node(operator, inputs, [output], output, None, None, **attributes))
        return output

    start, end, last = constant("start", [0]), constant("end", [VALUES * keep]), constant("last", [3])
    values = put("Slice", [raw, start, end, last])
    rows = put("Reshape", [values, constant("rows", [0, keep, VALUES])])
    two = constant("values_axis", [2])
    put("Slice", [rows, constant("box_start", [1]), constant("box_end", [5]), two], boxes)
    put("Gather", [rows, constant("score_at", 5)], scores, axis=2)
    kinds = put("Gather", [rows, constant("class_at", 6)], axis=2)
    valid = put("Greater", [kinds, constant("no_class", -0.5, np.float32)])
    put("ReduceSum", [put("Cast", [valid], to=TensorProto.INT32), constant("count_axis", [1])], count, keepdims=1)
    named = put("Sub", [kinds, constant("first_class", float(background), np.float32)])
    put("Cast", [put("Where", [valid, named, constant("none", 0, np.float32)])], classes, to=TensorProto.INT32)
    return made
