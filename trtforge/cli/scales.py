"""`trtforge scales`: look at ranges, translate them between tools, compare two tables."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from trtforge.cli.options import Json
from trtforge.cli.ui import Ui


class Format(StrEnum):
    """The forms a table can be written in; reading recognises all of them and Q/DQ models."""

    json = "json"
    trt_cache = "trt-cache"
    ort_json = "ort-json"


ScalesFile = Annotated[
    Path, typer.Argument(metavar="SCALES", help="A scales JSON, TensorRT cache, onnxruntime JSON or Q/DQ model")
]


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Show, convert and compare INT8 scales.")
    group.command()(show)
    group.command()(convert)
    group.command()(diff)
    app.add_typer(group, name="scales")


def show(
    scales: ScalesFile,
    tensor: Annotated[str, typer.Option("--tensor", help="Only tensors whose name contains this")] = "",
    json: Json = False,
) -> None:
    """Print a table's tensors with range and scale, and how it was made."""
    ui = Ui(json=json)
    from trtforge.scales.read import read_any

    table, form = read_any(scales)
    ranges = {name: entry for name, entry in table.ranges.items() if tensor in name}
    rows = [
        (name, f"{r.min:.6g}", f"{r.max:.6g}", f"{r.amax:.6g}", f"{r.scale:.6g}", r.count or "-")
        for name, r in ranges.items()
    ]
    ui.table(str(scales), ("tensor", "min", "max", "amax", "scale", "samples"), rows, right="min,max,amax,scale,samples")
    if table.receipt is not None:
        receipt = table.receipt
        ui.say(f"{receipt.method} over {len(receipt.samples)} samples, set {receipt.set_digest[:12]}")
        ui.say(f"model graph {receipt.model_graph[:12]}, weights {receipt.model_weights[:12]}")
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
    algorithm: Annotated[str, typer.Option("--algorithm", help="Calibrator in a cache's header")] = "MinMaxCalibration",
    plain: Annotated[Path | None, typer.Option("--plain", help="From a Q/DQ model: write the model without Q/DQ here")] = None,
    json: Json = False,
) -> None:
    """Write scales in another form. A Q/DQ model becomes a plain model (--plain) and its scales."""
    ui = Ui(json=json)
    from trtforge.scales.read import plain_model, read_any, write_as

    table, form = read_any(scales)
    write_as(table, out, to.value, tensorrt=tensorrt, algorithm=algorithm)
    if plain is not None:
        plain_model(scales, plain)
    ui.say(f"{out}: {len(table.ranges)} tensors, {form} -> {to.value}")
    ui.result("scales-convert", {"from": form, "to": to.value, "out": str(out), "tensors": len(table.ranges)})


def diff(first: ScalesFile, second: ScalesFile, json: Json = False) -> None:
    """Compare two tables: tensors only in one, and the largest differences of scale."""
    ui = Ui(json=json)
    from trtforge.scales.diff import diff as compare
    from trtforge.scales.read import read_any

    result = compare(read_any(first)[0], read_any(second)[0])
    ui.say(result.to_text())
    ui.result("scales-diff", {"diff": result.to_json()})
