"""`trtforge scales convert`: the same scales in another tool's form, and what the other form cannot say."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from trtforge.cli import completion
from trtforge.cli.options import Json
from trtforge.cli.scales_header import Header, header
from trtforge.cli.scales_source import ScalesFile, Source, of_engine, open_source
from trtforge.cli.scales_tell import SHOWN, count, some, tell_precisions, tell_quantized, tell_rest, tell_unscaled
from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.graph.model import Model
    from trtforge.scales.table import ScaleTable
    from trtforge.targets.model import Target


class Format(StrEnum):
    """The forms a table can be written in; reading recognises all of them."""

    json = "json"
    trt_cache = "trt-cache"
    ort_json = "ort-json"
    qdq = "qdq"


class Algorithm(StrEnum):
    """Calibrators a TensorRT cache can name."""

    minmax = "MinMaxCalibration"
    entropy2 = "EntropyCalibration2"
    entropy = "EntropyCalibration"
    legacy = "LegacyCalibration"


class Conflicts(StrEnum):
    """What becomes of a tensor that a Q/DQ model gives several scales."""

    refuse = "refuse"
    widest = "widest"


def convert(
    scales: ScalesFile,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The file to write")],
    to: Annotated[
        Format,
        typer.Option(
            "--to",
            help="The form to write. trt-cache: TensorRT up to 10, DLA; qdq: a model with Q/DQ nodes, for TensorRT 11, "
            "TensorRT-RTX and onnxruntime",
        ),
    ],
    model: Annotated[
        Path | None,
        typer.Option(
            "--model",
            metavar="ONNX",
            help="The float model of the scales: needed by --to qdq; otherwise their names are checked against it",
        ),
    ] = None,
    plain: Annotated[
        Path | None,
        typer.Option("--plain", "--out", metavar="ONNX", help="From a Q/DQ model: write it without Q/DQ nodes here"),
    ] = None,
    precisions: Annotated[
        Path | None,
        typer.Option(
            "--precisions",
            metavar="FILE",
            help="From a Q/DQ model, with --plain: write here which layers are INT8 and which float (JSON, with "
            "trtexec's options)",
        ),
    ] = None,
    fill: Annotated[
        Path | None,
        typer.Option(
            "--fill",
            metavar="SCALES",
            help="For a cache: take the scales of tensors that have none from here, such as a calibration of the plain "
            "model",
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            "--target",
            metavar="KEY",
            help="Write for this device: its cache header, or a DLA's Q/DQ; say what tensors without a scale do there",
            autocompletion=completion.target_keys,
        ),
    ] = None,
    tensorrt: Annotated[
        str | None,
        typer.Option(
            "--tensorrt",
            help="TensorRT in a cache's header, with its patch; the target's newest that reads caches, that of the "
            "cache that is converted, or 8.6.2, with a warning",
        ),
    ] = None,
    algorithm: Annotated[
        Algorithm | None,
        typer.Option(
            "--algorithm",
            help="Calibrator in a cache's header; that of the cache that is converted, or EntropyCalibration2 (a DLA "
            "and trtexec take no other)",
        ),
    ] = None,
    conflicts: Annotated[
        Conflicts,
        typer.Option(
            "--conflicts", help="From a Q/DQ model: a tensor with several scales is refused, or gets the widest"
        ),
    ] = Conflicts.refuse,
    json: Json = False,
) -> None:
    """Write scales in another form. A Q/DQ model becomes a plain model (--plain) and its scales, or the reverse."""
    ui = Ui(json=json)
    _check_places({"OUT": out, "--plain": plain, "--precisions": precisions}, to, scales, model, fill)
    source = open_source(scales, conflicts.value)
    _check_options(source, to, plain, precisions)
    _check_fill(to, source, model, fill)
    device = None if target is None else _target(target)
    result: dict[str, Any] = {"from": source.form, "to": to.value, "out": str(out), "without_scale": []}
    first: Header | None = None
    if to is Format.trt_cache:
        first = header(device, tensorrt, algorithm.value if algorithm is not None else None, source.table.notes)
        result["header"] = first.to_json()
    result |= tell_quantized(ui, source)
    graph = _graph(ui, source, model)
    if to is Format.qdq:
        table = source.table
        result |= _write_qdq(ui, table, graph, out, device)
    else:
        table = _complete(ui, source, graph, fill)
        result |= _write(ui, table, source, out, to, first)
    if source.found is not None:
        result |= _write_plain(ui, source, plain, precisions)
    if graph is not None and to is not Format.qdq:
        result |= tell_unscaled(ui, graph, table, device)
    ui.result("scales-convert", {**result, "tensors": len(table.ranges)})


def _check_places(
    results: dict[str, Path | None], to: Format, scales: Path, model: Path | None, fill: Path | None
) -> None:
    """Raises WouldOverwrite (USE111), and what `of_engine` raises."""
    from trtforge.pipeline.overwrite import model_files, moved_weights, refuse_overwriting
    from trtforge.scales.read import QDQ_MODEL, form_of

    inputs: list[tuple[str, Path | None]] = []
    moved: list[tuple[str, Path | None]] = []
    models = {"--plain": results["--plain"], "OUT": results["OUT"] if to is Format.qdq else None}
    for name, given in (("SCALES", scales), ("--model", model), ("--fill", fill)):
        if given is not None:
            path = given if name == "--model" else of_engine(given)
            is_model = name == "--model" or form_of(path) == QDQ_MODEL
            files = list(model_files(name, path)) if is_model else [(name, path)]
            inputs += files
            if is_model and name != "--fill":
                moved += [each for what, saved in models.items() for each in moved_weights(what, saved, files)]
    refuse_overwriting(results.items(), [*moved, *inputs])


def _check_options(source: Source, to: Format, plain: Path | None, precisions: Path | None) -> None:
    from trtforge.errors.usage import NoPlainModel, WrongUsage

    for option, path in (("--plain", plain), ("--precisions", precisions)):
        if path is not None and source.found is None:
            raise NoPlainModel(
                f"{option} needs a Q/DQ model",
                where=str(source.path),
                why=f"this is a {source.form}",
                next=f"leave {option} out",
            )
    if precisions is not None and plain is None:
        raise WrongUsage(
            "--precisions needs --plain",
            why="it names layers of the model without Q/DQ, and gives names to those that have none",
            next="add `--plain plain.onnx`",
        )
    if precisions is not None and to is Format.qdq:
        raise WrongUsage(
            "--precisions says nothing beside Q/DQ nodes",
            why="where they stand, a layer runs in INT8; TensorRT 11 and TensorRT-RTX take no precisions per layer",
            next="leave --precisions out",
        )


def _check_fill(to: Format, source: Source, model: Path | None, fill: Path | None) -> None:
    from trtforge.errors.usage import WrongUsage

    if fill is None or (to is Format.trt_cache and (source.found is not None or model is not None)):
        return
    raise WrongUsage(
        "--fill needs --to trt-cache and the model that the scales are for",
        why="it completes a cache; the model says which tensors have no scale",
        next="add `--to trt-cache --model MODEL.onnx`, or leave --fill out",
    )


def _target(key: str) -> Target:
    from trtforge.targets.load import get

    return get(key)


def _graph(ui: Ui, source: Source, model: Path | None) -> Model | None:
    """The plain graph the scales are for; their names are checked against a given one."""
    if model is None:
        return source.found.model if source.found is not None else None
    from trtforge.graph.io import load
    from trtforge.scales.identity import check_names

    graph = load(model)
    for finding in check_names(source.table.ranges, graph, where=str(source.path)).findings():
        ui.warn(finding)
    return graph


def _complete(ui: Ui, source: Source, graph: Model | None, fill: Path | None) -> ScaleTable:
    """The table to write: with the carried scales of a Q/DQ model, whatever the form, and with those of ``fill``."""
    table = source.carried().table if source.found is not None else source.table
    if more := len(table.ranges) - len(source.table.ranges):
        ui.say(f"{len(source.table.ranges)} scales of the model, {more} carried over operators that keep values")
    if fill is None or graph is None:
        return table
    from trtforge.scales.identity import check_names
    from trtforge.scales.read import read_any
    from trtforge.scales.unscaled import fill as fill_up

    other = read_any(of_engine(fill))[0]
    check_names(other.ranges, graph, where=str(fill))
    table, names = fill_up(table, other, graph)
    ui.say(f"{fill}: {count(len(names), 'scale', 'scales')} for tensors that had none")
    return table


def _write(ui: Ui, table: ScaleTable, source: Source, out: Path, to: Format, header: Header | None) -> dict[str, Any]:
    told, result = "", dict[str, Any]()
    if to is Format.json:
        table.save(out)
    elif to is Format.ort_json:
        from trtforge.scales.codecs import ort_json

        ort_json.save(table, out)
        result["rounded"] = list(ort_json.rounded(table))
    else:
        from trtforge.scales.codecs.trt_cache import CalibrationCache

        assert header is not None
        CalibrationCache.from_table(table, tensorrt=header.release, algorithm=header.algorithm).save(out)
        told = f", for TensorRT {header.release}, {header.algorithm}"
    ui.say(f"{out}: {count(len(table.ranges), 'tensor', 'tensors')}, {source.form} to {to.value}{told}")
    if header is not None:
        header.tell(ui)
    if rounded := result.get("rounded"):
        ui.say(f"  {count(len(rounded), 'scale is', 'scales are')} rounded: a limit, 127 scales, is a float32 here")
    return result


def _write_plain(ui: Ui, source: Source, plain: Path | None, precisions: Path | None) -> dict[str, Any]:
    """Write the model without Q/DQ, and the precisions its layers had, where asked."""
    from trtforge.graph.io import save

    assert source.found is not None
    if precisions is not None:
        source.name_nodes()
    layers = source.precisions()
    if plain is not None:
        save(source.found.model, plain)
        ui.say(f"{plain}: the model without Q/DQ")
    if precisions is not None:
        layers.save(precisions)
        tell_precisions(ui, layers, precisions)
    return {"precisions": layers.to_json()}


def _write_qdq(ui: Ui, table: ScaleTable, graph: Model | None, out: Path, device: Target | None) -> dict[str, Any]:
    """Write the model with the scales as Q/DQ nodes, for a DLA on every tensor, its opset raised where it must be."""
    from trtforge.errors.usage import WrongUsage
    from trtforge.graph.io import default_opset, save
    from trtforge.graph.surgery import perform
    from trtforge.scales.codecs.qdq import MIN_OPSET, insert

    if graph is None:
        raise WrongUsage(
            "--to qdq needs the model that the scales are for",
            why="the Q/DQ nodes are written into its graph",
            next="add `--model MODEL.onnx`: the float model that was calibrated",
        )
    opset = default_opset(graph.proto) or 0
    if opset < MIN_OPSET:
        graph = perform(graph, ["upgrade-opset"]).model
        ui.say(f"opset raised from {opset} to {default_opset(graph.proto)}: Q/DQ per channel needs {MIN_OPSET}")
    quantized, report = insert(graph, table, for_dla=device is not None and device.is_dla)
    save(quantized, out)
    counts = report.to_json()["quantized"]
    told = ", ".join(f"{counts[kind]} {kind}" for kind in ("conv", "conv_transpose", "gemm", "matmul") if counts[kind])
    ui.say(f"{out}: {len(report.tensors)} activations with Q/DQ nodes; in INT8: {told}")
    placed = set(report.tensors)
    if idle := [name for name in table.ranges if name not in placed]:
        told = count(
            len(idle),
            "scale has no place in the graph, where no INT8 layer reads it",
            "scales have no place in the graph, where no INT8 layer reads them",
        )
        ui.say(f"  {told}: {some(idle)}")
    if changed := list(report.zero_range):
        told = count(len(changed), "scale is", "scales are")
        ui.say(f"  {told} too small to divide by, of tensors that are zero in effect, and 1 now: {some(changed)}")
    if report.left_float:
        ui.say(f"{count(len(report.left_float), 'node stays', 'nodes stay')} in float:")
        for node in report.left_float[:SHOWN]:
            ui.say(f"  {node.op} {node.node}: {node.reason}; {node.consequence}")
        tell_rest(ui, len(report.left_float))
    return {"qdq": {"tensors": list(report.tensors), "not_placed": idle, **report.to_json()}}
