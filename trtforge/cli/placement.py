"""What `trtforge lint` shows of a placement: the table of nodes, the loadables, the page, and what surgery would do."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.cli.ui import Ui
from trtforge.lint.dla.sizes import sized

if TYPE_CHECKING:
    from trtforge.graph.passes.registry import PassReport
    from trtforge.lint.context import Context
    from trtforge.lint.dla.placement import NodePlace, Placement
    from trtforge.lint.dla.rewrites import Rewrite
    from trtforge.lint.rule import Finding
    from trtforge.pipeline.job import Job

ESTIMATE = "an estimate from the graph; `can_run_on_DLA` of the device's own TensorRT has the last word"


@dataclass(frozen=True)
class Fixed:
    """A job with more passes in its `surgery`. ``reports``: of the passes that were added and did something."""

    job: Job
    context: Context
    surgery: list[str]
    reports: list[tuple[Rewrite, PassReport]]


def examined(job: Job) -> Context:
    """The job's float graph after surgery, for lint; ranges are those the recipe names or an earlier calibration's.

    Raises ONX and CAL errors.
    """
    from trtforge.pipeline.prepare import surgery

    return _context(job, surgery(job).model)


def _context(job: Job, model: Any) -> Context:
    from trtforge.pipeline import linted
    from trtforge.pipeline.prepare import known_scales
    from trtforge.scales.table import ScaleTable

    if job.target.is_dla:
        scales = known_scales(job, model)
    else:
        scales = ScaleTable.load(job.scales_file) if job.scales_file is not None else None
    return linted.context(job, model, scales=scales, root=job.recipe.root)


def fix(job: Job, context: Context) -> Fixed | None:
    """The job with the passes that bring it closer to the DLA, each tried behind those kept before it.

    None when none does. Raises ONX errors.
    """
    from trtforge.lint.dla.rewrites import helps, merged, with_shapes, worth_trying
    from trtforge.pipeline.prepare import surgery

    best: Fixed | None = None
    for rewrite in worth_trying(context):
        kept, seen = ([], context) if best is None else (best.reports, best.context)
        names = with_shapes(merged(job.engine.surgery, [*(one.name for one, _ in kept), rewrite.name]))
        tried = _with(job, names)
        result = surgery(tried)
        report = next(report for report in result.reports if report.name == rewrite.name)
        after = _context(tried, result.model)
        if report.modified and helps(rewrite, seen, after):
            best = Fixed(tried, after, names, [*kept, (rewrite, report)])
    return best


def _with(job: Job, surgery: list[str]) -> Job:
    return replace(job, engine=job.engine.model_copy(update={"surgery": tuple(surgery)}))


def summary(placement: Placement) -> str:
    """One line: how many nodes run where, and in how many pieces."""
    counts = placement.counts
    pieces = len(placement.loadables)
    there = counts.get("dla", 0)
    some = f"{there} node{'' if there == 1 else 's'} on the DLA in {pieces} loadable{'' if pieces == 1 else 's'}"
    parts = [some if pieces else "no node on the DLA"]
    between = sum(place.cuts for place in placement.places)
    between_them = f" ({between} between loadables)" if between and pieces > 1 else ""
    parts += [f"{counts['gpu']} on the GPU{between_them}"] if counts.get("gpu") else []
    parts += [f"{counts['refused']} nowhere, GPU fallback is off"] if counts.get("refused") else []
    parts += [f"{counts['folded']} folded away"] if counts.get("folded") else []
    return ", ".join(parts)


def show(ui: Ui, title: str, placement: Placement) -> None:
    """The loadables, then every node that is not folded away, in the graph's order."""
    rows = [
        (
            str(one.number),
            str(len(one.nodes)),
            _named(one.nodes[0]),
            _named(one.nodes[-1]),
            sized(one.weights),
            sized(one.largest),
            sized(one.total),
            "?" if one.batch is None else str(one.batch),
        )
        for one in placement.loadables
    ]
    if rows:
        heads = ("loadable", "nodes", "from", "to", "weights", "largest tensor", "all tensors", "batch")
        right = "nodes,weights,largest tensor,all tensors,batch"
        ui.table(f"{title}: loadables", heads, rows, right=right)
    nodes = [
        (place.name, place.node.op_type, _where(place), str(place.loadable or ""), place.reason)
        for place in placement.places
        if place.device != "folded"
    ]
    ui.table(f"{title}: placement", ("node", "operator", "runs on", "loadable", "why"), nodes, right="loadable")
    ui.say(f"{summary(placement)}; {ESTIMATE}")
    if placement.note:
        ui.say(placement.note)


def _where(place: NodePlace) -> str:
    if place.device == "dla":
        return f"DLA {place.precision}"
    return "GPU" if place.device == "gpu" else "nowhere"


def _named(node: Any) -> str:
    from trtforge.graph.labels import label

    return label(node)


def show_fix(ui: Ui, name: str, before: Placement, fixed: Fixed) -> None:
    """The passes, the line for the recipe, and the placement before and after."""
    rows = [
        (rewrite.name, rewrite.why, report.reason, "yes: verify" if rewrite.values else "no")
        for rewrite, report in fixed.reports
    ]
    ui.table(f"{name}: surgery that helps", ("pass", "why", "what it does here", "changes values"), rows)
    again = ", then calibrate again" if fixed.job.engine.precision == "int8" else ""
    ui.say(f"put this into the recipe{again}:")
    ui.say(f"  surgery: [{', '.join(fixed.surgery)}]")
    for when, placement in (("now:  ", before), ("after:", fixed.context.placement)):
        fused = len(placement.fusions)
        ui.say(f"{when}  {summary(placement)}; {fused} convolution{'' if fused == 1 else 's'} fused with what follows")


def fix_json(fixed: Fixed | None, findings: Iterable[Finding]) -> dict[str, Any]:
    """``surgery`` null: nothing was found that helps."""
    if fixed is None:
        return {"surgery": None, "passes": [], "findings": []}
    return {
        "surgery": fixed.surgery,
        "passes": [
            {"name": rewrite.name, "why": rewrite.why, "reason": report.reason, "changes_values": rewrite.values}
            for rewrite, report in fixed.reports
        ],
        "findings": [finding.to_json() for finding in findings],
    }


def write_page(path: Path, job: Job, context: Context, findings: list[Finding], fixed: Fixed | None) -> None:
    """The coloured graph as one HTML file; with ``fixed`` it is that of another recipe, and says so. Raises OSError."""
    from trtforge.report.placement import PlacementPage, write_placement

    placement, said = context.placement, job.recipe.recipe
    version = f", TensorRT {said.tensorrt}" if said.tensorrt else ""
    title = f"{job.name} on {job.target.key}{version}"
    note = f"{ESTIMATE[0].upper()}{ESTIMATE[1:]}. {placement.note}".strip().replace("`", "")
    if fixed is not None:
        title = f"{title}, after the fix"
        passes = ", ".join(rewrite.name for rewrite, _ in fixed.reports)
        behind = f"Shown is the network behind {passes}, which the recipe does not have yet, and what lint finds there"
        note = f"{behind}: surgery: [{', '.join(fixed.surgery)}]. {note}"
    page = PlacementPage(title, summary(placement), note, context.model.proto.graph, placement, findings)
    write_placement(path, page)
