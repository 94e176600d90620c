"""`trtforge tune`: batch, SRAM and streams for a device, measured."""

from __future__ import annotations

import math
import os
import re
import shlex
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.options import Json, NoProgress, Quiet, RecipePath, Set
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtforge.errors.base import TrtforgeError
    from trtforge.pipeline.tune import Tuned
    from trtforge.tune.space import Measured


MOST = {"--batches": 1 << 16, "--streams": 128, "--srams": 1 << 20}
"""Beyond these it is a slip of the keyboard: each stream is a thread and a session, each batch an engine."""

SRAMS = "512,1024"


def register(app: typer.Typer) -> None:
    app.command()(tune)


def tune(
    recipe: RecipePath,
    engine: Annotated[
        str, typer.Option("--only", metavar="ENGINE", help="The engine; needless when there is one")
    ] = "",
    set_: Set = None,
    batches: Annotated[str, typer.Option("--batches", help="Batches to try")] = "1,2,4,8,16,32",
    streams: Annotated[str, typer.Option("--streams", help="Executions at once, of one engine")] = "1,2",
    srams: Annotated[
        str | None, typer.Option("--srams", help=f"KiB of managed SRAM, of an engine on a DLA; default {SRAMS}")
    ] = None,
    latency: Annotated[
        float | None, typer.Option("--latency", help="Longest 99th percentile of an execution, milliseconds")
    ] = None,
    seconds: Annotated[float, typer.Option("--seconds", min=0.01, help="How long each combination is measured")] = 5.0,
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for engines and results; default `tune/<recipe>-<engine>`")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Measure which batch, SRAM and number of streams give most, on the device this runs on.

    GPU and DLA cores are measured alone, then together. The most samples a second wins; within 1 %, the lowest p99.
    Every measurement is kept: stopped and started again, the sweep goes on where it was.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    from trtforge.files import write_bytes, write_json
    from trtforge.pipeline.job import plan
    from trtforge.pipeline.overwrite import job_files, refuse_overwriting
    from trtforge.pipeline.tune import Tuned
    from trtforge.recipe.load import load
    from trtforge.tune.journal import Journal
    from trtforge.tune.report import draw, to_json
    from trtforge.tune.search import search
    from trtforge.tune.space import Combination, Measured, Space

    asked_for = _asked_for(batches, streams, SRAMS if srams is None else srams, latency)
    name = engine or _only_engine(
        load(recipe, overrides=set_ or (), only=[engine] if engine else []).recipe.engines, recipe
    )
    folder = _folder(out or Path("tune") / f"{recipe.stem}-{name}")
    tuned = Tuned(recipe, tuple(set_ or ()), name, folder / "engines", seconds, ui)
    units = tuned.units(*asked_for)
    if srams is not None and all(unit.like != "dla" for unit in units):
        ui.warn(f"--srams is for a DLA, and {tuned.recipe.target.key} has none: it changes nothing")
    places = {unit.name: tuned.recipe_path(unit.name, folder) for unit in units}
    results = [*(folder / each for each in ("result.json", "result.svg")), *places.values()]
    refuse_overwriting([("a result", path) for path in results], job_files(plan(tuned.recipe, only=[name])))
    tuned.check_here()
    space = Space(units, latency)
    journal = Journal(folder / "measurements.jsonl", tuned.facts())
    before = len(journal.done)
    if before:
        ui.log(f"{before} measurements are there from before: {journal.path}")

    def measure(combination: Combination) -> Measured:
        measured = tuned.measure(combination)
        found = measured.problem or f"{measured.rate:.1f} samples/s, p99 {measured.p99:.2f} ms"
        ui.log(f"{combination}: {found}")
        return measured

    remembered, asked = journal.through(measure), dict[Combination, Measured]()

    def noted(combination: Combination) -> Measured:
        asked[combination] = remembered(combination)
        return asked[combination]

    best = search(space, noted)
    done = list(asked.values())  # the journal may have those of other batches and streams too
    if best is None:
        raise _nothing_runs(done, latency, journal.path)
    write_json(folder / "result.json", to_json(done, best, tuned.facts()))
    write_bytes(folder / "result.svg", draw(done, best, f"{name} on {tuned.facts()['device']}").encode())
    recipes = {unit: places[unit] for unit, _ in best.combination.parts}
    for unit, path in recipes.items():
        write_bytes(path, _recipe(tuned, unit, path, best).encode())
    ui.table(
        f"{name}: best of {len(done)} combinations",
        ("unit", "batch", "streams", "SRAM", "samples/s"),
        [
            (unit, each.batch, each.streams, f"{each.sram >> 10} KiB" if each.sram else "-", f"{best.rates[unit]:.1f}")
            for unit, each in best.combination.parts
        ],
        right="batch,streams,samples/s",
    )
    together = "together " if len(recipes) > 1 else ""
    bound = "" if latency is None else f" within a p99 of {latency:g} ms"
    ui.say(f"{together}{best.rate:.1f} samples/s, p99 {best.p99:.2f} ms")
    ui.say(f"chosen: the most samples a second{bound}; of those within 1 % of it, the lowest p99")
    ui.say(f"all of them: {folder}/result.svg, {folder}/result.json")
    for path in recipes.values():
        ui.say(f"its recipe: {path}")
    ui.result(
        "tune",
        {"engine": name, "best": best.to_json() | {"rate": best.rate}, "measured": len(done), "out": str(folder)},
    )


def _nothing_runs(done: Sequence[Measured], latency: float | None, journal: Path) -> TrtforgeError:
    from trtforge.errors.tune import NothingRuns

    what = "nothing was found to run within the bounds"
    if ran := [each.p99 for each in done if not each.problem]:
        why = f"everything takes longer than {latency:g} ms; the shortest p99 is {min(ran):.2f} ms"
        return NothingRuns(what, where=str(journal), why=why, next="allow a longer --latency, or try smaller --batches")
    again = f"mend that, and measure anew: rm {shlex.quote(str(journal))}, and the same command"
    return NothingRuns(what, where=str(journal), why=done[0].problem, next=again)


def _recipe(tuned: Tuned, unit: str, path: Path, best: Measured) -> str:
    """A recipe over the one that was tuned, at this path, which may extend it.

    Its store is its own: by default it would be that of every sweep's `cpu.yaml`, or what the tuned recipe says.
    """
    from trtforge.tune.report import patch

    target = tuned.target_of(unit)
    base = Path(os.path.relpath(tuned.path.resolve(), path.resolve().parent)).as_posix()
    store = f"engines/{f'{path.resolve().parent.name}-{unit}' if path.stem == unit else path.stem}"
    if not re.fullmatch(r"[\w./-]+", store):
        store = dumps(store, ensure_ascii=False)  # a string of JSON is one of YAML
    said = [word for text in tuned.overrides if not text.startswith("store=") for word in ("--set", text)]
    build = shlex.join(["trtforge", "build", str(path), "--only", tuned.engine, *said])
    return patch(
        tuned.engine,
        tuned.shapes,
        unit,
        best,
        head=[f"# Build it: {build}", f"extends: {base}", f"store: {store}"],
        target=target if target != tuned.recipe.target.key else None,
    )


def _only_engine(engines: object, recipe: Path) -> str:
    from trtforge.errors.usage import WrongUsage

    names = list(engines)  # type: ignore[call-overload]
    if len(names) == 1:
        return str(names[0])
    raise WrongUsage(
        "one engine is tuned at a time",
        where=str(recipe),
        why=f"it has {', '.join(names)}",
        next="name it: --only NAME",
    )


def _asked_for(batches: str, streams: str, srams: str, latency: float | None) -> tuple[list[int], list[int], list[int]]:
    """Batches, streams, and bytes of SRAM. Raises WrongUsage."""
    if latency is not None and not (math.isfinite(latency) and latency > 0):
        raise _wrong("--latency takes milliseconds, more than 0", f"{latency:g} was given", "--latency 5")
    kib = _numbers(srams, "--srams")
    return _numbers(batches, "--batches"), _numbers(streams, "--streams"), [size << 10 for size in kib]


def _folder(path: Path) -> Path:
    """A folder, or a place for one. Raises WrongUsage."""
    if path.exists() and not path.is_dir():
        raise _wrong("--out takes a folder", f"{path} is a file", "--out FOLDER")
    return path


def _numbers(text: str, option: str) -> list[int]:
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or min(found) < 1 or max(found) > MOST[option]:
        what = f"{option} takes whole numbers from 1 to {MOST[option]}, separated by commas"
        raise _wrong(what, f"{text[:60]!r} was given", f"{option} 1,2,4")
    return sorted(set(found))


def _wrong(what: str, why: str, next_: str) -> TrtforgeError:
    from trtforge.errors.usage import WrongUsage

    return WrongUsage(what, why=why, next=next_)
