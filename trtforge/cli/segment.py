"""`trtforge run` on an engine that segments volumes: its table, its summary, its refusals."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.cli.table import NO_BREAK
from trtforge.cli.ui import Ui, counted, shown
from trtforge.errors.usage import OneScanOnly
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.engines.store import EngineVersion
    from trtforge.errors.base import TrtforgeError
    from trtforge.pipeline.cohort import Cohort
    from trtforge.pipeline.volumes import VolumesReport


def segment(
    ui: Ui,
    version: EngineVersion,
    scans: list[str],
    *,
    out: Path | None,
    out_dir: Path | None,
    truth: str | None,
    pictures: bool,
    single: Mapping[str, Path | None],
    overrides: dict[str, Any],
    compare_with_fp32: bool,
    model: Path | None,
) -> None:
    """``single``: places of the only scan's probabilities, picture and page."""
    from trtforge.pipeline.overwrite import engine_files
    from trtforge.pipeline.requests import expand, from_set, requests
    from trtforge.pipeline.volumes import run_volumes

    listed = from_set(Path(scans[0]), version) if len(scans) == 1 and scans[0].endswith((".yaml", ".yml")) else None
    paths = expand(scans) if listed is None else list(listed)
    _check_single(paths, out_dir, {"out": out, **single}, pictures)
    wanted = requests(
        paths,
        out_dir=out_dir,
        labels=out,
        truth=truth,
        truths=listed or {},
        read=[("the sample set", Path(scans[0]) if listed is not None else None), *engine_files(version, model)],
        probabilities=single["probabilities"],
        picture=single["picture"],
        page=single["html"],
    )
    if pictures and out_dir is not None:
        wanted = [replace(request, picture=out_dir / f"{request.name}.png") for request in wanted]
    report = run_volumes(
        version,
        wanted,
        out_dir=out_dir,
        overrides=overrides,
        compare_with_fp32=compare_with_fp32,
        model=model,
        progress=ui,
    )
    _show(ui, report, out_dir)
    if report.seen_in_calibration:
        seen = ", ".join(report.seen_in_calibration[:3])
        count = len(report.seen_in_calibration)
        were = "was" if count == 1 else "were"
        ui.warn(f"{count} of {counted(len(wanted), 'scan')} {were} used for calibration: {seen}")
    ui.result("run-volumes", report.to_json())
    if (error := report.error()) is not None:
        ui.end(error)


def _check_single(paths: list[Path], out_dir: Path | None, named: Mapping[str, Path | None], pictures: bool) -> None:
    """Options that name one file are for one scan; those of several go to a folder. Raises USE110."""
    given = [f"--{name}" for name, path in named.items() if path is not None]
    if (len(paths) > 1 or out_dir is not None) and given:
        raise OneScanOnly(
            f"{given[0]} names one file",
            where=counted(len(paths), "scan") + (f", --out-dir {out_dir}" if out_dir else ""),
            why="results of several scans go to a folder",
            next="--out-dir FOLDER" + (" --pictures" if "--picture" in given else ""),
        )
    if pictures and out_dir is None:
        raise OneScanOnly(
            "--pictures has no folder to write to",
            why="it adds a picture of each scan to the labels in --out-dir",
            next="--out-dir FOLDER --pictures, or --picture FILE.png for one scan",
        )


def _show(ui: Ui, report: VolumesReport, out_dir: Path | None) -> None:
    manifest, cohort = report.version.manifest, report.cohort
    ui.say(f"{report.version.path}: {manifest.recipe['precision']} by {manifest.backend}, for {manifest.target.key}")
    if cohort.results:
        _table(ui, cohort)
        done = [result for result in cohort.results if not result.reused]
        windows, seconds = sum(r.windows for r in done), sum(r.seconds for r in done)
        peak = "" if report.peak_memory is None else f"; peak memory {human_bytes(report.peak_memory)}, all included"
        if done:
            share = 1 - sum(r.engine_seconds for r in done) / seconds
            loop = (
                "on the GPU" if done[0].loop == "gpu" else f"{share:.1%} of it outside the engine ({done[0].loop} loop)"
            )
            ui.say(f"{counted(windows, 'window')} in {seconds:.1f} s, {windows / seconds:.2f} a second; {loop}{peak}")
        if len(done) < len(cohort.results):
            ui.say(f"{len(cohort.results) - len(done)} finished earlier, taken from {out_dir}")
        for result in cohort.results if out_dir is None else ():
            for name, path in result.outputs.items():
                ui.say(f"{shown(path)}: {name}")
    if out_dir is not None:
        labelled = counted(len(cohort.results), "scan")
        ui.say(f"{out_dir}: labels of {labelled}; summary.json and summary.csv have all finished ones")
    tell_failures(ui, cohort.failed)


def tell_failures(ui: Ui, failed: Mapping[str, TrtforgeError]) -> None:
    """Every scan that failed, in full: its warning was a line among others, and may be an hour old.

    What differs in its place alone is told once: a half-fetched data set lacks dozens.
    """
    from trtforge.pipeline.cohort import first

    alike: dict[tuple[str, ...], list[str]] = {}
    for name, error in failed.items():
        alike.setdefault((error.code, error.what, error.why), []).append(name)
    for names in alike.values():
        error = failed[names[0]]
        ui.say(f"FAILED {first(names)}: {error.line}" + (f"\n  next: {error.next}" if error.next else ""))


def _table(ui: Ui, cohort: Cohort) -> None:
    """One scan: a row a class. Several: a row a scan, and a table for what they are compared with."""
    against = list(dict.fromkeys(key for result in cohort.results for key in result.dice))
    if len(cohort.results) == 1 and not cohort.failed:
        (result,) = cohort.results
        heads = ["ml", *(f"Dice with {_shown_key(key)}".replace(" ", NO_BREAK) for key in against)]
        rows = [
            [name, f"{amount:.1f}", *(_score(result.dice[key].get(name)) for key in against)]
            for name, amount in result.millilitres.items()
        ]
        if against and len(rows) > 1:
            rows.append(["mean", "", *(_score(result.composite[key]) for key in against)])
        ui.table("", [result.name, *heads], rows, right=",".join(heads))
        return
    classes = list(dict.fromkeys(name for result in cohort.results for name in result.millilitres))
    heads = ["windows", *(f"{name}{NO_BREAK}ml" for name in classes)]
    amounts = [
        [result.name, str(result.windows), *(f"{result.millilitres.get(name, 0):.1f}" for name in classes)]
        for result in cohort.results
    ]
    ui.table("", ["scan", *heads], amounts, right=",".join(heads))
    for key in against:
        names = [*classes, "mean"]
        rows = [
            [result.name, *(_score({**result.dice[key], "mean": result.composite[key]}.get(name)) for name in names)]
            for result in cohort.results
            if key in result.dice
        ]
        rows.append(["mean", *(_score(cohort.means[key].get(name)) for name in names)])
        ui.table(f"Dice with {_shown_key(key)}", ["scan", *names], rows, right=",".join(names))


def _shown_key(key: str) -> str:
    return "the FP32 model" if key == "FP32" else f"the {key}"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
