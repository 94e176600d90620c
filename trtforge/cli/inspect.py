"""`trtforge inspect`: what an engine, a plan, a kit, a store or a model is, read without any runtime."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli import kit_page
from trtforge.cli.engine_page import plan_header
from trtforge.cli.engine_page import show as page
from trtforge.cli.options import Json
from trtforge.cli.ui import Ui
from trtforge.errors.usage import NoSuchFile, NothingToInspect

FILES = (".onnx", ".zst", ".plan")
SAMPLES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".npy", ".npz", ".nii", ".gz")


def register(app: typer.Typer) -> None:
    app.command()(inspect)


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="An engine, a store, a .plan, a kit (.kit.tar.zst) or a .onnx file")
    ],
    json: Json = False,
) -> None:
    """Show what an engine, store, plan, kit or ONNX model is.

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
        if (better := _better(path)) is not None:
            raise better
        _plan(ui, path)
    elif len(engines := stored(path)) > 1 or (engines and engines[0]["version"] is None):
        show(ui, path, engines)
    else:
        from trtforge.engines.load import find_engine

        page(ui, find_engine(what))


def _plan(ui: Ui, path: Path) -> None:
    header = plan_header(path)
    ui.say(f"{path}: {header['kind']} plan")
    ui.table("", ("what", "value"), list(header.items()))
    ui.result("inspect", {"kind": "plan", "path": str(path), "header": header})


def _better(path: Path) -> NothingToInspect | None:
    """For a file that another command reads: the error that names it."""
    if path.suffix.lower() in SAMPLES:
        kind, command = "a sample", f"trtforge run ENGINE {path}"
    elif path.name == "trtforge.lock":
        kind, command = "the lock of a folder of recipes", "trtforge build RECIPE --locked"
    elif _holds(path, b"TRT-") or (path.suffix == ".json" and b'"ranges"' in path.read_bytes()):
        kind, command = "scales", f"trtforge scales show {path}"
    elif path.suffix in (".yaml", ".yml"):
        words = path.read_bytes().split()
        if b"target:" in words or b"extends:" in words or b"engines:" in words:
            kind, command = "a recipe", f"trtforge recipe show {path}"
        else:
            kind, command = "a sample set", f"trtforge run ENGINE {path}"
    else:
        return None
    return NothingToInspect(
        f"{path.name} is {kind}, not an engine, a plan, a kit or a model", where=str(path), next=command
    )


def _holds(path: Path, start: bytes) -> bool:
    with path.open("rb") as stream:
        return stream.read(len(start)) == start


def _model(ui: Ui, path: Path) -> None:
    from trtforge.graph.describe import describe
    from trtforge.graph.io import load

    facts = describe(load(path))
    ui.say(f"{path}: ONNX model")
    ui.table(
        "",
        ("what", "value"),
        [(key.replace("_", " "), value) for key, value in facts.items() if not isinstance(value, dict)],
    )
    ui.table("Operators", ("operator", "count"), list(facts["operators"].items()), right="count")
    ui.result("inspect", {"kind": "model", "path": str(path), "model": facts})
