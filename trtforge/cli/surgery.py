"""`trtforge surgery`: the graph a recipe's passes make of a model, and what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli.options import Json, Only, Quiet, Set
from trtforge.cli.ui import Ui


def register(app: typer.Typer) -> None:
    app.command()(surgery)


def surgery(
    recipe: Annotated[Path | None, typer.Argument(metavar="RECIPE", help="A recipe file", show_default=False)] = None,
    only: Only = None,
    set_: Set = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write the resulting ONNX model here")] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the passes a recipe can name")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe's surgery passes and show what changed.

    Says which pass applied, which did not and why, and how the graph differs.
    """
    ui = Ui(json=json, quiet=quiet)
    from trtforge.errors.usage import OneEngineNeeded
    from trtforge.graph.passes.registry import available

    if list_ or recipe is None:
        passes = {name: entry.doc.split("\n\n")[0].replace("\n", " ") for name, entry in available().items()}
        ui.table("Surgery passes", ("name", "what it does"), list(passes.items()))
        ui.result("surgery-list", {"passes": [{"name": name, "summary": summary} for name, summary in passes.items()]})
        return
    from trtforge.graph.io import save
    from trtforge.pipeline.job import plan
    from trtforge.pipeline.prepare import surgery as perform
    from trtforge.recipe.load import load

    jobs = plan(load(recipe, overrides=set_ or ()), only=only or (), progress=ui)
    if len(jobs) != 1 and out is not None:
        raise OneEngineNeeded(
            f"--out writes one model, but the recipe has {len(jobs)} engines",
            where=str(recipe),
            next="choose one: --only " + jobs[0].name,
        )
    results = []
    for job in jobs:
        result = perform(job)
        rows = [
            (report.name, "changed" if report.modified else "unchanged", report.reason) for report in result.reports
        ]
        ui.table(f"{job.name}: passes", ("pass", "graph", "what happened"), rows)
        ui.say(result.diff.to_text())
        if out is not None:
            save(result.model, out)
            ui.say(f"wrote {out}")
        results.append(
            {
                "engine": job.name,
                "passes": [{"name": name, "changed": state == "changed", "reason": why} for name, state, why in rows],
                "diff": result.diff.to_json(),
                "out": str(out) if out else None,
            }
        )
    ui.result("surgery", {"engines": results})
