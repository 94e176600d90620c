"""`trtforge lint`: what will go wrong with a recipe on its target, said before anything is built."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.options import Json, Only, Quiet, RecipePath, Set
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtforge.lint.rule import Finding
    from trtforge.pipeline.job import Job


WISHES = {
    "--placement": "it shows which layers the DLA runs and which the GPU must take",
    "--html": "the page shows which layers the DLA runs and which the GPU must take",
    "--fix": "it looks for surgery passes that bring more layers to the DLA; elsewhere all run on the one processor",
}


def register(app: typer.Typer) -> None:
    app.command()(lint)


def lint(
    recipe: RecipePath,
    only: Only = None,
    set_: Set = None,
    placement: Annotated[
        bool, typer.Option("--placement", help="Show which node runs on the DLA, which on the GPU, and why")
    ] = False,
    html: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the placement as a coloured graph, one page")
    ] = None,
    fix: Annotated[
        bool, typer.Option("--fix", help="Try the surgery passes that help on a DLA, and print the line for the recipe")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Check model, recipe and target against each other.

    Nothing is built and nothing of yours is changed. With --fix the placement and the page are those after the
    rewrites; the findings printed are always about the recipe as it stands. Exit code 11 when one is an error.
    """
    ui = Ui(json=json, quiet=quiet)
    from trtforge.errors.usage import LintFailed
    from trtforge.pipeline.job import plan
    from trtforge.recipe.load import load

    jobs = plan(load(recipe, overrides=set_ or (), only=only or ()), only=only or (), progress=ui)
    _check_wishes(recipe, jobs, html, only or (), placement=placement, fix=fix)
    results = [_one(ui, job, html, placement=placement, fix=fix) for job in jobs]
    errors = sum(finding["severity"] == "error" for result in results for finding in result["findings"])
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


def _check_wishes(
    recipe: Path, jobs: list[Job], html: Path | None, only: Sequence[str], *, placement: bool, fix: bool
) -> None:
    """A placement needs a DLA; a page shows one engine and is a file of its own. Raises USE103, USE111, USE114."""
    from trtforge.errors.usage import NoPlacement, OneEngineNeeded
    from trtforge.pipeline.overwrite import job_files, refuse_overwriting

    wished = [name for name, said in (("--placement", placement), ("--html", html), ("--fix", fix)) if said]
    if wished and not jobs[0].target.is_dla:
        raise NoPlacement(
            f"{wished[0]} is for a DLA, and the recipe's target is {jobs[0].target.key}",
            where=str(recipe),
            why=WISHES[wished[0]],
            next=f"try it for a DLA: {_on_a_dla(recipe, jobs, wished, html, only)}",
        )
    if html is not None and len(jobs) != 1:
        raise OneEngineNeeded(
            f"--html writes one page, but the recipe has {len(jobs)} engines",
            where=str(recipe),
            next="choose one: --only " + jobs[0].name,
        )
    if html is not None:
        refuse_overwriting([("the page", html)], job_files(jobs))


def _on_a_dla(recipe: Path, jobs: list[Job], wished: list[str], html: Path | None, only: Sequence[str]) -> str:
    """The command at hand for another target; a DLA computes in no FP32."""
    from trtforge.recipe.document import dotted

    options = [word for name in wished for word in ([name, str(html)] if name == "--html" else [name])]
    sets = [*jobs[0].recipe.overrides, "target=orin-agx-64gb/dla", "backend=tensorrt", 'tensorrt="8.6"']
    sets += [f"{dotted(('engines', job.name, 'precision'))}=fp16" for job in jobs if job.engine.precision == "fp32"]
    named = [word for name in only for word in ("--only", name)]
    return shlex.join(["trtforge", "lint", str(recipe), *named, *options, *(w for one in sets for w in ("--set", one))])


def _one(ui: Ui, job: Job, html: Path | None, *, placement: bool, fix: bool) -> dict[str, Any]:
    """Everything about one engine, printed and as its part of the result."""
    from trtforge.cli import placement as placed
    from trtforge.lint.run import findings as check

    context = placed.examined(job)
    found = check(context)
    title = f"{job.name} on {job.target.key}"
    if found:
        ui.table(title, ("code", "severity", "where", "finding", "fix"), _rows(found))
    else:
        ui.say(f"{title}: nothing to report")
    result: dict[str, Any] = {"engine": job.name, "findings": [finding.to_json() for finding in found]}
    shown, shown_findings, fixed = context, found, placed.fix(job, context) if fix else None
    if fix:
        if fixed is not None:
            placed.show_fix(ui, job.name, context.placement, fixed)
            shown, shown_findings = fixed.context, check(fixed.context)
        else:
            ui.say("no surgery pass that is not in the recipe yet would help")
        result["fix"] = placed.fix_json(fixed, shown_findings)
    if placement:
        placed.show(ui, f"{title}, after the fix" if shown is not context else title, shown.placement)
        result["placement"] = shown.placement.to_json()
    if html is not None:
        placed.write_page(html, job, shown, shown_findings, fixed)
        ui.say(f"wrote {html}" + (": the network behind these passes, and what is found there" if fixed else ""))
    return result


def _rows(found: list[Finding]) -> list[tuple[str, ...]]:
    return [(one.code, one.severity, one.where, one.message, one.fix) for one in found]
