"""onnxruntime's calibration tables in JSON: read both of its layouts, write the one its own loader reads.

``write_calibration_table`` writes ``calibration.json`` (tensor -> lowest, highest); ``save_tensors_data`` wraps the
same in an object that names the method. Beside them onnxruntime writes ``calibration.cache`` and
``calibration.flatbuffers``, which hold the signed maximum of a range and so lose the larger side of an asymmetric one;
these two are not read here, on purpose.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.errors.calibration import InvalidRange, OnnxruntimeTableInvalid, ScalesFileInvalid
from trtforge.files import write_text
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.scales.table_json import parse_strictly


def to_ort_json(table: ScaleTable) -> str:
    """The text of ``save_tensors_data``; ``onnxruntime.quantization.calibrate.load_tensors_data`` reads it.

    Limits are rounded to float32, which is what onnxruntime holds: ranges collected in float32 are exact.
    """
    return json.dumps(
        {
            "CLS": "TensorsData",
            "data": {
                name: {"lowest": _number(seen.min), "highest": _number(seen.max), "CLS": "TensorData"}
                for name, seen in sorted(table.ranges.items())
            },
            "calibration_method": {"CLS": "CalibrationMethod", "value": "CalibrationMethod.MinMax"},
            "smooth_quant": False,
        },
        allow_nan=False,
        ensure_ascii=False,
    )


def rounded(table: ScaleTable) -> tuple[str, ...]:
    """Tensors whose scale is another after reading :func:`to_ort_json`: amax is 127 times a scale, and that may need
    more bits than a float32 limit has.
    """
    read = from_ort_json(to_ort_json(table)).ranges if table.ranges else {}
    return tuple(name for name, seen in table.ranges.items() if read[name].scale != seen.scale)


def save(table: ScaleTable, path: Path) -> None:
    """Write the file whole or not at all. Raises OSError."""
    write_text(path, to_ort_json(table))


def from_ort_json(text: str, *, where: str = "calibration.json") -> ScaleTable:
    """A table without receipt; ``count`` is 0, since onnxruntime does not keep it. Raises OnnxruntimeTableInvalid."""
    try:
        value = parse_strictly(text, where=where)
    except ScalesFileInvalid as error:
        raise _invalid(error.where, error.why) from error
    if isinstance(value, dict) and value.get("CLS") == "TensorsData":
        value = value.get("data")
    if not isinstance(value, dict) or not value:
        raise _invalid(where, "it is not an object from tensor names to ranges")
    ranges = {name: _range(name, entry, where) for name, entry in value.items()}
    try:
        return ScaleTable(ranges, notes={"onnxruntime_table": True})
    except InvalidRange as error:
        raise _invalid(f"{where}: {error.where}", error.why) from error


def load(path: Path) -> ScaleTable:
    """Raises OnnxruntimeTableInvalid, also when the file cannot be read."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise _invalid(str(path), str(error)) from error
    return from_ort_json(text, where=str(path))


def _number(value: float) -> dict[str, Any]:
    limit = float(np.finfo(np.float32).max)
    return {"data": float(np.float32(min(max(value, -limit), limit))), "dtype": "float32", "CLS": "numpy.array"}


def _range(name: str, entry: Any, where: str) -> TensorRange:
    if isinstance(entry, list) and len(entry) == 2:  # onnxruntime before 1.16
        low, high = entry
    elif isinstance(entry, dict) and "lowest" in entry and "highest" in entry:
        low, high = entry["lowest"], entry["highest"]
    else:
        raise _invalid(f"{where}: {name}", "the tensor has no `lowest` and `highest`")
    return TensorRange(_scalar(low, f"{where}: {name}"), _scalar(high, f"{where}: {name}"), 0)


def _scalar(value: Any, where: str) -> float:
    """A number as onnxruntime writes it: bare, in an array object, or in a list of one."""
    if isinstance(value, dict) and value.get("CLS") == "numpy.array":
        value = value.get("data")
    while isinstance(value, list):
        if len(value) != 1:
            raise _invalid(where, f"the range has {len(value)} values; activations are quantized per tensor")
        value = value[0]
    try:
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            return float(value)
    except OverflowError as error:
        raise _invalid(where, "an integer is too large for a float") from error
    raise _invalid(where, f"{value!r} is not a finite number")


def _invalid(where: str, why: str) -> OnnxruntimeTableInvalid:
    return OnnxruntimeTableInvalid(
        "not a calibration table of onnxruntime",
        where=where,
        why=why,
        next="write it again with onnxruntime, or calibrate here: `trtforge calibrate RECIPE`",
    )
