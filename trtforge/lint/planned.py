"""What becomes of the plugins that `surgery` names, by NVIDIA's documents alone: linting asks no compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtforge.lint.context import Context
    from trtforge.surgery.choose import Plan
    from trtforge.surgery.op import Op, Situation


def used(context: Context) -> list[Op]:
    """The plugins among `surgery`, in its order, each once."""
    from trtforge import plugins

    return [op for name in dict.fromkeys(context.engine.surgery) if (op := plugins.ops().get(name)) is not None]


def planned(context: Context) -> Plan:
    """The plan for the context's graph and target. Raises NoLowering, PluginsOverlap, and ONX errors of the shapes."""
    from trtforge.surgery.choose import planned as plan

    engine = context.engine
    shapes = {name: spec.shape for name, spec in engine.inputs.items()}
    allowed = {str(name): lowerings for name, lowerings in engine.plugins.items()}
    return plan(context.model, shapes, used(context), allowed, _situation(context))[0]


def _situation(context: Context) -> Situation:
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
