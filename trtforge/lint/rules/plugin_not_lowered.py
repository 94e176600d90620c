"""PLG101: a plugin that the target takes in no form, or only as the plain graph."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from trtforge.errors.graph import DynamicShape, NoLowering, PluginsOverlap, ShapeMismatch, UnknownInput
from trtforge.lint.rule import Finding, Rule

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.lint.context import Context
    from trtforge.surgery.choose import Plan
    from trtforge.surgery.op import Situation


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
        from trtforge import plugins

        ops = [op for name in context.engine.surgery if (op := plugins.ops().get(name)) is not None]
        if not ops or context.backend == "onnxruntime":
            return
        try:
            plan = _plan(context)
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


def _plan(context: Context) -> Plan:
    from trtforge import plugins
    from trtforge.graph.passes.registry import run
    from trtforge.graph.shapes import freeze_inputs
    from trtforge.surgery.choose import choose

    engine = context.engine
    ops = [op for name in engine.surgery if (op := plugins.ops().get(name)) is not None]
    fixed: Model = freeze_inputs(context.model, {name: tuple(spec.shape) for name, spec in engine.inputs.items()})
    shaped, _ = run(fixed, ["fold-constants", "infer-shapes"])
    allowed = {str(name): lowerings for name, lowerings in engine.plugins.items()}
    return choose(shaped, ops, allowed, _situation(context))


def _situation(context: Context) -> Situation:
    """By NVIDIA's documents: linting asks no compiler."""
    from trtforge.surgery.documented import documented
    from trtforge.surgery.op import Situation

    native = context.backend == "tensorrt"
    return Situation(
        backend=context.backend,
        precision=context.engine.precision,
        sm=context.target.sm,
        dla=context.target.is_dla,
        tensorrt=context.tensorrt,
        creators=documented(context.tensorrt) if native else frozenset(),
        probed=not native,
        ranges=None if context.scales is None else {name: seen.amax for name, seen in context.scales.ranges.items()},
    )
