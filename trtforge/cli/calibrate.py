"""`trtforge calibrate`: the ranges of a recipe's engines, gathered once on this CPU, as a scales file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.options import Json, NoProgress, Only, Quiet, RecipePath, Set
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from collections.abc import Sequence

    from trtforge.cli.results import CalibratedEngine
    from trtforge.pipeline.job import Job


def register(app: typer.Typer) -> None:
    app.command()(calibrate)


def calibrate(
    recipe: RecipePath,
    only: Only = None,
    set_: Set = None,
    out: Annotated[
        str,
        typer.Option(
            "--out",
            metavar="FOLDER|FILE.json",
            help="Folder for the scales files, one `<engine>.scales.json` each; or the file of one engine",
        ),
    ] = ".",
    fresh: Annotated[bool, typer.Option("--fresh", help="Calibrate again even when the same was done before")] = False,
    native: Annotated[
        bool, typer.Option("--native", help="Let TensorRT's own calibrator gather them, on the device this runs on")
    ] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Gather every tensor's range over the calibration set.

    Streams: memory does not grow with the number of samples, and a killed run continues where it was.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    from trtforge.errors.usage import NothingToCalibrate
    from trtforge.files import check_place, write_bytes
    from trtforge.pipeline.job import plan
    from trtforge.pipeline.native_scales import calibrate as by_tensorrt
    from trtforge.pipeline.overwrite import job_files, refuse_overwriting
    from trtforge.pipeline.prepare import prepare
    from trtforge.recipe.load import load

    results: list[CalibratedEngine] = []
    jobs = plan(load(recipe, overrides=set_ or (), only=only or ()), only=only or (), progress=ui)
    places = _places(out, [job for job in jobs if job.calibration_set is not None])
    # Scales that one engine of the recipe takes and another makes are there to be made anew.
    refuse_overwriting([("the scales", path) for path in places.values()], job_files(jobs, scales=False))
    for path in places.values():
        check_place(path)
    for job in jobs:
        if job.calibration_set is None:
            ui.log(f"{job.name}: no calibration set (precision {job.engine.precision}); skipped")
            continue
        path = places[job.name]
        if native:
            table, reused = by_tensorrt(job, progress=ui), False
            table.save(path)
        else:
            prepared = prepare(job, fresh=fresh, progress=ui)
            assert prepared.scales is not None
            assert prepared.scales_path is not None
            table, reused = prepared.scales, prepared.reused
            write_bytes(path, prepared.scales_path.read_bytes())
        receipt = table.receipt
        assert receipt is not None
        tensors, samples = len(table.ranges), len(receipt.samples)
        ui.say(f"{path}: {tensors} tensors over {samples} samples{' (already calibrated)' if reused else ''}")
        if receipt.uncovered:
            ui.say(f"  no range for {len(receipt.uncovered)} tensors: {', '.join(receipt.uncovered[:5])}")
        results.append(
            {
                "engine": job.name,
                "path": str(path),
                "tensors": tensors,
                "samples": samples,
                "set_digest": receipt.set_digest,
                "uncovered": list(receipt.uncovered),
                "reused": reused,
            }
        )
    if not results:
        raise NothingToCalibrate(
            "no engine of this recipe has a calibration set to gather ranges from",
            where=str(recipe),
            why="an engine is calibrated when it has `precision: int8` and `calibration: {set: ...}`",
            next="add a `calibration` block to the engine; docs/recipes.md shows one",
        )
    ui.result("calibrate", {"engines": results})


def _places(out: str, jobs: Sequence[Job]) -> dict[str, Path]:
    """Where the scales of each engine go. Raises OneEngineNeeded (USE103), OutIsNoFolder (USE108)."""
    from trtforge.cli.places import in_folder, one_engine
    from trtforge.errors.usage import OutIsNoFolder

    if jobs and Path(out).suffix == ".json" and not in_folder(out):
        return {one_engine(out, jobs).name: Path(out)}
    if not in_folder(out) and not Path(out).exists():
        raise OutIsNoFolder(
            f"--out cannot write a {Path(out).suffix} file",
            where=out,
            why="scales go to a folder, one .scales.json an engine, or to the .json file of one engine",
            next=f"--out {Path(out).with_suffix('.json')}, or for a folder of this name --out {out}/",
        )
    return {job.name: Path(out) / f"{job.name}.scales.json" for job in jobs}
