"""Scales from whatever file holds them, and back: the form is told by the content, never by the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from trtforge.errors.calibration import ScalesFileInvalid
from trtforge.scales.table import ScaleTable

Form = Literal["trtforge JSON", "TensorRT cache", "onnxruntime JSON", "Q/DQ model"]
QDQ_MODEL: Literal["Q/DQ model"] = "Q/DQ model"


def form_of(path: Path) -> Form:
    """The form a file claims to be in; what is none of the others is taken for a model. Raises ScalesFileInvalid."""
    head = _head(path)
    if head.startswith(b"TRT-"):
        return "TensorRT cache"
    if head.lstrip()[:1] in (b"{", b"["):
        return "trtforge JSON" if _is_own(path) else "onnxruntime JSON"
    return QDQ_MODEL


def read_any(path: Path) -> tuple[ScaleTable, Form]:
    """The table in a file and the form it was in. A Q/DQ model gives the scales of its activations.

    Raises ScalesFileInvalid, and the errors of the form's own reader.
    """
    form = form_of(path)
    if form == "TensorRT cache":
        from trtforge.scales.codecs.trt_cache import CalibrationCache

        return CalibrationCache.load(path).to_table(), form
    if form == "trtforge JSON":
        return ScaleTable.load(path), form
    if form == "onnxruntime JSON":
        from trtforge.scales.codecs import ort_json

        return ort_json.load(path), form
    from trtforge.graph.io import load
    from trtforge.scales.codecs.qdq_extract import extract

    return extract(load(path))[1], form


def _head(path: Path) -> bytes:
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


def _is_own(path: Path) -> bool:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return True  # ScaleTable.load says what is wrong with it
    return isinstance(value, dict) and "format" in value
