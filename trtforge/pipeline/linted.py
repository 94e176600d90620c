"""What lint says of a job: all of it for `trtforge lint`, and before a build what needs only graph and recipe."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from trtforge.errors.base import TrtforgeError
from trtforge.errors.usage import LintFailed
from trtforge.graph.model import Model
from trtforge.pipeline.job import Job
from trtforge.progress import Progress
from trtforge.recipe.document import display
from trtforge.scales.table import ScaleTable

if TYPE_CHECKING:
    from pathlib import Path

    from trtforge.lint.context import Context
    from trtforge.lint.rule import Finding

FINAL = "GRF"
"""Codes of findings about the graph and its inputs: no device overrules them, so a build ends with them."""


def context(job: Job, model: Model, *, scales: ScaleTable | None, root: Path | None) -> Context:
    """What rules look at, of the float graph after surgery. ``root``: as in `lint.run.examine`."""
    from trtforge.lint.run import examine

    said = job.recipe.recipe
    return examine(model, job.engine, job.target, scales, said.backend, said.tensorrt, root=root)


def check(job: Job, model: Model, scales: ScaleTable | None, progress: Progress) -> None:
    """Say in one line how many errors and warnings lint finds, and which command shows them.

    Looks at no sample and asks no compiler: 0.2 s for a network of hundreds of nodes. Raises LintFailed (LNT101) for
    what is wrong whatever the device says.
    """
    from trtforge.lint.run import findings

    try:
        looked_at = context(job, model, scales=scales, root=None)
        found = [one for one in findings(looked_at) if one.severity != "hint"]
    except TrtforgeError:
        return  # what keeps lint from looking stops the build itself, with its own words
    # An operator that only TensorRT has to know may be a plugin in the device's own library, or in one for trtexec.
    open_ones = {"GRF110"} if looked_at.backend == "tensorrt" and not looked_at.onnxruntime_reads else set()
    errors = [one for one in found if one.severity == "error" and one.code not in open_ones]
    if final := [one for one in errors if one.code.startswith(FINAL)]:
        raise _failed(job, final)
    if found:
        codes = ", ".join(sorted({one.code for one in found}))
        wrong = any(one.severity == "error" for one in found)
        so = ", with which it fails or is wrong on its target" if wrong else ""
        progress.warn(f"{job.name}: lint finds {_counted(found)} ({codes}){so}; see: {command(job)}")


def command(job: Job) -> str:
    """What lints the job as it is, with the `--set` of the command at hand."""
    said = [word for text in job.recipe.overrides for word in ("--set", text)]
    return shlex.join(["trtforge", "lint", display(job.recipe.path), "--only", job.name, *said])


def _counted(found: list[Finding]) -> str:
    counts = {kind: sum(one.severity == kind for one in found) for kind in ("error", "warning")}
    return " and ".join(f"{count} {kind}{'s' if count > 1 else ''}" for kind, count in counts.items() if count)


def _failed(job: Job, final: list[Finding]) -> LintFailed:
    first, *others = final
    more = f"; lint finds {len(others)} more error{'s' if len(others) > 1 else ''}" if others else ""
    return LintFailed(
        f"{first.where}: {first.message}",
        where=f"{display(job.recipe.path)}: engines.{job.name}",
        why=f"the lint rule {first.code} says so of every device: trtforge explain {first.code}{more}",
        next=f"{first.fix}\nall that lint finds: {command(job)}",
    )
