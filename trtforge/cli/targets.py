"""`trtforge targets`: the devices trtforge knows, and what TensorRT each JetPack brings."""

from __future__ import annotations

from typing import Annotated

import typer

from trtforge.cli import completion
from trtforge.cli.options import Json
from trtforge.cli.ui import Ui


def register(app: typer.Typer) -> None:
    app.command()(targets)


def targets(
    key: Annotated[
        str | None,
        typer.Argument(
            metavar="KEY", help="Show one target in full", show_default=False, autocompletion=completion.target_keys
        ),
    ] = None,
    json: Json = False,
) -> None:
    """List the targets a recipe can name.

    With a key: one target in full, with the source of every figure.
    """
    ui = Ui(json=json)
    from trtforge.cli.target_tables import one, overview

    if key is None:
        overview(ui)
    else:
        one(ui, key)
