"""`trtforge lint`: what will go wrong with a recipe on its target, said before anything is built."""

from __future__ import annotations

import typer

from trtforge.cli.options import Json, Only, Quiet, RecipePath, Set
from trtforge.cli.ui import Ui


def register(app: typer.Typer) -> None:
    app.command()(lint)


def lint(recipe: RecipePath, only: Only = None, set_: Set = None, json: Json = False, quiet: Quiet = False) -> None:
    """Check model, recipe and target against each other.

    Exit code 11 when a finding is an error.
    """
    ui = Ui(json=json, quiet=quiet)
    from trtforge.errors.usage import LintFailed
    from trtforge.lint.run import lint as check
    from trtforge.pipeline.job import plan
    from trtforge.pipeline.prepare import surgery
    from trtforge.recipe.load import load
    from trtforge.scales.table import ScaleTable

    results = []
    errors = 0
    for job in plan(load(recipe, overrides=set_ or ()), only=only or (), progress=ui):
        said = job.recipe.recipe
        scales = ScaleTable.load(job.scales_file) if job.scales_file else None
        model = surgery(job).model
        findings = check(
            model,
            job.engine,
            job.target,
            scales,
            backend=said.backend,
            tensorrt=said.tensorrt,
            root=job.recipe.root,
        )
        errors += sum(finding.severity == "error" for finding in findings)
        if findings:
            rows = [(f.code, f.severity, f.where, f.message, f.fix) for f in findings]
            ui.table(f"{job.name} on {job.target.key}", ("code", "severity", "where", "finding", "fix"), rows)
        else:
            ui.say(f"{job.name} on {job.target.key}: nothing to report")
        results.append({"engine": job.name, "findings": [finding.to_json() for finding in findings]})
    ui.result("lint", {"recipe": str(recipe), "errors": errors, "engines": results})
    if errors:
        ui.end(
            LintFailed(
                "a finding is an error" if errors == 1 else f"{errors} findings are errors",
                where=str(recipe),
                why="an engine built from this recipe would fail or be wrong on its target",
                next="follow the `fix` column; `trtforge explain CODE` has the whole story of each",
            )
        )
