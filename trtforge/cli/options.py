"""The options that commands share, each declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli import completion

Json = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object (see `trtforge schema`)")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No log and no progress; errors and warnings still show")]
NoProgress = Annotated[bool, typer.Option("--no-progress", help="Plain log lines instead of progress bars")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file", show_default=False)]
Only = Annotated[
    list[str] | None,
    typer.Option(
        "--only",
        metavar="ENGINE",
        help="Only this engine of the recipe; repeatable",
        show_default=False,
        autocompletion=completion.engines,
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Override a recipe value, e.g. engines.r50.precision=fp16",
        show_default=False,
    ),
]
