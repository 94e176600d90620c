"""`trtforge build`: a recipe's engines, built, checked and published; or a kit where only the device can finish."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli import keys, newest
from trtforge.cli.options import Json, NoProgress, Only, Quiet, RecipePath, Set
from trtforge.cli.outcomes import row, show
from trtforge.cli.ui import Ui, shown

if TYPE_CHECKING:
    from trtforge.pipeline.build import KitWish, Outcome
    from trtforge.pipeline.job import Job


def register(app: typer.Typer) -> None:
    app.command()(build)


def build(
    context: typer.Context,
    recipe: RecipePath,
    only: Only = None,
    set_: Set = None,
    store: Annotated[Path | None, typer.Option("--store", help="Engine store; default `engines/<recipe name>`")] = None,
    locked: Annotated[bool, typer.Option("--locked", help="Refuse any drift from trtforge.lock")] = False,
    force: Annotated[bool, typer.Option("--force", help="Build even when an engine of these inputs exists")] = False,
    on: Annotated[
        str | None,
        typer.Option(
            "--on",
            metavar="ssh://USER@HOST",
            help="Compile on this device over SSH and bring the engine back; [:PORT][/PATH/TO/TRTFORGE]",
            show_default=False,
        ),
    ] = None,
    kit: Annotated[bool, typer.Option("--kit", help="Write kits, also where this machine could compile")] = False,
    out: Annotated[
        str | None,
        typer.Option(
            "--out",
            metavar="FILE|FOLDER",
            help="Write kits into this folder, or the kit of one engine to this file; implies --kit",
            show_default=False,
        ),
    ] = None,
    sign: keys.Sign = None,
    no_samples: Annotated[
        bool, typer.Option("--no-samples", help="Kits keep no samples; the device then cannot measure its engine")
    ] = False,
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
    from trtforge.pipeline.job import plan
    from trtforge.recipe.load import load

    _check_options(on, kit, out)
    loaded = load(recipe, overrides=set_ or (), only=only or ())
    jobs = plan(loaded, only=only or (), store=store, progress=ui)
    places = _places(out, jobs, sign)
    wish = _wish(context, jobs, on=on, kit=kit or out is not None, sign=sign, samples=not no_samples)
    pins, jobs = _pins(loaded.path, jobs, locked, here=not wish.wanted, far=on is not None)
    outcomes: list[Outcome] = []
    with _builder(on, wish, places, force, ui) as build_one:
        for job in jobs:
            ui.log(f"{job.name}: {job.engine.precision} for {job.target.key} with {job.backend.name}")
            outcomes.append(build_one(job))
            show(ui, outcomes[-1])
            if locked or not set_:  # an experiment on the command line is not what the recipe stands for
                _pin(ui, pins, job, outcomes[-1], locked)
            newest.tell(ui, job, outcomes[-1], experiment=bool(set_), pinned=locked)
    ui.log(f"done in {time.monotonic() - started:.2f} s")
    ui.result("build", {"recipe": str(recipe), "engines": [row(outcome) for outcome in outcomes]})
    _end(ui, outcomes)


def _check_options(on: str | None, kit: bool, out: str | None) -> None:
    """Raises OptionsContradict (USE112)."""
    from trtforge.errors.usage import OptionsContradict

    if on is not None and (kit or out is not None):
        what = "`--on` finishes the engine on the device; `--kit` and `--out` leave it to you"
        raise OptionsContradict(what, next="give one of them")


def _places(out: str | None, jobs: Sequence[Job], sign: Path | None) -> dict[str, Path]:
    """Where `--out` puts the kit of each engine; nothing without it.

    That they can be written there is asked now: behind hours of calibration it would be late.
    Raises USE103, USE111, OSError.
    """
    from trtforge.cli.places import in_folder, one_engine
    from trtforge.engines.kit import SUFFIX
    from trtforge.files import check_place
    from trtforge.pipeline.overwrite import job_files, refuse_overwriting

    if out is None:
        return {}
    if in_folder(out):
        places = {job.name: Path(out) / f"{job.name}{SUFFIX}" for job in jobs}
    else:
        places = {one_engine(out, jobs).name: Path(out)}
    refuse_overwriting([("the kit", path) for path in places.values()], [*job_files(jobs), ("the key", sign)])
    for path in places.values():
        check_place(path)
    return places


def _wish(
    context: typer.Context, jobs: Sequence[Job], *, on: str | None, kit: bool, sign: Path | None, samples: bool
) -> KitWish:
    """What is said about kits; the key to sign with is loaded only where there can be one.

    Raises USE100, ENG135, ENV101.
    """
    from trtforge.pipeline.build import KitWish, needs_device

    if not (kit or on is not None or any(needs_device(job) for job in jobs)):
        keys.check_unused(context, "no kit is written: this machine compiles every engine itself")
        sign = None
    return KitWish(kit, None, keys.signer(sign), samples)


def _pins(recipe: Path, jobs: Sequence[Job], locked: bool, *, here: bool, far: bool) -> tuple[Path, list[Job]]:
    """The lock beside the recipe; with `--locked` nothing differs from it, and the jobs have what it pins.

    ``here``, ``far``: may this machine compile, does a device? Raises ENG errors of the lock.
    """
    from trtforge.engines import lock

    path = lock.lock_path(recipe)
    lock.read(path)  # a damaged one is said before the work, not after it
    if not locked:
        return path, list(jobs)
    from trtforge.pipeline.build import needs_device
    from trtforge.pipeline.timing import pinned

    held = []
    for job in jobs:
        pins = lock.check(path, recipe.name, job.name, lock.Pins.of(job.key_inputs))
        compiles = far or (here and not needs_device(job))
        held.append(replace(job, timing=pinned(job, pins, path, compiles=compiles)))
    return path, held


@contextmanager
def _builder(
    on: str | None, wish: KitWish, places: Mapping[str, Path], force: bool, ui: Ui
) -> Iterator[Callable[[Job], Outcome]]:
    """What builds one job: this machine, or a device that stays connected from one engine to the next."""
    if on is None:
        from trtforge.pipeline.build import build as build_here

        yield lambda job: build_here(job, force=force, kit=replace(wish, path=places.get(job.name)), progress=ui)
        return
    from trtforge.device.address import parse
    from trtforge.device.build import build_on
    from trtforge.device.link import Link

    with Link(parse(on), progress=ui) as link:
        yield lambda job: build_on(job, link, force=force, kit=wish, progress=ui)


def _end(ui: Ui, outcomes: Sequence[Outcome]) -> None:
    """Exit with 10 when engines wait for their device without having been asked to."""
    from trtforge.errors.backend import NeedsDevice

    kits = [outcome for outcome in outcomes if outcome.status == "kit" and outcome.why]
    if not kits:
        return
    from trtforge.engines.kit import read_kit

    last = kits[-1]
    again = shlex.join(["trtforge", *sys.argv[1:], "--on", "ssh://USER@HOST"])  # with all that was said here
    device, by_hand = last.job.target.name, read_kit(last.path).info.facts["on_device"]
    without = f"\nor, where trtforge is not installed, unpack it (tar -xf), and run: {by_hand}" if by_hand else ""
    ui.end(
        NeedsDevice(
            f"the engine waits for the device: {device}"
            if len(kits) == 1
            else f"{len(kits)} of {len(outcomes)} engines wait for the device: {device}",
            where=", ".join(str(outcome.path) for outcome in kits),
            why=last.why,
            next=f"{again}\nor copy the kit there, and run: trtforge finish {last.path.name}{without}",
        )
    )


def _pin(ui: Ui, path: Path, job: Job, outcome: Outcome, locked: bool) -> None:
    """Write the build's inputs to the lock; say which differ from those of the last build.

    With `--locked` the engine's timing cache must be the pinned one: an engine that was there may have another.
    Raises ENG121, ENG122, ENG123.
    """
    from trtforge.engines import lock
    from trtforge.errors.engine import LockUnreadable

    recipe, pins = job.recipe.path.name, lock.Pins.of(job.key_inputs)
    if outcome.version is not None:
        pins = pins.timed(job.store.get(job.name, outcome.version).manifest.report)
    if locked:
        lock.check(path, recipe, job.name, pins)
        return
    before = lock.read(path).pins(recipe, job.name)
    pinned = before is not None
    if before is not None and outcome.version is None and before.untimed() == pins:
        return  # a kit: the times of the engine that was last made of these inputs still hold
    try:
        drifts = lock.update(path, recipe, job.name, pins)
    except LockUnreadable as error:  # the engine is published; that its inputs are not pinned is no failure of it
        ui.warn(f"{job.name}: inputs not pinned, {error.what}: {error.why}")
        return
    if drifts and not pinned:
        ui.log(f"{job.name}: inputs pinned in {shown(path)}")
    for drift in drifts if pinned else ():
        ui.log(f"{path.name}: {drift}")
