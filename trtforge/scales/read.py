"""Scales in whatever form they come, told apart by content, and in whatever form they are wanted."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

from trtforge.errors.calibration import ScalesFileInvalid
from trtforge.graph import io
from trtforge.scales import table_json
from trtforge.scales.codecs import ort_json
from trtforge.scales.codecs.qdq import extract
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache
from trtforge.scales.table import ScaleTable

ReadForm = Literal["json", "trt-cache", "ort-json", "qdq-model"]
WriteForm = Literal["json", "trt-cache", "ort-json"]

_PEEK = 4096


def read_any(path: Path) -> tuple[ScaleTable, ReadForm]:
    """A table from a scales JSON, a TensorRT cache, onnxruntime's JSON or an ONNX model with Q/DQ nodes.

    Raises ScalesFileInvalid when there is no such file, else the errors of the codec the content points to.
    """
    form = _form_of(path)
    if form == "trt-cache":
        return CalibrationCache.load(path).to_table(), form
    if form == "qdq-model":
        return extract(io.load(path))[1], form
    if form == "ort-json":
        return ort_json.load(path), form
    return ScaleTable.load(path), form


def write_as(
    table: ScaleTable,
    path: Path,
    form: WriteForm | str,
    *,
    tensorrt: str = "",
    algorithm: Algorithm | str = "MinMaxCalibration",
) -> list[str]:
    """Write a table in another form; returns the tensors that were written with a stand-in scale of 1 (zero range).

    ``tensorrt`` and ``algorithm`` make the header of a cache. Raises OSError, TensorRTCacheUnsupported.
    """
    if form == "trt-cache":
        CalibrationCache.from_table(table, tensorrt=tensorrt, algorithm=cast(Algorithm, algorithm)).save(path)
        return [name for name, seen in table.ranges.items() if seen.scale == 0]
    if form == "ort-json":
        ort_json.save(table, path)
    elif form == "json":
        table.save(path)
    else:
        raise ValueError(f"{form!r} is not a form a table can be written in")
    return []


def plain_model(quantized: Path, out: Path) -> None:
    """Write the float model behind a Q/DQ model. Raises ONX errors, QdqNotPlain."""
    io.save(extract(io.load(quantized))[0], out)


def _form_of(path: Path) -> ReadForm:
    try:
        with path.open("rb") as stream:
            head = stream.read(_PEEK)
    except OSError as error:
        raise ScalesFileInvalid(
            "the scales file cannot be opened",
            where=str(path),
            why=error.strerror or str(error),
            next="give a scales JSON, a TensorRT cache, onnxruntime's calibration.json or a Q/DQ model",
        ) from error
    if head.startswith(b"TRT-"):
        return "trt-cache"
    if not head.lstrip().startswith((b"{", b"[")):
        return "qdq-model" if path.suffix == ".onnx" or b"\0" in head else "json"
    return "json" if _has_our_format(path) else "ort-json"


def _has_our_format(path: Path) -> bool:
    """Is this JSON object ours? What cannot be parsed counts as ours: its error then says where it breaks."""
    try:
        value = table_json.parse_strictly(path.read_text(encoding="utf-8", errors="replace"), where=str(path))
    except ScalesFileInvalid:
        return True
    return not isinstance(value, dict) or "format" in value or "ranges" in value
