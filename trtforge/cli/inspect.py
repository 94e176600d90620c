"""`trtforge inspect`: what an engine, a plan, a kit, a store or a model is, read without any runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli.options import Json
from trtforge.cli.ui import Ui, human_bytes
from trtforge.errors.usage import NoSuchFile

if TYPE_CHECKING:
    from trtforge.engines.manifest import Manifest

FILES = (".onnx", ".tar", ".plan")


def register(app: typer.Typer) -> None:
    app.command()(inspect)


def inspect(
    what: Annotated[
        str, typer.Argument(metavar="WHAT", help="An engine, a store, a .plan, a .tar kit or a .onnx file")
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
    elif path.suffix == ".tar":
        _kit(ui, path)
    elif path.is_file():
        _plan(ui, path)
    elif len(engines := stored(path)) > 1 or (engines and engines[0]["version"] is None):
        show(ui, path, engines)
    else:
        _engine(ui, what)


def _engine(ui: Ui, what: str) -> None:
    from trtforge.engines.load import find_engine

    version = find_engine(what)
    manifest = version.manifest
    ui.say(f"{version.path}: engine")
    ui.table("", ("what", "value"), _facts(manifest))
    ui.table(
        "Inputs and outputs",
        ("tensor", "direction", "shape", "dtype", "format"),
        [
            (
                tensor.name,
                direction,
                "x".join("?" if d is None else str(d) for d in tensor.shape),
                tensor.dtype,
                tensor.format,
            )
            for direction, tensors in (("in", manifest.inputs), ("out", manifest.outputs))
            for tensor in tensors
        ],
    )
    ui.table(
        "Files",
        ("file", "size", "sha256"),
        [(name, human_bytes(entry.size), entry.sha256[:16]) for name, entry in manifest.files.items()],
        right="size",
    )
    header = _plan_header(version.path / manifest.engine_file) if manifest.engine_file.endswith(".plan") else None
    if header:
        ui.table("Plan header", ("what", "value"), list(header.items()))
    ui.result(
        "inspect", {"kind": "engine", "path": str(version.path), "manifest": manifest.to_json(), "header": header}
    )


def _facts(manifest: Manifest) -> list[tuple[str, object]]:
    rows: list[tuple[str, object]] = [
        ("engine", f"{manifest.engine} version {manifest.version}, {manifest.created}"),
        ("target", f"{manifest.target.key}" + (f", SM {manifest.target.sm}" if manifest.target.sm else "")),
        ("backend", f"{manifest.backend} ({manifest.platform})"),
        ("precision", manifest.recipe.get("precision", "-")),
        ("model", manifest.model.origin),
        ("model sha256", manifest.model.sha256[:16]),
    ]
    if manifest.calibration:
        samples = manifest.calibration.get("samples", {})
        rows.append(("calibration", f"{manifest.calibration['method']}, {len(samples)} samples"))
    if manifest.parity:
        p = manifest.parity
        verdict = "passed" if p["passed"] else "MISSED"
        rows.append(
            (
                "parity",
                f"{p['metric']} {p['value']:.6g} (bound {p['at_least']:g}) {verdict}; measured on {p['measured_on']}",
            )
        )
    skip = ("precision", "summary", "sm")  # said above
    rows += [
        (k.replace("_", " "), v)
        for k, v in manifest.report.items()
        if isinstance(v, (str, int, float)) and k not in skip
    ]
    return rows


def _plan_header(path: Path) -> dict[str, Any]:
    from trtforge.engines.plan_header import read_header
    from trtforge.engines.store_errors import explained

    with explained(path, f"read {path}"):
        header = read_header(path)
    return {
        "kind": header.kind,
        "version": header.version,
        "compute capabilities": ", ".join(header.sms) if header.sms else "not recorded",
        "size": header.declared_size,
        "offset": header.offset,
    }


def _plan(ui: Ui, path: Path) -> None:
    header = _plan_header(path)
    ui.say(f"{path}: {header['kind']} plan")
    ui.table("", ("what", "value"), list(header.items()))
    ui.result("inspect", {"kind": "plan", "path": str(path), "header": header})


def _kit(ui: Ui, path: Path) -> None:
    from trtforge.engines.kit import read_kit

    kit = read_kit(path)
    rows = [(name, human_bytes(entry.size), entry.sha256[:16]) for name, entry in kit.members.items()]
    ui.say(f"{path}: kit for {kit.target}, engine {kit.engine}, key {kit.key[:12]}")
    ui.table("Members", ("file", "size", "sha256"), rows, right="size")
    ui.result("inspect", {"kind": "kit", "path": str(path), "kit": kit.to_json()})


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
