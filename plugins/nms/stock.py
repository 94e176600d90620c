"""Lowering to `EfficientNMS_TRT`, NVIDIA's plugin for detection heads.

Fields, types and semantics are those of plugin/efficientNMSPlugin in NVIDIA/TensorRT: its README, creator and kernels.
Not yet run on a TensorRT.
"""

from __future__ import annotations

from typing import ClassVar

from onnx import helper

from trtforge.plugins.nms.operands import Operands
from trtforge.recipe.models import LoweringName
from trtforge.surgery.op import Creator, Lowered, Lowering, Names, Plugin, Situation
from trtforge.surgery.rules import Match, View
from trtforge.targets.load import version_tuple

CREATOR = Creator("EfficientNMS_TRT", "1")
DOMAIN = "trt.plugins"
"""Domain of the node. TensorRT's parser finds a plugin by `plugin_version` and `plugin_namespace`; onnx's checks refuse
an unknown operator in the standard domain."""

CANDIDATES = 4096
"""The best scores of an image are looked at, of all classes, and no more."""

DENSE = 0.007
"""Below this threshold the plugin sorts all scores, and writes those under the threshold too where K is not reached."""

AGNOSTIC_SINCE = (8, 6)


class StockNms(Lowering):
    """One node between float tensors. It runs on the GPU: in an engine for the DLA it is what falls back."""

    name: ClassVar[LoweringName] = "stock"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        return why_not(CREATOR, situation) or _wrong_limits(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        operands: Operands = match.facts["operands"]
        nodes, inputs = operands.inputs(names)
        fields = {
            **match.attributes,
            "score_activation": int(operands.variant.sigmoid),
            "class_agnostic": int(operands.variant.agnostic),
            "box_coding": int(operands.variant.centre_size),
        }
        node = helper.make_node(
            CREATOR.name,
            inputs,
            [name or names.fresh(f"{match.at}_unused") for name in operands.outputs],
            name=match.at,
            domain=DOMAIN,
            plugin_version=CREATOR.version,
            plugin_namespace=CREATOR.namespace,
            **fields,
        )
        return Lowered(
            (*nodes, node), tuple(names.initializers), opsets={DOMAIN: 1}, plugin=Plugin(CREATOR, "", fields)
        )


def why_not(creator: Creator, situation: Situation) -> str:
    """A sentence why a stock plugin is not to be had in this situation, "" when it is. A DLA engine may have it."""
    if situation.backend == "onnxruntime":
        return "onnxruntime runs the graph as it is, without TensorRT plugins"
    if creator in situation.creators:
        return ""
    release = situation.tensorrt or "(release not stated)"
    whose = "TensorRT-RTX" if situation.backend == "tensorrt_rtx" else f"TensorRT {release}"
    how = "its registry was asked" if situation.probed else "by NVIDIA's documents; the device was not asked"
    return f"{whose} has no {creator.name} of version {creator.version} ({how})"


def _wrong_limits(match: Match, situation: Situation) -> str:
    keep, least = match.attributes["max_output_boxes"], match.attributes["score_threshold"]
    agnostic = match.facts["operands"].variant.agnostic
    release = version_tuple(situation.tensorrt) if situation.tensorrt else None
    if keep > CANDIDATES:
        return f"it looks at the best {CANDIDATES} scores of an image, and {keep} boxes are wanted"
    if 0 < least < DENSE:
        own = match.facts["score_threshold"]  # the graph's; the plugin gets the number behind it
        return f"below a score threshold of {DENSE} it also writes boxes under the threshold, and here it is {own:g}"
    if least == 0 and match.attributes["background_class"] >= 0:
        return "without a score threshold it also writes boxes of the background class"
    if agnostic and release is not None and (*release, 0)[:2] < AGNOSTIC_SINCE:
        return f"TensorRT {situation.tensorrt} has no field class_agnostic; 8.6 is the first that does"
    return ""
