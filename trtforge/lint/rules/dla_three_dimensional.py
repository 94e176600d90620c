"""DLA103: 3-D layers on the DLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaThreeDimensional(Rule):
    """What it does
        Reports layers with three spatial dimensions on a DLA target: convolutions, deconvolutions and poolings by their
        windows, others by tensors of five dimensions.

    Why it matters
        The DLA works on 4-D tensors and has two spatial dimensions only. Such a layer runs on the GPU, or fails the
        build when GPU fallback is off. A volumetric network gains nothing from a DLA.

    Example
        A 3D-UNet with `target: orin-agx-64gb/dla`.

    Fix
        Build it for the GPU of the device, e.g. `target: orin-agx-64gb/gpu`, and keep the DLA for 2-D networks.
    """

    code = "DLA103"
    title = "3-D layer on the DLA"
    severity = "warning"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        nodes = [
            place.node for place in context.placement.places if any(reason.kind == "volume" for reason in place.reasons)
        ]
        if nodes:
            layers = "one layer has" if len(nodes) == 1 else f"{len(nodes)} layers have"
            yield self.finding(
                places(nodes),
                f"{layers} three spatial dimensions, the DLA has two",
                f"write target: {context.target.device}/gpu",
                severity="warning" if context.gpu_fallback else "error",
            )
