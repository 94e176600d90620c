"""DLA109: a network that is not one for the DLA."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.rule import Finding, Rule, some

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.lint.dla.placement import Placement


class DlaRefused(Rule):
    """What it does
        Reports a network of which the DLA would run less than half of the layers that hold the arithmetic: Conv,
        ConvTranspose, Gemm and MatMul.

    Why it matters
        TensorRT builds it all the same when GPU fallback is on. The engine then is one for the GPU with detours: slower
        than a plain GPU engine, and the recipe says something else than what is built.

    Example
        A 3D-UNet: no layer of three spatial dimensions runs on the DLA. A BERT: its attention and its normalization
        do not run there and cut it into more pieces than a core holds.

    Fix
        Build it for the GPU of the same device: `target: orin-agx-64gb/gpu`. A recipe has one target: where its other
        engines belong on the DLA write a second recipe, and take this engine out of the first, with `engines: {NAME:
        null}` where it comes from `extends`. One half as the bound is our choice.
    """

    code = "DLA109"
    title = "not a network for the DLA"
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        placement = context.placement
        there, everything = placement.weighted
        unavailable = any(place.why is not None and place.why.kind == "unavailable" for place in placement.places)
        if everything and 2 * there < everything and not unavailable:
            what = "Conv, ConvTranspose, Gemm and MatMul layers run on the DLA, less than half"
            message = f"{there} of {everything} {what}: {_reasons(placement)}"
            fix = f"write target: {context.target.device}/gpu; in a recipe of its own where other engines stay here"
            yield self.finding(f"target {context.target.key}", message, fix)


def _reasons(placement: Placement) -> str:
    """What keeps most layers off, with counts."""
    reasons = Counter(place.why.why for place in placement.places if place.why is not None)
    return some([f"{why} ({count} nodes)" if count > 1 else why for why, count in reasons.most_common()])
