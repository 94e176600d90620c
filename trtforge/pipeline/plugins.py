"""The plugins of one engine: which of its recipe's `surgery` they are, and what becomes of each on its target."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches

from trtforge import plugins
from trtforge.errors.graph import NoLowering, PluginsOverlap, UnknownPass
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Pass
from trtforge.graph.passes.fix_sizes import FixSizes
from trtforge.graph.passes.registry import available
from trtforge.pipeline.job import Job
from trtforge.scales.table import ScaleTable
from trtforge.surgery.choose import Plan, planned
from trtforge.surgery.op import Op, Situation
from trtforge.targets.load import device_release


@dataclass(frozen=True)
class Planned:
    """``situation``: what the plan was decided by; None without plugins. ``model``: the float graph it is for, with the
    recipe's shapes where there are plugins."""

    plan: Plan
    situation: Situation | None
    model: Model


def steps(job: Job, *, measured: bool = False) -> list[str | Pass]:
    """`surgery` as passes on the float graph: a plugin's place is taken by the pass that it wants there, if any.

    ``measured``: those of the graph that ranges are gathered on.
    """
    ops = plugins.ops()
    found: list[str | Pass] = []
    for name in job.engine.surgery:
        if measured and name in late(job):
            continue
        if name not in ops:
            found.append(name)
        elif (before := ops[name].before) is not None:
            found += [FixSizes({name: spec.shape for name, spec in job.engine.inputs.items()}), before]
    return found


def late(job: Job) -> list[str]:
    """The passes of `surgery` whose graph takes the ranges of the graph without them."""
    known = available()
    return [name for name in job.engine.surgery if name in known and known[name].ranges_from_before]


def used(job: Job) -> list[Op]:
    """The plugins among `surgery`, in its order, each once."""
    return [op for name in dict.fromkeys(job.engine.surgery) if (op := plugins.ops().get(name)) is not None]


def situation(job: Job, scales: ScaleTable | None) -> Situation:
    """What lowerings are chosen by. Asks the compiler's registry, which may take a second."""
    said = job.recipe.recipe.tensorrt
    release = device_release(job.target, said) if said is not None else None
    creators, probed = job.backend.creators(release)
    ranges = None if scales is None else {name: seen.amax for name, seen in scales.ranges.items()}
    return Situation(
        backend=job.backend.name,
        precision=job.engine.precision,
        sm=job.target.sm,
        dla=job.dla is not None,
        tensorrt=release,
        creators=creators,
        probed=probed,
        ranges=ranges,
    )


def plan(job: Job, model: Model, scales: ScaleTable | None) -> Planned:
    """What becomes of each structure in the float model after surgery; nothing without plugins in the recipe.

    Raises PluginsOverlap, NoLowering, with the recipe's line; what the passes raise.
    """
    ops = used(job)
    if not ops:
        return Planned(Plan(), None, model)
    where = situation(job, scales)
    allowed = {str(name): lowerings for name, lowerings in job.engine.plugins.items()}
    shapes = {name: spec.shape for name, spec in job.engine.inputs.items()}
    try:
        found, shaped = planned(model, shapes, ops, allowed, where)
        return Planned(found, where, shaped)
    except NoLowering as error:
        place = job.recipe.place(("engines", job.name, *error.where.split(".")))
        raise NoLowering(error.what, where=place, why=error.why, next=error.next) from error
    except PluginsOverlap as error:
        place = job.recipe.place(("engines", job.name, "surgery"))
        raise PluginsOverlap(error.what, where=place, why=error.why, next=error.next) from error


def explained(job: Job, model: Model) -> Planned:
    """The plan without calibrating for it: ranges of an earlier calibration, or the assumption that all are there."""
    from trtforge.pipeline.prepare import known_scales

    return plan(job, model, known_scales(job, model))


def unknown(job: Job, error: UnknownPass) -> UnknownPass:
    """The error about a name of `surgery`, with the recipe's line, and the plugins among what it could have been."""
    known = (*available(), *plugins.NAMES)
    name = next(name for name in job.engine.surgery if name not in known)
    near = get_close_matches(name, known, n=1)
    return UnknownPass(
        f"there is no surgery pass or plugin {name!r}" + (f"; did you mean {near[0]!r}?" if near else ""),
        where=job.recipe.place(("engines", job.name, "surgery")),
        why=f"{error.why}; plugins: {', '.join(plugins.NAMES)}",
        next=f"write {near[0]!r} instead" if near else error.next,
    )
