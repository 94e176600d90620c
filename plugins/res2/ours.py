"""Lowering to the IPluginV3 of this folder: the stage in INT8 between a QuantizeLinear and a DequantizeLinear."""

from __future__ import annotations

from typing import ClassVar

from trtforge.plugins.res2.folded import folded
from trtforge.plugins.res2.function import CONVOLUTIONS, INT8, int8_function, quantized
from trtforge.plugins.res2.launch import LOWEST_SM, served
from trtforge.surgery.int8 import dequantize, quantize, scale_of
from trtforge.surgery.op import (
    DOMAIN,
    DOMAIN_VERSION,
    Creator,
    Lowered,
    Lowering,
    LoweringName,
    Names,
    Plugin,
    Situation,
    call,
    missing_range,
    why_not_ours,
)
from trtforge.surgery.rules import Match, View

CREATOR = Creator(INT8, "1", DOMAIN)


class OurRes2(Lowering):
    """One `Res2Int8` node. The ranges of 2c before the additions are not needed: these sums are never rounded."""

    name: ClassVar[LoweringName] = "trtforge"

    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        if why := why_not_ours(situation, precisions=("int8",)):
            return why
        if situation.sm is None or tuple(map(int, situation.sm.split("."))) < tuple(map(int, LOWEST_SM.split("."))):
            return f"its kernels need SM {LOWEST_SM} or later, and the target has {situation.sm or 'no GPU'}"
        channels = match.facts["channels"]
        if not served(*channels):
            return f"there are no kernels for a stage of {' to '.join(map(str, channels))} channels"
        return missing_range(match, situation)

    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        assert situation.ranges is not None  # refused before
        weights, biases = zip(*folded(match, view), strict=True)
        constants = quantized(weights, biases, [situation.ranges[tensor] for tensor in match.ranges]).inputs()
        parts = [f"{conv}_{part}" for conv in CONVOLUTIONS for part in ("w", "m", "b")]
        x, (y,) = match.inputs[0], match.outputs
        stem = names.fresh(f"{match.at}_res2")
        stored = [names.weight(f"{stem}_{part}", array) for part, array in zip((*parts, "r"), constants, strict=True)]
        inside, outside = names.fresh(f"{x}_int8"), names.fresh(f"{y}_int8")
        nodes = (
            quantize(x, scale_of(x, situation), inside, names),
            call(INT8, [inside, *stored], [outside], stem),
            dequantize(outside, scale_of(y, situation), y, names),
        )
        scales = {tensor: scale_of(tensor, situation) for tensor in match.ranges}
        plugin = Plugin(CREATOR, "res2", {"channels": list(match.facts["channels"]), "scales": scales})
        return Lowered(nodes, tuple(names.initializers), (int8_function(),), {DOMAIN: DOMAIN_VERSION}, plugin)
