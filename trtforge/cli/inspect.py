"""`trtforge inspect`: what an engine, a plan, a kit, a store or a model is, read without any runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli import kit_page
from trtforge.cli.engine_page import header_rows, plan_header
from trtforge.cli.engine_page import show as page
from trtforge.cli.options import Json
from trtforge.cli.ui import Ui
from trtforge.errors.usage import NoSuchFile
from trtforge.kinds import ENGINE, KIT, MODEL, PLAN, refuse_other

FILES = (".onnx", ".zst", ".plan")


def register(app: typer.Typer) -> None:
    app.command()(inspect)


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="An engine, a store, a .plan, a kit (.kit.tar.zst) or a .onnx file")
    ],
    json: Json = False,
) -> None:
    """Show what an engine, plan, kit or ONNX model is, or every version in a store.

    Nothing is loaded or run, and no GPU is needed.
    """
    ui = Ui(json=json)
    from trtforge.cli.store_table import show, stored

    path = Path(what)
    if path.suffix in FILES and not path.exists():
        raise NoSuchFile("there is no such file", where=what, next="check the path; a store is a folder: engines/host")
    if path.suffix == ".onnx":
        _model(ui, path)
    elif path.suffix == ".zst":
        kit_page.show(ui, path)
    elif path.is_file() and path.name != "manifest.json":
        refuse_other(path, MODEL, ENGINE, PLAN, KIT)
        _plan(ui, path)
    elif entries := stored(path):
        show(ui, path, entries)
    else:
        from trtforge.engines.load import find_engine

        page(ui, find_engine(what))


def _plan(ui: Ui, path: Path) -> None:
    header = plan_header(path)
    ui.say(f"{path}: {header['kind']} plan")
    ui.table("", ("what", "value"), header_rows(header))
    ui.result("inspect", {"kind": "plan", "path": str(path), "header": header})


def _model(ui: Ui, path: Path) -> None:
    from trtforge.graph.describe import describe
    from trtforge.graph.io import load

    facts = describe(load(path))
    ui.say(f"{path}: ONNX model")
    ui.table(
        "",
        ("what", "value"),
        [
            (key.replace("_", " "), f"{value:,}" if isinstance(value, int) else value)
            for key, value in facts.items()
            if not isinstance(value, dict)
        ],
    )
    borders = [(name, way, is_) for way in ("inputs", "outputs") for name, is_ in facts[way].items()]
    ui.table("Inputs and outputs", ("tensor", "of the", "is"), borders)
    ui.table("Operators", ("operator", "count"), list(facts["operators"].items()), right="count")
    ui.result("inspect", {"kind": "model", "path": str(path), "model": facts})
