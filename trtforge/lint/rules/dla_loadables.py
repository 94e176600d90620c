"""DLA108: the number of pieces a network is cut into."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class DlaLoadables(Rule):
    """What it does
        Counts the pieces, called loadables, that layers on the GPU cut the network into. `trtforge lint --placement`
        shows which node is in which.

    Why it matters
        Between two loadables the data goes to the GPU and back, with a reformat each way. A core holds 16 loadables
        at once (documented, TensorRT 8.4 and later; 4 with 8.2), those of other engines on the core included. What
        is over the limit goes to the GPU, the end of the network first (observed in build logs of 8.5 to 10.3).

    Example
        A DETR under TensorRT 10.3: its transformer makes more than 16 pieces, and the DLA engine took 30 times as long
        as the GPU's (published measurement, FP16, AGX Orin).

    Fix
        Rewrite the layers in between, see their own findings; where these name a surgery pass, `trtforge lint RECIPE
        --fix` tries it. Or end the engine at the first cut and let another engine on the GPU do the rest.
    """

    code = "DLA108"
    title = "network cut into several loadables"
    severity = "hint"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla or context.placement.wanted < 2:
            return
        placement = context.placement
        cuts = [place.node for place in placement.places if place.cuts and place.why and place.why.kind != "limit"]
        where = places(cuts) if cuts else f"target {context.target.key}"
        passes = any(
            "surgery pass" in reason.fix for place in placement.places if place.cuts for reason in place.reasons
        )
        fix = "see the findings of the layers named" if cuts else "nothing: no layer of the GPU lies between them"
        if passes:
            fix += "; trtforge lint RECIPE --fix tries the passes they name"
        if placement.wanted <= placement.limit:
            message = f"the network becomes {placement.wanted} loadables, of {placement.limit} that a core holds"
            yield self.finding(where, message, fix)
            return
        over = sum(place.why is not None and place.why.kind == "limit" for place in placement.places)
        message = f"the network becomes {placement.wanted} loadables and a core holds {placement.limit}"
        if context.gpu_fallback:
            yield self.finding(
                where,
                f"{message}: {over} more node{'s' if over > 1 else ''} on the GPU for that",
                fix,
                severity="warning",
            )
        else:
            yield self.finding(where, f"{message}; the build fails, GPU fallback is off", fix, severity="error")
