"""`trtforge scales`: look at ranges, translate them between tools, compare two tables."""

from __future__ import annotations

from typing import Annotated

import typer

from trtforge.cli.options import Json
from trtforge.cli.scales_convert import convert
from trtforge.cli.scales_source import ScalesFile, of_engine
from trtforge.cli.ui import Ui


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
    """Print the range and scale of every tensor."""
    ui = Ui(json=json)
    from trtforge.scales.read import read_any

    scales = of_engine(scales)
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
        drop="samples,min,max",
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


def diff(first: ScalesFile, second: ScalesFile, json: Json = False) -> None:
    """Compare two tables, tensor by tensor."""
    ui = Ui(json=json)
    from trtforge.scales.diff import diff as compare
    from trtforge.scales.read import read_any

    result = compare(read_any(of_engine(first))[0], read_any(of_engine(second))[0])
    ui.say(result.to_text())
    ui.result("scales-diff", {"diff": result.to_json()})
