"""`trtforge explain`: the manual page of an error or a lint rule."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from trtforge.cli import completion
from trtforge.cli.options import Json
from trtforge.cli.ui import Ui, columns_of


def register(app: typer.Typer) -> None:
    app.command()(explain)


def explain(
    code: Annotated[
        str | None,
        typer.Argument(
            metavar="CODE",
            help="An error or rule code, e.g. ONX101; none lists all",
            show_default=False,
            autocompletion=completion.codes,
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Explain an error code or a lint rule; list them all."""
    ui = Ui(json=json)
    from trtforge.cli.table import reflow
    from trtforge.errors import catalogue
    from trtforge.lint.explain import explain as page
    from trtforge.lint.run import rules

    if code is not None:
        text = page(code)
        head, _, body = text.partition("\n\n")  # two lines that are no paragraph
        ui.say(f"{head}\n\n{reflow(body, columns_of(sys.stdout))}")
        ui.result("explain", {"code": code, "text": text})
        return
    rows = [(name, error.title, "error", str(error("").exit_code)) for name, error in catalogue().items()]
    rows += [(rule.code, rule.title, f"lint {rule.severity}", "") for rule in rules()]
    ui.table("Codes", ("code", "title", "kind", "exit code"), rows)
    ui.result("explain", {"codes": [{"code": row[0], "title": row[1], "kind": row[2]} for row in rows]})
