"""Scales from whatever file holds them, and back: the form is told by the content, never by the file's name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

from trtforge.errors.calibration import ScalesFileInvalid
from trtforge.scales.table import ScaleTable

Form = Literal["trtforge JSON", "TensorRT cache", "onnxruntime JSON", "Q/DQ model"]


def read_any(path: Path) -> tuple[ScaleTable, Form]:
    """The table in a file and the form it was in. A Q/DQ model gives the scales of its activations.

    Raises ScalesFileInvalid, and the errors of the form's own reader.
    """
    head = _head(path)
    if head.startswith(b"TRT-"):
        from trtforge.scales.codecs.trt_cache import CalibrationCache

        return CalibrationCache.load(path).to_table(), "TensorRT cache"
    if head.lstrip()[:1] in (b"{", b"["):
        if _is_own(path):
            return ScaleTable.load(path), "trtforge JSON"
        from trtforge.scales.codecs import ort_json

        return ort_json.load(path), "onnxruntime JSON"
    from trtforge.graph.io import load
    from trtforge.scales.codecs.qdq_extract import extract

    return extract(load(path))[1], "Q/DQ model"


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
