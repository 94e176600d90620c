"""`trtforge run`: execute an engine on samples and hold it against the FP32 model."""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.engine_page import decibels
from trtforge.cli.options import Json, NoProgress, Quiet
from trtforge.cli.table import NO_BREAK
from trtforge.cli.ui import Ui, counted
from trtforge.errors.usage import NotForThisEngine, OutIsNoFolder

if TYPE_CHECKING:
    from trtforge.engines.store import EngineVersion
    from trtforge.pipeline.run import RunReport


class Against(StrEnum):
    """What the engine's outputs are compared with."""

    fp32 = "fp32"
    none = "none"


def _axes(text: str | None) -> str | None:
    if text is not None and (set(text) - set("dhw") or len(set(text)) < len(text)):
        raise typer.BadParameter("some of the letters d, h and w, each once")
    return text


class Weights(StrEnum):
    """Of a window's voxels; the words of the recipe's `windows.weights`."""

    mlperf = "mlperf"
    monai = "monai"
    constant = "constant"


INSTEAD = {
    "out-dir": "; outputs go to --out FOLDER",
    "truth": "; outputs are compared with the FP32 model's, as --against fp32 says",
}
"""What an option of engines for volumes has in its place elsewhere, where it has something."""


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    engine: Annotated[
        str, typer.Argument(metavar="ENGINE", help="STORE/ENGINE, STORE/ENGINE/VERSION, or a name under engines/")
    ],
    samples: Annotated[
        list[str],
        typer.Argument(
            metavar="SAMPLES", help="Photographs, arrays, scans, quoted patterns, or one sample set (.yaml)"
        ),
    ],
    against: Annotated[
        Against | None,
        typer.Option(
            "--against",
            help="Compare with the FP32 model in onnxruntime, or only run; scans are only run by default",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Outputs: a folder of .npz, or one; a .json for Polygraphy; labels of one scan (.nii.gz)"
        ),
    ] = None,
    out_dir: Annotated[
        Path | None, typer.Option("--out-dir", help="Scans: labels of each go here; finished ones are kept")
    ] = None,
    truth: Annotated[
        str | None,
        typer.Option("--truth", help="Scans: true labels, for Dice; {folder} and {name} stand for the scan's"),
    ] = None,
    picture: Annotated[Path | None, typer.Option("--picture", help="Scan: a PNG of three planes")] = None,
    pictures: Annotated[bool, typer.Option("--pictures", help="Scans: a PNG of each in --out-dir")] = False,
    html: Annotated[Path | None, typer.Option("--html", help="Scan: a page to look through it")] = None,
    probabilities: Annotated[
        Path | None, typer.Option("--probabilities", help="Scan: the probability of each class (.nii.gz)")
    ] = None,
    overlap: Annotated[
        float | None, typer.Option("--overlap", min=0, max=0.99, help="Scans: instead of the recipe's")
    ] = None,
    weights: Annotated[
        Weights | None, typer.Option("--weights", help="Scans: of a window's voxels, instead of the recipe's")
    ] = None,
    mirror: Annotated[
        str | None,
        typer.Option(
            "--mirror", metavar="AXES", callback=_axes, help="Scans: average over flips along d, h, w, e.g. dhw"
        ),
    ] = None,
    model: Annotated[
        Path | None, typer.Option("--model", help="The FP32 model, when it is not where it was at build time")
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Run an engine on samples and compare it with the FP32 model; on scans, segment them.

    Exit code 8 when the recipe's `verify` bound is missed, 12 when a scan could not be segmented.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    from trtforge.engines.load import open_engine
    from trtforge.pipeline.outputs import is_npz
    from trtforge.pipeline.run import run as execute
    from trtforge.pipeline.run import this_machine
    from trtforge.pipeline.volumes import takes_volumes

    single = {"probabilities": probabilities, "picture": picture, "html": html}
    axes = None if mirror is None else tuple(mirror)
    chosen = {"overlap": overlap, "weights": weights and weights.value, "mirror": axes}
    overrides = {name: value for name, value in chosen.items() if value is not None}
    version = open_engine(engine, here=this_machine())
    if takes_volumes(version):
        from trtforge.cli.segment import segment

        segment(
            ui,
            version,
            samples,
            out=out,
            out_dir=out_dir,
            truth=truth,
            pictures=pictures,
            single=single,
            overrides=overrides,
            compare_with_fp32=against is Against.fp32 or (against is None and model is not None),
            model=model,
        )
        return
    _check_for_samples(version, {"out-dir": out_dir, "truth": truth, "pictures": pictures or None, **single, **chosen})
    if out is not None:
        _check_out(out)
    compared = against is not Against.none
    paths = [Path(sample) for sample in samples]
    report = execute(version, paths, compare_with_fp32=compared, model=model, out=out, progress=ui)
    _show(ui, report)
    if out is not None:
        whole = out.suffix == ".json" or is_npz(out)
        ui.say(f"{out}: outputs of {counted(len(report.rows), 'sample')}" + ("" if whole else ", one .npz each"))
    if report.seen_in_calibration:
        seen, names = len(report.seen_in_calibration), ", ".join(report.seen_in_calibration[:3])
        more = f" and {seen - 3} more" if seen > 3 else ""
        ui.warn(
            f"{seen} of {counted(len(report.rows), 'sample')} {'was' if seen == 1 else 'were'} used for calibration: "
            f"{names}{more}"
        )
    if (traffic := report.traffic) is not None:
        ui.say(
            f"copied to the device: {traffic['host_to_device']:,} bytes, back: {traffic['device_to_host']:,}, "
            f"in {counted(traffic['executions'], 'execution')}"
        )
    ui.result("run", report.to_json())
    if report.missed is not None:
        ui.end(report.missed)


def _check_for_samples(version: EngineVersion, options: Mapping[str, object]) -> None:
    """Options that only an engine for volumes has a use for."""
    for name, value in options.items():
        if value is not None:
            raise NotForThisEngine(
                f"--{name} is for engines that segment volumes",
                where=str(version.path),
                why="no input of this engine's recipe has `preprocess: {kind: volume}`",
                next="leave it out" + INSTEAD.get(name, ""),
            )


def _check_out(out: Path) -> None:
    """A folder, a `.npz` or a `.json`: a name like `o.txt` is a misunderstanding, not a folder to make."""
    if out.suffix not in (".json", ".npz") and re.fullmatch(r"\.[A-Za-z]\w{1,4}", out.suffix) and not out.is_dir():
        bare = out.with_name(out.name.removesuffix(".gz")).with_suffix("")
        raise OutIsNoFolder(
            f"--out cannot write a {out.name.removeprefix(bare.name)} file",
            where=str(out),
            why="outputs go to a folder, one .npz a sample; to a .npz, of one sample; or to one .json file",
            next=f"--out {bare}, --out {bare}.json, or for one sample --out {bare}.npz",
        )


def _show(ui: Ui, report: RunReport) -> None:
    manifest = report.version.manifest
    ui.say(f"{report.version.path}: {manifest.recipe['precision']} by {manifest.backend}, for {manifest.target.key}")
    parity = report.parity
    if parity is None:
        rows = [
            (row["id"], name, "x".join(map(str, output["shape"])), _scores(output["largest"]))
            for row in report.rows
            for name, output in row["outputs"].items()
        ]
        ui.table("", ("sample", "output", "shape", "largest values"), rows)
        return
    names = [Path(row["id"]).name for row in report.rows]
    if len(set(names)) < len(names):
        names = [row["id"] for row in report.rows]
    has_classes = any(row["reference"] for row in report.rows) or parity.metric == "top1"
    precision = manifest.recipe["precision"].upper()
    classes = ("FP32 scores", "engine scores" if precision == "FP32" else f"{precision} scores", "top-1")
    columns = ("sample", *(classes if has_classes else ()), "cosine", "SQNR dB")
    rows = [
        (
            name,
            *(
                (_scores(row["reference"]), _scores(row["candidate"]), "same" if row["top1_equal"] else "DIFFERS")
                if has_classes
                else ()
            ),
            "-" if row["cosine"] is None else f"{row['cosine']:.6f}",
            decibels(row["sqnr_db"]),
        )
        for name, row in zip(names, report.rows, strict=True)
    ]
    ui.table("", columns, rows, right="cosine,SQNR dB")
    same = sum(row["top1_equal"] for row in report.rows)
    agreement = f"top-1 agreement {same} of {len(report.rows)}; " if has_classes else ""
    ui.say(f"{agreement}worst sample {parity.worst.id}")
    verdict = "no bound in the recipe" if parity.at_least is None else f"bound {parity.at_least:g}"
    if parity.passed is not None:
        verdict += ": kept" if parity.passed else ": MISSED"
    value = decibels(parity.value) if parity.metric == "sqnr_db" else f"{parity.value:.6f}"
    ui.say(f"{parity.metric} {value}, {verdict}")


def _scores(scores: list[dict[str, float]]) -> str:
    """`0: 0.981  1: 0.019`: class index and score, largest first."""
    return " ".join(f"{score['index']:.0f}:{NO_BREAK}{score['value']:.4f}{NO_BREAK}" for score in scores).rstrip(
        NO_BREAK
    )
