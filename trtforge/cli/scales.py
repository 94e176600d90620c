"""`trtforge scales`: look at ranges, translate them between tools, compare two tables."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli.options import Json
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.scales.table import ScaleTable


class Format(StrEnum):
    """The forms a table can be written in; reading recognises all of them and Q/DQ models."""

    json = "json"
    trt_cache = "trt-cache"
    ort_json = "ort-json"


class Algorithm(StrEnum):
    """Calibrators a TensorRT cache can name."""

    minmax = "MinMaxCalibration"
    entropy2 = "EntropyCalibration2"
    entropy = "EntropyCalibration"
    legacy = "LegacyCalibration"


SCALES = "scales.json"  # in an engine's version folder

ScalesFile = Annotated[
    Path,
    typer.Argument(metavar="SCALES", help="A scales JSON, TensorRT cache, onnxruntime JSON, Q/DQ model, or an engine"),
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Show, convert and compare INT8 scales.")
    group.command()(show)
    group.command()(convert)
    group.command()(diff)
    app.add_typer(group, name="scales")


def _of_engine(reference: Path) -> Path:
    """The scales file that is meant: itself, or the one of an engine that is named like for `run`."""
    if reference.is_file() or (reference.suffix and not reference.is_dir()):
        return reference
    from trtforge.engines.load import find_engine
    from trtforge.errors.calibration import ScalesFileInvalid

    version = find_engine(reference)
    if (found := version.path / SCALES).is_file():
        return found
    raise ScalesFileInvalid(
        "the engine has no scales",
        where=str(version.path),
        why=f"it is {version.manifest.recipe.get('precision')}: only an INT8 engine has them",
        next=f"trtforge inspect {version.path}",
    )


def show(
    scales: ScalesFile,
    tensor: Annotated[str, typer.Option("--tensor", help="Only tensors whose name contains this")] = "",
    json: Json = False,
) -> None:
    """Print the range and scale of every tensor."""
    ui = Ui(json=json)
    from trtforge.scales.read import read_any

    scales = _of_engine(scales)
    table, form = read_any(scales)
    ranges = {name: entry for name, entry in table.ranges.items() if tensor in name}
    rows = [
        (f"{r.min:.6g}", f"{r.max:.6g}", f"{r.amax:.6g}", f"{r.scale:.6g}", r.count or "-", name)
        for name, r in ranges.items()
    ]
    ui.table(
        str(scales),
        ("min", "max", "amax", "scale", "samples", "tensor"),  # names last: they are long and stay whole
        rows,
        right="min,max,amax,scale,samples",
        overhang=True,
    )
    if table.receipt is not None:
        from trtforge.graph.digests import show_weights

        receipt = table.receipt
        ui.say(f"{receipt.method} over {len(receipt.samples)} samples, set {receipt.set_digest[:12]}")
        ui.say(f"model graph {receipt.model_graph[:12]}, weights {show_weights(receipt.model_weights)[:28]}")
    else:
        ui.say(f"no receipt: {form} does not say which model and samples the ranges come from")
    ui.result(
        "scales-show",
        {
            "form": form,
            "receipt": None if table.receipt is None else table.receipt.to_json(),
            "tensors": {
                name: {"min": r.min, "max": r.max, "amax": r.amax, "scale": float(r.scale), "count": r.count}
                for name, r in ranges.items()
            },
        },
    )


def convert(
    scales: ScalesFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write")],
    to: Annotated[Format, typer.Option("--to", help="The form to write")],
    tensorrt: Annotated[str, typer.Option("--tensorrt", help="TensorRT version for a cache's header")] = "8.6.2",
    algorithm: Annotated[
        Algorithm,
        typer.Option("--algorithm", help="Calibrator in a cache's header; DLA takes EntropyCalibration2 only"),
    ] = Algorithm.minmax,
    plain: Annotated[
        Path | None, typer.Option("--plain", help="From a Q/DQ model: write the model without Q/DQ here")
    ] = None,
    json: Json = False,
) -> None:
    """Write scales in another form. A Q/DQ model becomes a plain model (--plain) and its scales."""
    ui = Ui(json=json)
    from trtforge.errors.usage import NoPlainModel
    from trtforge.scales.read import read_any

    scales = _of_engine(scales)
    table, form = read_any(scales)
    if plain is not None and form != "Q/DQ model":
        raise NoPlainModel(
            "--plain needs a Q/DQ model", where=str(scales), why=f"this is a {form}", next="leave --plain out"
        )
    _write(table, out, to, tensorrt, algorithm)
    ui.say(f"{out}: {len(table.ranges)} tensors, {form} to {to.value}")
    bare: list[str] = []
    if form == "Q/DQ model":
        bare = _without_scale(scales, table, plain)
        if plain is not None:
            ui.say(f"{plain}: the model without Q/DQ")
        if bare:
            ui.say(f"  {len(bare)} float tensors have no scale and run in float: {', '.join(bare[:5])}")
    ui.result(
        "scales-convert",
        {"from": form, "to": to.value, "out": str(out), "tensors": len(table.ranges), "without_scale": bare},
    )


def _write(table: ScaleTable, out: Path, to: Format, tensorrt: str, algorithm: Algorithm) -> None:
    if to is Format.json:
        table.save(out)
    elif to is Format.ort_json:
        from trtforge.scales.codecs import ort_json

        ort_json.save(table, out)
    else:
        from trtforge.scales.codecs.trt_cache import CalibrationCache

        CalibrationCache.from_table(table, tensorrt=tensorrt, algorithm=algorithm.value).save(out)


def _without_scale(scales: Path, table: ScaleTable, plain: Path | None) -> list[str]:
    """Write the model without Q/DQ where asked; the names of its float activations that the table does not cover."""
    from trtforge.graph.io import load, save
    from trtforge.graph.shapes import infer_shapes, tensor_types
    from trtforge.scales.codecs.qdq_extract import extract

    model = extract(load(scales))[0]
    if plain is not None:
        save(model, plain)
    weights = {initializer.name for initializer in model.proto.graph.initializer}
    return sorted(
        name
        for name, (dtype, _) in tensor_types(infer_shapes(model)).items()
        if dtype == "float32" and name not in table.ranges and name not in weights
    )


def diff(first: ScalesFile, second: ScalesFile, json: Json = False) -> None:
    """Compare two tables, tensor by tensor."""
    ui = Ui(json=json)
    from trtforge.scales.diff import diff as compare
    from trtforge.scales.read import read_any

    result = compare(read_any(_of_engine(first))[0], read_any(_of_engine(second))[0])
    ui.say(result.to_text())
    ui.result("scales-diff", {"diff": result.to_json()})
