"""`trtforge prepare`: a data set through its protocol's preprocessing."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli.options import Json, NoProgress, Quiet
from trtforge.cli.segment import tell_failures
from trtforge.cli.ui import Ui, counted


class ProtocolName(StrEnum):
    """Data sets with a protocol of their own."""

    kits19 = "kits19"


def register(app: typer.Typer) -> None:
    app.command()(prepare)


def prepare(
    protocol: Annotated[ProtocolName, typer.Argument(metavar="PROTOCOL", help="kits19: MLPerf's 3D-UNet")],
    raw: Annotated[Path, typer.Argument(metavar="RAW_DIR", help="The data set as published: a folder a case")],
    out: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="Where prepared cases go; finished ones are kept")],
    cases: Annotated[
        list[str] | None,
        typer.Option(
            "--cases",
            metavar="CASE",
            help="A case, or a set: infer (43), calibration (20); repeatable; every case when left out",
            show_default=False,
        ),
    ] = None,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Preprocess a data set as its protocol says, to be run and compared on the network's own grid.

    Exit code 12 when a case could not be prepared; the others were.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    from trtforge.pipeline.protocol import prepare as execute

    done = execute(protocol.value, raw, out, cases=cases or (), progress=ui)
    rows = [(case.name, "x".join(map(str, case.shape)), "kept" if case.reused else "made") for case in done.cases]
    if rows:
        ui.table("", ("case", "shape", ""), rows)
    ui.say(f"{out}: {counted(len(done.cases), 'case')} prepared by {done.protocol}; summary.json has the digests")
    tell_failures(ui, done.failed)
    ui.result("prepare", done.to_json())
    if (error := done.error(where=str(raw))) is not None:
        ui.end(error)
