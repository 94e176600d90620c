"""DLA103: 3-D layers on the DLA."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule, some

if TYPE_CHECKING:
    from trtforge.lint.context import Context


VOLUMETRIC = ("Conv", "ConvTranspose", "MaxPool", "AveragePool")


class DlaThreeDimensional(Rule):
    """What it does
        Reports convolutions, deconvolutions and poolings with three spatial dimensions on a DLA target.

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
    severity = "error"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        nodes = [node for node in context.of(*VOLUMETRIC) if context.spatial_rank(node) == 3]
        if nodes:
            yield self.finding(
                some(places(nodes)),
                f"{len(nodes)} layers have three spatial dimensions, the DLA has two",
                f"use target: {context.target.device}/gpu",
                severity="warning" if context.gpu_fallback else "error",
            )
