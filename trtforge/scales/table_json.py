"""The file of a ScaleTable: canonical JSON, read strictly, exact to the last bit.

Floats are written as the shortest decimal that gives the same float64 back, so a float32 range (and the 31-bit amax of
an imported scale) survives unchanged.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trtforge.errors.calibration import InvalidRange, ScalesFileInvalid, ScalesTooNew
from trtforge.files import write_json
from trtforge.scales.table import Receipt, ScaleTable, TensorRange, check_range

FORMAT = "trtforge.scales"
VERSION = 1

_STRINGS = {"type": "object", "additionalProperties": {"type": "string"}}

SCHEMA: dict[str, Any] = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "title": "trtforge ScaleTable",
    "type": "object",
    "additionalProperties": False,
    "required": ["format", "version", "ranges", "receipt", "notes"],
    "properties": {
        "format": {"const": FORMAT},
        "version": {"const": VERSION},
        "ranges": {
            "description": "Tensor name -> smallest and largest value seen in `count` samples (0: known only as amax)",
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["amax", "min", "max", "count"],
                "properties": {
                    "amax": {"type": "number", "minimum": 0},
                    "min": {"type": "number"},
                    "max": {"type": "number"},
                    "count": {"type": "integer", "minimum": 0},
                },
            },
        },
        "receipt": {
            "oneOf": [
                {"type": "null"},
                {
                    "type": "object",
                    "additionalProperties": False,
                    "required": [
                        "method",
                        "samples",
                        "set_digest",
                        "preprocessing",
                        "model_graph",
                        "model_weights",
                        "tools",
                        "uncovered",
                    ],
                    "properties": {
                        "method": {"type": "string"},
                        "samples": {"description": "Sample id -> sha256", **_STRINGS},
                        "set_digest": {"description": "Does not depend on the order of the samples", "type": "string"},
                        "preprocessing": {"type": "object"},
                        "model_graph": {"type": "string"},
                        "model_weights": {"type": "string"},
                        "tools": _STRINGS,
                        "uncovered": {
                            "description": "Float activations for which no range was seen",
                            "type": "array",
                            "items": {"type": "string"},
                        },
                    },
                },
            ]
        },
        "notes": {"type": "object"},
    },
}
"""JSON Schema of the file."""


def to_json(table: ScaleTable) -> dict[str, Any]:
    """The content of the file; equal tables give equal values in a fixed order of keys."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "ranges": {
            name: {"amax": seen.amax, "min": seen.min, "max": seen.max, "count": seen.count}
            for name, seen in sorted(table.ranges.items())
        },
        "receipt": None if table.receipt is None else table.receipt.to_json(),
        "notes": dict(table.notes),
    }


def save(table: ScaleTable, path: Path) -> None:
    write_json(path, to_json(table))


def load(path: Path) -> ScaleTable:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ScalesFileInvalid(
            "the scales file cannot be opened",
            where=str(path),
            why=error.strerror or str(error),
            next="run `trtforge calibrate RECIPE`, or correct `calibration.scales` in the recipe",
        ) from error
    except UnicodeDecodeError as error:
        raise _invalid(str(path), f"byte {error.start} is not UTF-8") from error
    return from_json(parse_strictly(text, where=str(path)), where=str(path))


def parse_strictly(text: str, *, where: str) -> Any:
    """JSON without its two traps: a key that comes twice and NaN/Infinity are refused (ScalesFileInvalid)."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise _invalid(where, f"the key {key!r} appears twice in one object")
            found[key] = value
        return found

    def no_constant(name: str) -> Any:
        raise _invalid(where, f"{name} is not a number JSON knows, nor a value a range can have")

    try:
        return json.loads(text, object_pairs_hook=unique, parse_constant=no_constant)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}:{error.colno}"
        if text.startswith("TRT-"):
            raise _a_cache(where) from error
        raise _invalid(at, f"not JSON: {error.msg}" if text.strip() else "the file is empty") from error
    except RecursionError as error:
        raise _invalid(where, "not JSON: nested too deeply") from error
    except ValueError as error:  # Python's limit, of which its own words say how to lift it in a program
        raise _invalid(where, "it holds an integer of thousands of digits, which is no range") from error


def from_json(value: Any, *, where: str = "") -> ScaleTable:
    top = _object(value, where, "the file")
    if top.get("format") != FORMAT:
        raise _invalid(where, f'`format` is {_shown(top.get("format"))}, not "{FORMAT}"')
    version = top.get("version")
    if isinstance(version, int) and version > VERSION:
        raise ScalesTooNew(
            f"the scales file has format version {version}",
            where=where,
            why=f"this trtforge knows versions up to {VERSION}",
            next="upgrade trtforge, or run `trtforge calibrate RECIPE` here",
        )
    if version != VERSION or isinstance(version, bool):
        raise _invalid(where, f"`version` is {_shown(version)}, not {VERSION}")
    _fields(top, SCHEMA["required"], where, "the file")
    ranges = _object(top["ranges"], where, "`ranges`")
    return ScaleTable(
        ranges={name: _range(name, entry, where) for name, entry in ranges.items()},
        receipt=None if top["receipt"] is None else _receipt(top["receipt"], where),
        notes=_object(top["notes"], where, "`notes`"),
    )


def _range(name: str, value: Any, where: str) -> TensorRange:
    what = f"the range of {name!r}"
    entry = _object(value, where, what)
    _fields(entry, ["amax", "min", "max", "count"], where, what)
    for key in ("amax", "min", "max"):
        if not isinstance(entry[key], int | float) or isinstance(entry[key], bool):
            raise _invalid(where, f"`{key}` of {what} is {_shown(entry[key])}, not a number")
    if not isinstance(entry["count"], int) or isinstance(entry["count"], bool):
        raise _invalid(where, f"`count` of {what} is {_shown(entry['count'])}, not an integer")
    try:
        amax, low, high = float(entry["amax"]), float(entry["min"]), float(entry["max"])
    except OverflowError as error:
        raise _invalid(where, f"{what} holds an integer too large for a float") from error
    seen = TensorRange(low, high, entry["count"])
    check_range(name, seen)
    if amax != seen.amax:
        raise InvalidRange(
            f"the range of tensor {name!r} contradicts itself",
            where=where or name,
            why=f"amax is {amax}, but min {seen.min} and max {seen.max} give {seen.amax}",
            next="do not edit scales by hand; run `trtforge calibrate RECIPE` again",
        )
    return seen


def _receipt(value: Any, where: str) -> Receipt:
    entry = _object(value, where, "`receipt`")
    _fields(entry, list(Receipt.__dataclass_fields__), where, "`receipt`")
    for key in ("method", "set_digest", "model_graph", "model_weights"):
        if not isinstance(entry[key], str):
            raise _invalid(where, f"`receipt.{key}` is {_shown(entry[key])}, not a string")
    uncovered = entry["uncovered"]
    if not isinstance(uncovered, list) or not all(isinstance(name, str) for name in uncovered):
        raise _invalid(where, "`receipt.uncovered` is not a list of strings")
    return Receipt(
        method=entry["method"],
        samples=_strings(entry["samples"], where, "`receipt.samples`"),
        set_digest=entry["set_digest"],
        preprocessing=_object(entry["preprocessing"], where, "`receipt.preprocessing`"),
        model_graph=entry["model_graph"],
        model_weights=entry["model_weights"],
        tools=_strings(entry["tools"], where, "`receipt.tools`"),
        uncovered=tuple(uncovered),
    )


def _object(value: Any, where: str, what: str) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        raise _invalid(where, f"{what} is {_kind(value)}, not an object")
    return dict(value)


def _strings(value: Any, where: str, what: str) -> dict[str, str]:
    found = _object(value, where, what)
    if not all(isinstance(item, str) for item in found.values()):
        raise _invalid(where, f"{what} holds a value that is not a string")
    return found


def _fields(entry: Mapping[str, Any], wanted: list[str], where: str, what: str) -> None:
    missing = [key for key in wanted if key not in entry]
    unknown = [key for key in entry if key not in wanted]
    if missing:
        raise _invalid(where, f"{what} lacks `{missing[0]}`")
    if unknown:
        raise _invalid(where, f"{what} has the unknown field `{unknown[0]}`")


def _invalid(where: str, why: str) -> ScalesFileInvalid:
    return ScalesFileInvalid(
        "the scales file cannot be read",
        where=where,
        why=why,
        next="make it again with `trtforge calibrate RECIPE` or `trtforge scales convert`",
    )


def _a_cache(where: str) -> ScalesFileInvalid:
    return ScalesFileInvalid(
        "the scales file cannot be read",
        where=where,
        why="this is a TensorRT calibration cache: nothing in it says which model and samples it is of",
        next="trtforge calibrate RECIPE writes scales with such a receipt; a cache itself is for trtexec, and "
        "`trtforge scales convert` makes Q/DQ of it",
    )


def _shown(value: Any) -> str:
    """A value as JSON writes it, cut where it is long."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _kind(value: Any) -> str:
    names = {type(None): "null", bool: "a boolean", str: "a string", list: "an array"}
    return names.get(type(value), "a number")
