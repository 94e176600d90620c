"""Frozen dataclasses as strict JSON: read with the place of every mistake, and described as a JSON Schema.

A manifest is read on every run of the command line, so this stays with the standard library: reading one takes
well under a millisecond and imports nothing. Understood field types: str, int, float, bool, Any, ``X | None``,
``tuple[X, ...]``, ``Mapping[str, X]``, ``dict[str, X]`` and other records, each also as ``Annotated[X, Doc(...)]``.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, TypeVar

Record = TypeVar("Record")

_SCALARS: dict[Any, tuple[str, str]] = {
    str: ("string", "text"),
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
    bool: ("boolean", "true or false"),
}


DIGITS = 300
"""Of a whole number at most: less than the largest float has."""


class Doc:
    """What a field means, and its JSON Schema constraints such as ``pattern``: for the schema only."""

    def __init__(self, description: str, **constraints: Any) -> None:
        self.schema = {"description": description, **constraints}


class RecordError(ValueError):
    """A JSON value does not fit its record. ``place`` is a path such as ``inputs[0].shape``."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"{place}: {problem}" if place else problem)
        self.place = place
        self.problem = problem


def parse(data: bytes) -> Any:
    """A JSON text as a value: stricter than `json.loads`, for what another machine wrote.

    Raises :class:`RecordError` for what is no UTF-8, no JSON or too deeply nested, for a key that comes twice, for half
    a surrogate pair, and for a number that no float holds.
    """
    try:
        value = json.loads(
            data.decode(),
            object_pairs_hook=_unique,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=_finite,
        )
        if b"\\u" in data:
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise RecordError("", f"byte {error.start} is not UTF-8") from error
    except UnicodeEncodeError as error:
        raise RecordError("", f"{error.object[error.start : error.end]!r} is no character") from error
    except json.JSONDecodeError as error:
        raise RecordError("", f"it is not JSON: line {error.lineno}, column {error.colno}") from error
    except RecursionError as error:
        raise RecordError("", "it is nested too deeply") from error
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        times = Counter(name for name, _ in pairs)
        raise RecordError("", f"the key {_named(next(name for name, _ in pairs if times[name] > 1))} comes twice")
    return value


def _whole(text: str) -> int:
    if len(text) > DIGITS:
        raise RecordError("", f"a number of {len(text)} digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RecordError("", f"{text[:20]} is no number")
    return value


def to_json(record: Any) -> Any:
    """The JSON value of a record: dictionaries, lists and scalars, every field present."""
    if dataclasses.is_dataclass(record) and not isinstance(record, type):
        return {field.name: to_json(getattr(record, field.name)) for field in dataclasses.fields(record)}
    if isinstance(record, Mapping):
        return {key: to_json(value) for key, value in record.items()}
    if isinstance(record, (tuple, list)):
        return [to_json(value) for value in record]
    return record


def from_json(cls: type[Record], value: Any, place: str = "") -> Record:
    """Read a record from a JSON value. Unknown and missing keys and wrong types raise :class:`RecordError`."""
    fields: dict[str, tuple[Any, Doc | None]] = _fields(typing.cast(Any, cls))
    value = _expect(dict, "an object", value, place)
    if unknown := [key for key in value if key not in fields]:
        raise RecordError(place, f"unknown key {unknown[0]!r}")
    if missing := [key for key in fields if key not in value]:
        raise RecordError(place, f"key {missing[0]!r} is missing")
    return cls(**{key: _read(kind, value[key], f"{place}.{key}".lstrip(".")) for key, (kind, _) in fields.items()})


def json_schema(cls: type[Any], *, id: str, title: str) -> dict[str, Any]:
    """The JSON Schema (2020-12) of a record and of the records in it."""
    definitions: dict[str, Any] = {}
    body = _object_schema(cls, definitions)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": id, "title": title}
    return head | body | {"$defs": definitions}


def _read(kind: Any, value: Any, place: str) -> Any:
    if kind is Any:
        return value
    if kind in _SCALARS:
        return _read_scalar(kind, value, place)
    if dataclasses.is_dataclass(kind):
        return from_json(typing.cast(type[Any], kind), value, place)
    return _read_generic(kind, value, place)


def _read_scalar(kind: Any, value: Any, place: str) -> Any:
    # bool is a kind of int in Python, but not in JSON; an integer is a fine float.
    if type(value) is kind or (kind is float and type(value) is int):
        return kind(value)
    raise RecordError(place, f"expected {_SCALARS[kind][1]}, found {_named(value)}")


def _read_generic(kind: Any, value: Any, place: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return None if value is None else _read(_without_none(arguments), value, place)
    if origin is tuple:
        items = _expect(list, "a list", value, place)
        return tuple(_read(arguments[0], item, f"{place}[{index}]") for index, item in enumerate(items))
    if origin in (Mapping, dict):
        pairs = _expect(dict, "an object", value, place).items()
        return {key: _read(arguments[1], item, f"{place}[{key!r}]") for key, item in pairs}
    raise TypeError(f"{place}: no way to read {kind!r}")


def _schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    if kind is Any:
        return {}
    if kind in _SCALARS:
        return {"type": _SCALARS[kind][0]}
    if dataclasses.is_dataclass(kind):
        name = typing.cast(type[Any], kind).__name__
        definitions[name] = _object_schema(kind, definitions)
        return {"$ref": f"#/$defs/{name}"}
    return _generic_schema(kind, definitions)


def _generic_schema(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        return {"anyOf": [_schema(_without_none(arguments), definitions), {"type": "null"}]}
    if origin is tuple:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin in (Mapping, dict):
        values = _schema(arguments[1], definitions)
        return {"type": "object", "additionalProperties": values} if values else {"type": "object"}
    raise TypeError(f"no schema for {kind!r}")


def _object_schema(cls: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    properties = {
        name: _schema(kind, definitions) | (doc.schema if doc else {}) for name, (kind, doc) in _fields(cls).items()
    }
    summary = " ".join((cls.__doc__ or "").split("\n\n")[0].split())
    return {
        "description": summary,
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


@cache
def _fields(cls: Any) -> dict[str, tuple[Any, Doc | None]]:
    """Field name -> (its type, its Doc)."""
    hints = typing.get_type_hints(cls, include_extras=True)
    return {field.name: _split(hints[field.name]) for field in dataclasses.fields(cls)}


def _split(hint: Any) -> tuple[Any, Doc | None]:
    if typing.get_origin(hint) is not typing.Annotated:
        return hint, None
    kind, *extras = typing.get_args(hint)
    return kind, next((extra for extra in extras if isinstance(extra, Doc)), None)


def _without_none(arguments: tuple[Any, ...]) -> Any:
    (kind,) = (argument for argument in arguments if argument is not types.NoneType)
    return kind


def _expect(kind: type, words: str, value: Any, place: str) -> Any:
    if not isinstance(value, kind):
        raise RecordError(place, f"expected {words}, found {_named(value)}")
    return value


def _named(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
