"""Lowering to `RnRes2FullFusion_TRT`, the plugin of NVIDIA's MLPerf submissions, where a TensorRT has it.

The plugin is closed source. Its node and its fields are those of the graph surgeon of MLPerf Inference v2.0
(closed/NVIDIA/code/resnet50/tensorrt/rn50_graphsurgeon.py); what they leave open is marked as inferred.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from onnx import helper, numpy_helper

from trtforge.digest import sha256_bytes
from trtforge.plugins.res2.folded import folded
from trtforge.recipe.models import LoweringName
from trtforge.surgery.int8 import scale_of
from trtforge.surgery.op import Creator, Lowered, Lowering, Names, Plugin, Situation, missing_range
from trtforge.surgery.rules import Array, Match, View

CREATOR = Creator("RnRes2FullFusion_TRT", "1", "")

DOMAIN = "trt.plugins"
"""Domain of the node. TensorRT's parser finds a plugin by the attributes `plugin_version` and `plugin_namespace`, and
reads the domain only when there is none of that name; onnx's checks refuse an unknown operator in the standard one."""

SM = ("7.5", "8.0", "8.6", "8.7", "8.9", "9.0")
"""Where MLPerf uses it: v2.0 has 7.5 to 8.7, v2.1 adds 9.0, v3.0 adds 8.9."""

CHANNELS = (64, 64, 256)
SIZE = (56, 56)
"""ResNet-50's. Inferred: the plugin has no field for any of them."""

EXPLICIT_ONLY = 11
"""The first TensorRT without dynamic ranges of tensors."""

LEVELS = 127
"""A range is a scale times this, as MLPerf reads its ranges from calibration caches."""

PARTS = ("a_br1", "a_br2a", "a_br2b", "a_br2c", "b_br2a", "b_br2b", "b_br2c", "c_br2a", "c_br2b", "c_br2c")
"""The convolutions in the match's order, as the fields spell them."""


class StockRes2(Lowering):
    """One node between float tensors that carries its weights and the ranges of its fourteen tensors as attributes.

    Scales are ones and biases zeros where the model has none; the plugin quantizes weights itself. No QuantizeLinear
    stands around it: it belongs to implicit quantization, where TensorRT takes the type of each tensor from its range.
    The fields are float32 tensors, as MLPerf's; the parser passes an attribute's own type on to the plugin.
    """

    name: ClassVar[LoweringName] = "stock"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        return _no_plugin(situation) or _wrong_sizes(match) or missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        fields = {
            key: np.ascontiguousarray(value, np.float32) for key, value in _fields(match, view, situation).items()
        }
        node = helper.make_node(
            CREATOR.name,
            [match.inputs[0]],
            list(match.outputs),
            name=names.fresh("res2"),
            domain=DOMAIN,
            plugin_version=CREATOR.version,
            plugin_namespace=CREATOR.namespace,
            **{key: numpy_helper.from_array(value, key) for key, value in fields.items()},
        )
        recorded: dict[str, Any] = {key: sha256_bytes(value.tobytes()) for key, value in fields.items()}
        recorded["dynamic_ranges"] = [float(value) for value in fields["dynamic_ranges"]]
        return Lowered((node,), opsets={DOMAIN: 1}, plugin=Plugin(CREATOR, "", recorded))


def _no_plugin(situation: Situation) -> str:
    """A sentence why the plugin is not to be had in this situation, whatever the match."""
    release = f"TensorRT {situation.tensorrt}" if situation.tensorrt else "this TensorRT"
    why = ""
    if situation.backend != "tensorrt":
        why = f"{CREATOR.name} is a plugin of TensorRT, and the backend is {situation.backend}"
    elif situation.dla:
        why = "plugins run on the GPU, not on a DLA"
    elif situation.precision != "int8":
        why = f"{CREATOR.name} computes in int8 only, and the precision is {situation.precision}"
    elif situation.tensorrt and int(situation.tensorrt.split(".")[0]) >= EXPLICIT_ONLY:
        why = f"{release} has no implicit quantization, which {CREATOR.name} is made for"
    elif CREATOR not in situation.creators and situation.probed:
        why = f"the plugin registry of {release} has no {CREATOR.name} version {CREATOR.version}"
    elif CREATOR not in situation.creators:
        why = f"{release} is not documented to have {CREATOR.name} version {CREATOR.version}"
    elif situation.sm not in SM:
        why = (
            f"{CREATOR.name} is used by MLPerf on SM {', '.join(SM)}, and the target has {situation.sm or 'none known'}"
        )
    return why


def _wrong_sizes(match: Match) -> str:
    channels = match.facts["channels"]
    if channels != CHANNELS:
        made, has = (", ".join(map(str, each)) for each in (CHANNELS, channels))
        return f"{CREATOR.name} is made for ResNet-50's channels {made} (inferred), and the stage has {has}"
    size = (match.facts["height"], match.facts["width"])
    if size != SIZE:
        has = "x".join("?" if each is None else str(each) for each in size)
        return f"{CREATOR.name} is made for {SIZE[0]}x{SIZE[1]} (inferred), and the stage has {has}"
    return ""


def _fields(match: Match, view: View, situation: Situation) -> dict[str, Array]:
    """By the plugin's field names: filters as the model has them, vectors of one value per output channel."""
    fields: dict[str, Array] = {}
    for part, (weight, bias) in zip(PARTS, folded(match, view), strict=True):
        fields[f"c_res2{part}_w"] = weight
        fields[f"s_res2{part}_s"] = np.ones(len(bias))
        fields[f"s_res2{part}_b"] = bias
    for block in "abc":
        fields[f"r_res2{block}_br2c_r"] = np.ones(match.facts["channels"][2])
    fields["dynamic_ranges"] = np.array([LEVELS * scale_of(tensor, situation) for tensor in match.ranges])
    return fields
