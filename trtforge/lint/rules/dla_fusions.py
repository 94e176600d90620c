"""DLA114: convolutions that are not fused with what follows them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.lint.nodes import places
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.lint.dla.fusions import Unfused


class DlaFusions(Rule):
    """What it does
        Looks for convolutions on the DLA that will probably not be fused with the activation, addition or pooling that
        follows: several layers read the output, Clip stands where Relu is fused, or groups are in front of a pooling.
        Fusions that are likely are no finding; `trtforge lint --placement --json` lists them.

    Why it matters
        A fused convolution writes its result once, after the activation, and its inner tensors need no memory. The DLA
        makes Conv + BatchNormalization + Relu + MaxPool one operation, and Conv + BatchNormalization + Add + Relu
        (observed names, NVIDIA's RetinaNet sample). Its conditions are not published for Orin; these are those of
        NVDLA's open compiler, so this is a hint and never more.

    Example
        MobileNet's ReLU6, exported as Clip. NVIDIA's own SSD-MobileNet has Relu in its place.

    Fix
        For ReLU6 `relu6-to-relu` in `surgery`; the ranges of ReLU6 stay. Verify it where layers run in floating point.
        A Clip with other bounds, groups and several readers are the network's own: there is nothing to do but train
        another one.
    """

    code = "DLA114"
    title = "convolution that stays unfused"
    severity = "hint"

    def check(self, context: Context) -> Iterator[Finding]:
        if not context.target.is_dla:
            return
        from trtforge.lint.dla.fusions import missed

        together: dict[tuple[str, str], list[Unfused]] = {}
        for found in missed(context, context.placement.together):
            together.setdefault((found.why, found.fix), []).append(found)
        for (why, fix), all_of_them in together.items():
            nodes = [found.node for found in all_of_them]
            yield self.finding(places(nodes), f"{len(nodes)} probably not fused: {why}", fix or "nothing to do")
