"""Scales from whatever file holds them, and back: the form is told by the content, never by the file's name."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trtforge.errors.calibration import ScalesFileInvalid
from trtforge.errors.graph import NotAModel
from trtforge.scales.table import ScaleTable

if TYPE_CHECKING:
    from trtforge.graph.model import Model

Form = Literal["trtforge JSON", "TensorRT cache", "onnxruntime JSON", "Q/DQ model"]
QDQ_MODEL: Literal["Q/DQ model"] = "Q/DQ model"


def form_of(path: Path) -> Form:
    """The form a file claims to be in; what is none of the others and no text is taken for a model.

    Raises ScalesFileInvalid.
    """
    head = _head(path)
    if head.startswith(b"TRT-"):
        return "TensorRT cache"
    if head.lstrip()[:1] in (b"{", b"["):
        return _form_of_json(path)
    if head.startswith((codecs.BOM_UTF8, codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise _no_scales(path, "it begins with a byte order mark, which TensorRT does not read: save it as plain UTF-8")
    if _is_text(head):
        raise _no_scales(path, "it is text of another kind")
    return QDQ_MODEL


def load_quantized(path: Path) -> Model:
    """The model that a file without another form holds. Raises ScalesFileInvalid, and what `graph.io.load` does."""
    from trtforge.graph.io import load

    try:
        return load(path)
    except NotAModel as error:
        if path.suffix == ".onnx":  # it says that it is one
            raise
        raise _no_scales(path, error.why) from error


def read_any(path: Path) -> tuple[ScaleTable, Form]:
    """The table in a file and the form it was in. A Q/DQ model gives the scales of its activations.

    Raises ScalesFileInvalid, and the errors of the form's own reader.
    """
    form = form_of(path)
    if form == "TensorRT cache":
        from trtforge.scales.codecs.trt_cache import CalibrationCache

        table = CalibrationCache.load(path).to_table()
    elif form == "trtforge JSON":
        table = ScaleTable.load(path)
    elif form == "onnxruntime JSON":
        from trtforge.scales.codecs import ort_json

        table = ort_json.load(path)
    else:
        from trtforge.scales.codecs.qdq_extract import extract

        return extract(load_quantized(path))[1], form  # a model may have scales of weights alone
    if not table.ranges:
        raise _no_scales(path, f"it is a {form} without a single scale, as an interrupted write leaves it")
    return table, form


def _head(path: Path) -> bytes:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise ScalesFileInvalid(
            "the scales cannot be read",
            where=str(path),
            why="it is a pipe or a device, and scales are read more than once",
            next="write them to a file first",
        )
    try:
        with path.open("rb") as stream:
            return stream.read(64)
    except OSError as error:
        raise ScalesFileInvalid(
            "the scales cannot be read",
            where=str(path),
            why=error.strerror or str(error),
            next="trtforge calibrate RECIPE writes a scales file",
        ) from error


def _form_of_json(path: Path) -> Form:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return "trtforge JSON"  # ScaleTable.load says what is wrong with it
    if isinstance(value, dict) and "format" in value:
        return "trtforge JSON"
    if isinstance(value, dict) and (value.get("CLS") == "TensorsData" or any(map(_is_limits, value.values()))):
        return "onnxruntime JSON"
    raise _no_scales(path, "it is JSON of another kind")


def _is_limits(entry: object) -> bool:
    """A range as onnxruntime writes it, or meant to be one."""
    return (isinstance(entry, dict) and bool(entry.keys() & {"lowest", "highest"})) or (
        isinstance(entry, list) and len(entry) == 2
    )


def _is_text(head: bytes) -> bool:
    """Lines for people. A model begins with numbers of fields, among them characters that no text has."""
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)  # the last character may be cut
    except UnicodeDecodeError:
        return False
    return text != "" and all(char.isprintable() or char in "\t\n\r\f" for char in text)


def _no_scales(path: Path, why: str) -> ScalesFileInvalid:
    return ScalesFileInvalid(
        "this is no file of scales",
        where=str(path),
        why=f"{why}; scales are a JSON of trtforge or onnxruntime, a TensorRT cache (its first line begins with TRT-), "
        "or an ONNX model with Q/DQ nodes",
        next="`trtforge calibrate RECIPE` writes a scales file",
    )
