"""Obstacles of one kind as findings: nodes with the same one together, and how much it matters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.dla.obstacle import Kind, Obstacle
from trtforge.lint.dla.sizes import WEIGHTED
from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule, Severity

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.lint.dla.placement import NodePlace


def off_the_dla(rule: Rule, context: Context, kind: Kind) -> Iterator[Finding]:
    """A finding for each thing of this kind that keeps nodes off the DLA.

    An error when GPU fallback is off. A warning when the layers cut the network, or hold its weights. A hint for
    others: at the ends of a network the GPU has them for little, and of those that it has for nothing the placement
    tells.
    """
    if not context.target.is_dla:
        return
    together: dict[Obstacle, list[NodePlace]] = {}
    for place in context.placement.places:
        for reason in place.reasons:
            if reason.kind == kind and not place.idle:
                together.setdefault(reason, []).append(place)
    for obstacle, found in together.items():
        effect = "goes to the GPU" if context.gpu_fallback else "fails the build, GPU fallback is off"
        matters = any(place.cuts or place.node.op_type in WEIGHTED for place in found)
        severity: Severity = "error" if not context.gpu_fallback else "warning" if matters else "hint"
        where = places(place.node for place in found)
        fix = obstacle.fix or "end the exported network before it, or leave it to the GPU"
        if not context.gpu_fallback and not (context.engine.dla and context.engine.dla.standalone):
            fix = f"{fix}; with dla: {{gpu_fallback: true}} the GPU runs it"
        yield rule.finding(where, f"{obstacle.sentence}; {effect}", fix, severity=severity)


def doubtful(rule: Rule, context: Context) -> Iterator[Finding]:
    """A hint for each thing that may keep nodes off the DLA."""
    if not context.target.is_dla:
        return
    together: dict[Obstacle, list[NodePlace]] = {}
    for place in context.placement.places:
        for doubt in place.doubts if place.device == "dla" else ():
            together.setdefault(doubt, []).append(place)
    for doubt, found in together.items():
        fix = doubt.fix or "build on the device to know"
        where = places(place.node for place in found)
        yield rule.finding(where, f"may go to the GPU: {doubt.sentence}", fix, severity="hint")
