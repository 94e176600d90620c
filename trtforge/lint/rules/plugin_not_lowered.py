"""PLG101: a plugin that the target takes in no form, or only as the plain graph, or that has nothing to replace."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.errors.graph import DynamicShape, NoLowering, PluginsOverlap, ShapeMismatch, UnknownInput
from trtforge.lint.planned import used
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.surgery.choose import Choice


class PluginNotLowered(Rule):
    """What it does
        Looks for the plugins of `surgery` in the graph and for what may stand for each on the target, before any build:
        head sizes and sequence lengths that no kernel has, plugins that the TensorRT release does not have, tensors
        without a range, channels that do not fill a group of 32. Tells also of plugins that are nowhere in the graph.

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
        if not used(context):
            return
        try:
            plan = context.plugin_plan
        except (NoLowering, PluginsOverlap) as error:
            yield self.finding(error.where, f"{error.what}: {error.why}", error.next, severity="error")
            return
        except (UnknownInput, ShapeMismatch, DynamicShape):  # the GRF rules tell of these
            return
        counts = Counter(choice.op.name for choice in plan.choices)
        together: dict[tuple[str, ...], list[Choice]] = {}
        for choice in plan.choices:
            if choice.lowering is None and choice.refused and context.backend != "onnxruntime":  # which has no plugins
                alike = (choice.op.name, *(_stem(reason) for _, reason in choice.refused))
                together.setdefault(alike, []).append(choice)
        for (name, *_), choices in together.items():
            which = name if counts[name] == 1 else f"{name} at {len(choices)} of its {counts[name]} places"
            message = f"{which} stays as the plain graph ({_reasons(choices)})"
            fix = f"nothing, if that is meant; else change what stands in the way, or remove {name}"
            yield self.finding([choice.match.at for choice in choices], message, fix)
        for name, why in plan.nowhere.items():
            fix = f"remove {name} from `surgery`, or see: trtforge surgery RECIPE --explain"
            yield self.finding(f"surgery: {name}", f"{name} is nowhere in the graph: {why}", fix)


def _stem(reason: str) -> str:
    """What reasons have in common that differ in the size at their end."""
    return reason.rstrip("0123456789")


def _reasons(choices: list[Choice]) -> str:
    """Why each lowering was refused, with all the sizes that the places have there."""
    told = []
    for position, (lowering, reason) in enumerate(choices[0].refused):
        stem = _stem(reason)
        sizes = sorted({int(choice.refused[position][1][len(stem) :] or 0) for choice in choices})
        told.append(f"{lowering}: {stem}{', '.join(map(str, sizes))}" if stem != reason else f"{lowering}: {reason}")
    return "; ".join(told)
