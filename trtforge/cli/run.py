"""`trtforge run`: execute an engine on samples and hold it against the FP32 model."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.options import Json, NoProgress, Quiet
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.evaluate.parity import ParityReport


class Against(StrEnum):
    """What the engine's outputs are compared with."""

    fp32 = "fp32"
    none = "none"


def register(app: typer.Typer) -> None:
    app.command()(run)


def run(
    engine: Annotated[
        str, typer.Argument(metavar="ENGINE", help="STORE/ENGINE, STORE/ENGINE/VERSION, or a name under engines/")
    ],
    samples: Annotated[
        list[Path], typer.Argument(metavar="SAMPLES...", help="Photographs, arrays, volumes, or one sample set (.yaml)")
    ],
    against: Annotated[
        Against, typer.Option("--against", help="Compare with the FP32 model in onnxruntime, or only run")
    ] = Against.fp32,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for the outputs, one `<sample>.npz` each")] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Run an engine on samples. Exit code 8 when the recipe's `verify` bound is missed."""
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    from trtforge.engines.load import open_engine
    from trtforge.pipeline.run import run as execute
    from trtforge.pipeline.run import this_machine

    version = open_engine(engine, here=this_machine())
    report = execute(version, samples, compare=against is Against.fp32, out=out, progress=ui)
    _show(ui, report)
    if report.seen_in_calibration:
        ui.warn(
            f"{len(report.seen_in_calibration)} of these samples were used for calibration: {', '.join(report.seen_in_calibration[:3])}"
        )
    ui.result("run", report.to_json())
    if report.missed is not None:
        ui.end(report.missed)


def _show(ui: Ui, report: RunReport) -> None:
    ui.say(f"{report.engine}: {report.precision} on {report.backend}")
    ui.table("", report.columns, report.rows, right=",".join(report.columns[1:]))
    for line in report.summary:
        ui.say(line)
