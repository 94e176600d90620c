"""The recipe's JSON Schema for editors and CI, and the table of keys in the guide.

Both are generated from the models by ``python -m trtforge.recipe.schema`` and committed; a test fails when they
are out of date.

A schema sees one file, a recipe may be several, so it has two forms of every object. A file with ``target`` and
without ``extends`` must be complete. Any other file is a part: the same keys and values, none of them required.
In both, ``null`` stands for "drop this key", and ``"${VAR}"`` may stand wherever a number or a fixed word may.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trtforge.files import write_text
from trtforge.recipe.models import Recipe
from trtforge.recipe.problems import PATTERNS

SCHEMA_FILE = Path("recipes/recipe.schema.json")
GUIDE_FILE = Path("docs/recipes.md")
BEGIN, END = "<!-- keys: generated, see trtforge/recipe/schema.py -->", "<!-- end of keys -->"

PART = "Part"
"""Suffix of the definitions whose keys are all optional."""

_VARIABLE = {"$ref": "#/$defs/Variable"}
_NULL = {"type": "null"}


def json_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of one recipe file."""
    models = _models()
    definitions: dict[str, Any] = {
        "Variable": {
            "description": "A value from the environment: ${NAME}, or ${NAME:-default}",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        }
    }
    parts = {f"#/$defs/{name}" for name, model in models.items() if "required" in model}
    for name, model in models.items():
        definitions[name] = _object(model, parts=frozenset())
        if f"#/$defs/{name}" in parts:
            definitions[name + PART] = _object(model, parts=frozenset(parts))
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "urn:trtforge:recipe:1",
        "title": "trtforge recipe",
        "description": models["Recipe"]["description"],
        "type": "object",
        "if": {"required": ["target"], "not": {"required": ["extends"]}},
        "then": {"$ref": "#/$defs/Recipe"},
        "else": {"$ref": f"#/$defs/Recipe{PART}"},
        "$defs": definitions,
    }


def key_table() -> str:
    """A Markdown table of every key: where it stands, what it takes, what it is when left out, what it means."""
    rows = ["| key | takes | when left out | meaning |", "|---|---|---|---|"]
    rows += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in _rows("Recipe", "")]
    return "\n".join(rows)


def with_key_table(guide: str) -> str:
    """The text of the guide with its generated part made anew. Raises ValueError when the markers are gone."""
    before, begin, rest = guide.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{GUIDE_FILE} has lost its markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n\n{key_table()}\n\n{END}{after}"


def render() -> str:
    """The committed text of the schema."""
    return json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n"


def _models() -> dict[str, dict[str, Any]]:
    """pydantic's schema of every model by name, the recipe itself among them."""
    recipe = Recipe.model_json_schema()
    return {**recipe.pop("$defs"), "Recipe": recipe}


def _object(model: dict[str, Any], parts: frozenset[str]) -> dict[str, Any]:
    """A model's definition. ``parts``: references to take in the form without required keys; empty: none is."""
    required = [] if parts else model.get("required", [])
    properties = {}
    for name, schema in model["properties"].items():
        value = _value(schema, parts)
        properties[name] = value if name in required else _or(value, _NULL)
    result = {"description": model["description"], "type": "object", "properties": properties}
    return {**result, **({"required": required} if required else {}), "additionalProperties": False}


def _value(schema: dict[str, Any], parts: frozenset[str]) -> dict[str, Any]:
    """A property's schema with references to this form, null and ${VAR} allowed, pydantic's noise left out."""
    if "$ref" in schema:
        return {**_about(schema), "$ref": schema["$ref"] + (PART if schema["$ref"] in parts else "")}
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        kept = [_value(choice, parts) for choice in choices if choice != _NULL]
        return {**_about(schema), **(kept[0] if len(kept) == 1 else {"anyOf": _flat(kept)})}
    result = {key: value for key, value in schema.items() if key not in ("title", "default") or key in _about(schema)}
    if schema.get("type") == "array":
        for key in ("items", "prefixItems"):
            if key in schema:
                inner = schema[key]
                result[key] = [_value(i, parts) for i in inner] if isinstance(inner, list) else _value(inner, parts)
        return result
    if schema.get("type") == "object":
        if "patternProperties" in schema:
            inner = schema["patternProperties"].items()
            result["patternProperties"] = {key: _entry(value, parts) for key, value in inner}
            result["additionalProperties"] = False
        else:
            result["additionalProperties"] = _entry(schema["additionalProperties"], parts)
        if parts:
            result.pop("minProperties", None)
        return result
    is_free_text = schema.get("type") == "string" and not {"enum", "const", "pattern"} & set(schema)
    return result if is_free_text else _or(result, _VARIABLE)


def _entry(schema: dict[str, Any], parts: frozenset[str]) -> dict[str, Any]:
    """A named entry of a mapping; in a part it may be null, which drops what the base says under that name."""
    return _or(_value(schema, parts), _NULL) if parts else _value(schema, parts)


def _about(schema: dict[str, Any]) -> dict[str, Any]:
    """What an editor shows: the description, and the default when there is one to speak of."""
    about = {"description": schema["description"]} if "description" in schema else {}
    return about if schema.get("default") is None else {**about, "default": schema["default"]}


def _or(schema: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """``schema`` or ``other``, the description kept outside where editors look for it."""
    about = _about(schema)
    bare = {key: value for key, value in schema.items() if key not in about}
    return {**about, "anyOf": _flat([bare, other])}


def _flat(choices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Nested ``anyOf`` pulled up, repetitions dropped."""
    flat: list[dict[str, Any]] = []
    for choice in choices:
        for inner in choice["anyOf"] if set(choice) == {"anyOf"} else [choice]:
            if inner not in flat:
                flat.append(inner)
    return flat


def _rows(name: str, path: str) -> Iterator[tuple[str, str, str, str]]:
    """The table's rows of one model and of all below it, depth first."""
    models = _models()
    model = models[name]
    for key, schema in model["properties"].items():
        if "const" in schema and "default" not in schema:
            continue  # the tag of a union: told once, with the union itself
        full = f"{path}{key}"
        default = "required" if key in model.get("required", []) else _default(schema)
        yield f"`{full}`", _takes(schema), default, schema.get("description", "")
        if "discriminator" in schema:
            tag = schema["discriminator"]["propertyName"]
            tags = [models[inner]["properties"][tag] for _, inner in _inner_models(schema)]
            meaning = "; ".join(choice["description"] for choice in tags)
            yield f"`{full}.{tag}`", ", ".join(_takes(choice) for choice in tags), "required", meaning
        for placeholder, inner in _inner_models(schema):
            yield from _rows(inner, f"{full}.{placeholder}")


def _default(schema: dict[str, Any]) -> str:
    default = schema.get("default")
    return "" if default in (None, []) else f"`{json.dumps(default)}`".replace('"', "")


def _inner_models(schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(placeholder for the name in between, model) of every object a property can hold."""
    for choice in schema.get("anyOf") or schema.get("oneOf") or [schema]:
        if "$ref" in choice:
            yield "", choice["$ref"].rpartition("/")[2]
        elif choice.get("type") == "object":
            entries = next(iter(choice.get("patternProperties", {}).values()), choice.get("additionalProperties"))
            if "$ref" in entries:  # not so where the entries are lists
                yield "NAME.", entries["$ref"].rpartition("/")[2]


def _takes(schema: dict[str, Any]) -> str:
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " or ".join(dict.fromkeys(_takes(choice) for choice in choices if choice != _NULL))
    if "$ref" in schema or schema.get("type") == "object":
        return "mapping"
    if "enum" in schema or "const" in schema:
        return ", ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    if schema.get("type") == "array":
        inner = schema.get("prefixItems") or [schema["items"]]
        count = f"{len(inner)} × " if "prefixItems" in schema else ""
        return f"list: {count}{_takes(inner[0])}"
    if "pattern" in schema:
        return PATTERNS[schema["pattern"]]
    words = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true`, `false`"}
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("exclusiveMinimum", ">"), ("minimum", "≥"), ("maximum", "≤"))
        if key in schema
    ]
    return " ".join([words[schema["type"]], ", ".join(bounds)]).strip()


def main(root: Path) -> None:
    """Write both generated files below the root of the repository."""
    write_text(root / SCHEMA_FILE, render())
    guide = root / GUIDE_FILE
    write_text(guide, with_key_table(guide.read_text(encoding="utf-8")))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path())
