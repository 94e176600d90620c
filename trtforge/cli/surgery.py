"""`trtforge surgery`: the graph a recipe's passes make of a model, and what changed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from trtforge.pipeline.plugins import Planned

from trtforge.cli.options import Json, Only, Quiet, Set
from trtforge.cli.ui import Ui


def register(app: typer.Typer) -> None:
    app.command()(surgery)


def surgery(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe file", show_default=False)] = None,
    only: Only = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the resulting ONNX model here")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the passes and plugins a recipe can name")] = False,
    explain: Annotated[
        bool,
        typer.Option("--explain", help="Every node that changed; where each plugin is, how it is lowered and why"),
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe's surgery and show what changed.

    Says which pass applied, which did not and why, and how the graph differs, in short; --explain and --json have every
    node. Plugins replace structures of that graph when the engine is built, for its target: --explain tells how, and
    what nearly fits. --out writes each as a function, which onnxruntime runs.
    """
    ui = Ui(json=json, quiet=quiet)
    from trtforge.errors.usage import OneEngineNeeded, WrongUsage

    if list_:
        _list(ui)
        return
    if recipe is None:
        raise WrongUsage(
            "missing argument 'RECIPE'",
            why="surgery is of a recipe's model; --list alone needs none",
            next="trtforge surgery --list, or trtforge surgery --help",
        )
    from trtforge.graph.io import save
    from trtforge.pipeline import plugins
    from trtforge.pipeline.job import plan
    from trtforge.pipeline.overwrite import job_files, refuse_overwriting
    from trtforge.pipeline.prepare import surgery as perform
    from trtforge.recipe.load import load
    from trtforge.surgery.choose import as_functions

    jobs = plan(load(recipe, overrides=set_ or (), only=only or ()), only=only or (), progress=ui)
    if len(jobs) != 1 and out is not None:
        raise OneEngineNeeded(
            f"--out writes one model, but the recipe has {len(jobs)} engines",
            where=str(recipe),
            next="choose one: --only " + jobs[0].name,
        )
    if out is not None:
        refuse_overwriting([("the model after surgery", out)], job_files(jobs))
    results = []
    for job in jobs:
        result = perform(job)
        rows = [
            (report.name, "changed" if report.modified else "unchanged", report.reason) for report in result.reports
        ]
        if rows:
            ui.table(f"{job.name}: passes", ("pass", "graph", "what happened"), rows)
        else:
            other = " but plugins" if job.engine.surgery else ""
            ui.say(f"{job.name}: the recipe names no pass{other}; `trtforge surgery --list` has them")
        ui.say(result.diff.to_text(every_node=explain))
        planned = plugins.explained(job, result.model)
        show_plan(ui, job.name, planned, explain=explain)
        if out is not None:
            save(as_functions(planned.model, plugins.used(job)), out)
            ui.say(f"wrote {out}")
        results.append(
            {
                "engine": job.name,
                "passes": [{"name": name, "changed": state == "changed", "reason": why} for name, state, why in rows],
                "diff": result.diff.to_json(),
                "plugins": planned.plan.to_json(),
                "out": str(out) if out else None,
            }
        )
    ui.result("surgery", {"engines": results})


def _list(ui: Ui) -> None:
    from trtforge import plugins
    from trtforge.graph.passes.registry import available

    passes = {name: entry.doc.split("\n\n")[0].replace("\n", " ") for name, entry in available().items()}
    ui.table("Surgery passes", ("name", "what it does"), list(passes.items()))
    ops = {name: (op.summary, ", ".join(op.offers)) for name, op in plugins.ops().items()}
    ui.table("Plugins", ("name", "what it replaces", "lowerings"), [(name, *about) for name, about in ops.items()])
    ui.result(
        "surgery-list",
        {
            "passes": [{"name": name, "summary": summary} for name, summary in passes.items()],
            "plugins": [
                {"name": name, "summary": op.summary, "lowerings": list(op.offers)}
                for name, op in plugins.ops().items()
            ],
        },
    )


def show_plan(ui: Ui, engine: str, planned: Planned, *, explain: bool) -> None:
    """What becomes of each plugin, and which are nowhere.

    With ``explain`` every place and node, every reason, and every near miss as a sentence.
    """
    from trtforge.graph.labels import first_output
    from trtforge.lint.rule import some

    listed: Callable[[Sequence[str]], str] = ", ".join if explain else some
    places: dict[tuple[str, str], list[str]] = {}
    reasons: dict[str, list[str]] = {}
    for choice in planned.plan.choices:
        places.setdefault((choice.op.name, choice.lowering_name), []).append(choice.match.at)
        for name, why in choice.refused:
            reasons.setdefault(f"{choice.op.name}, not {name}: {why}", []).append(choice.match.at)
        if not choice.refused:
            first = f"{choice.op.name}, {choice.lowering_name}: the first choice, and nothing stands in its way"
            reasons.setdefault(first, []).append(choice.match.at)
    rows = [(name, lowering, str(len(at)), listed(at)) for (name, lowering), at in places.items()]
    if rows:
        ui.table(f"{engine}: plugins", ("plugin", "lowering", "how many", "at"), rows)
    told = {miss.rule for miss in planned.plan.near}
    for absent, why in planned.plan.nowhere.items():
        ui.say(f"{absent}: found nowhere" + (f": {why}" if explain and absent not in told else ""))
    if not explain:
        return
    for sentence, at in reasons.items():
        ui.say(f"{sentence} ({listed(at)})")
    for choice in planned.plan.swapped:
        gone = [node for node in planned.model.proto.graph.node if choice.match.swallowed & set(node.output)]
        nodes = ", ".join(f"{node.op_type} {first_output(node)}" for node in gone)
        ui.say(f"{choice.op.name} at {choice.match.at}: in place of {len(gone)} nodes: {nodes}")
    for miss in planned.plan.near:
        ui.say(f"nearly {miss.sentence}")
