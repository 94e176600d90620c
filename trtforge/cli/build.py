"""`trtforge build`: a recipe's engines, built, checked and published; or a kit where only the device can finish."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.options import Json, NoProgress, Only, Quiet, RecipePath, Set
from trtforge.cli.ui import Ui, shown

if TYPE_CHECKING:
    from trtforge.cli.results import BuiltEngine
    from trtforge.pipeline.build import Outcome
    from trtforge.pipeline.job import Job


def register(app: typer.Typer) -> None:
    app.command()(build)


def build(
    recipe: RecipePath,
    only: Only = None,
    set_: Set = None,
    store: Annotated[Path | None, typer.Option("--store", help="Engine store; default `engines/<recipe name>`")] = None,
    locked: Annotated[bool, typer.Option("--locked", help="Refuse any drift from trtforge.lock")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even when an engine of these inputs exists")] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Build, check and publish the engines of a recipe.

    Surgery, calibration and compilation happen here when they can. Where only the device can compile, all the
    rest is done, a kit is written, and the exit code is 10.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    started = time.monotonic()
    from trtforge.engines import lock
    from trtforge.errors.backend import NeedsDevice
    from trtforge.pipeline.build import build as build_one
    from trtforge.pipeline.job import plan
    from trtforge.recipe.load import load

    loaded = load(recipe, overrides=set_ or ())
    jobs = plan(loaded, only=only or (), store=store, progress=ui)
    pins = lock.lock_path(loaded.path)
    lock.read(pins)  # a damaged one is said before the work, not after it
    if locked:
        for job in jobs:
            lock.check(pins, loaded.path.name, job.name, lock.Pins.of(job.key_inputs))
    outcomes: list[Outcome] = []
    for job in jobs:
        ui.log(f"{job.name}: {job.engine.precision} for {job.target.key} with {job.backend.name}")
        outcomes.append(build_one(job, force=force, progress=ui))
        _show(ui, outcomes[-1])
        if not locked and not set_:  # an experiment on the command line is not what the recipe stands for
            _pin(ui, pins, job)
    ui.log(f"done in {time.monotonic() - started:.2f} s")
    ui.result("build", {"recipe": str(recipe), "engines": [_row(outcome) for outcome in outcomes]})
    kits = [outcome.path for outcome in outcomes if outcome.status == "kit"]
    if kits:
        from trtforge.engines.kit import read_kit

        ui.end(
            NeedsDevice(
                f"the engine waits for the device: {outcomes[-1].job.target.name}"
                if len(kits) == 1
                else f"{len(kits)} of {len(outcomes)} engines wait for the device: {outcomes[-1].job.target.name}",
                where=", ".join(map(str, kits)),
                why=outcomes[-1].why,
                next=f"copy the kit there, unpack it (tar -xf), and run: {read_kit(kits[-1]).facts['on_device']}",
            )
        )


def _pin(ui: Ui, path: Path, job: Job) -> None:
    """Write the build's inputs to the lock; say which differ from those of the last build."""
    from trtforge.engines import lock
    from trtforge.errors.engine import LockUnreadable

    recipe = job.recipe.path.name
    pinned = lock.read(path).pins(recipe, job.name) is not None
    try:
        drifts = lock.update(path, recipe, job.name, lock.Pins.of(job.key_inputs))
    except LockUnreadable as error:  # the engine is published; that its inputs are not pinned is no failure of it
        ui.warn(f"{job.name}: inputs not pinned, {error.what}: {error.why}")
        return
    if drifts and not pinned:
        ui.log(f"{job.name}: inputs pinned in {shown(path)}")
    for drift in drifts if pinned else ():
        ui.log(f"{path.name}: {drift}")


def _show(ui: Ui, outcome: Outcome) -> None:
    if outcome.status == "up-to-date":
        ui.say(f"{outcome.path}: up to date, nothing to do")
        return
    done = "kit prepared, compilation needs the device" if outcome.status == "kit" else outcome.status
    ui.say(f"{outcome.path}: {done}")
    for line in outcome.facts:
        ui.say(f"  {line}")


def _row(outcome: Outcome) -> BuiltEngine:
    return {
        "engine": outcome.job.name,
        "target": outcome.job.target.key,
        "backend": outcome.job.backend.name,
        "status": outcome.status,
        "path": str(outcome.path),
        "version": outcome.version,
        "key": outcome.job.key,
        "seconds": round(outcome.seconds, 3),
        "parity": dict(outcome.parity) if outcome.parity else None,
    }
