"""PLG101: a plugin that the target takes in no form, or only as the plain graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.errors.graph import DynamicShape, NoLowering, PluginsOverlap, ShapeMismatch, UnknownInput
from trtforge.lint.planned import used
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context


class PluginNotLowered(Rule):
    """What it does
        Looks for the plugins of `surgery` in the graph and for what may stand for each on the target, before any build:
        head sizes and sequence lengths that no kernel has, plugins that the TensorRT release does not have, tensors
        without a range, channels that do not fill a group of 32.

    Why it matters
        Where the recipe's list ends in `plain` the graph stays as it is there, slower than meant. Where it does not,
        the build fails (ONX119).

    Example
        `plugins: {qkv-to-context: [stock]}` for 200 tokens with heads of 80: NVIDIA's kernels have no such head size.

    Fix
        Choose a size that is in the list the finding gives, append `plain`, or remove the plugin from `surgery`.
        `trtforge surgery RECIPE --explain` also says what nearly fits.
    """

    code = "PLG101"
    title = "plugin has no lowering here"
    severity = "hint"

    def check(self, context: Context) -> Iterator[Finding]:
        ops = used(context)
        if not ops or context.backend == "onnxruntime":
            return
        try:
            plan = context.plugin_plan
        except (NoLowering, PluginsOverlap) as error:
            yield self.finding(error.where, f"{error.what}: {error.why}", error.next, severity="error")
            return
        except (UnknownInput, ShapeMismatch, DynamicShape):  # the GRF rules tell of these
            return
        for choice in plan.choices:
            if choice.lowering is None and choice.refused:
                why = "; ".join(f"{name}: {reason}" for name, reason in choice.refused)
                fix = f"nothing, if that is meant; else change what stands in the way, or remove {choice.op.name}"
                yield self.finding(choice.match.at, f"{choice.op.name} stays as the plain graph ({why})", fix)
        found = {choice.op.name for choice in plan.choices}
        for op in ops:
            if op.name not in found:
                near = [miss.sentence for miss in plan.near if miss.rule == op.name]
                yield self.finding(
                    f"surgery: {op.name}",
                    f"{op.name} is nowhere in the graph" + (f"; nearly {near[0]}" if near else ""),
                    f"remove {op.name} from `surgery`, or see: trtforge surgery RECIPE --explain",
                )
