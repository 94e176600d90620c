"""What is wrong with a recipe, in words: pydantic's errors become places, expectations and the closest right key."""

from __future__ import annotations

import difflib
import re
import types
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import Contradiction, InvalidRecipe, MissingKey, UnknownKey, WrongValue
from trtforge.recipe.document import KeyPath, Node, dotted, kind_of
from trtforge.recipe.models import Recipe
from trtforge.recipe.preprocess import PREPROCESSES

MAX_LISTED = 10

PATTERNS = {
    r"^[0-9a-f]{64}$": "64 lower-case hexadecimal digits (sha256sum FILE prints them)",
    r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$": "at most 100 letters, digits, `.`, `_` and `-`, the first a letter or digit",
    r"^[LRAPSI]{3}$": "three of the letters LR, AP and SI, such as IPL or RAS",
    r"^[1-9]\d*(KiB|MiB)$": "a size such as 512KiB or 1MiB",
    r"^[1-9]\d*(KiB|MiB|GiB)$": "a size such as 512MiB or 1GiB",
}
"""The patterns of the models in words; a test holds the two together."""

_EXPECTED = {
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "tuple_type": "a list",
    "list_type": "a list",
    "string_too_short": "some text",
}


_TAG_ERRORS = ("union_tag_invalid", "union_tag_not_found")

_BOUNDS = {
    "greater_than": ("gt", "a number above"),
    "greater_than_equal": ("ge", "a number of at least"),
    "less_than": ("lt", "a number below"),
    "less_than_equal": ("le", "a number of at most"),
}


def problems_of(error: ValidationError, tree: Node) -> dict[KeyPath, TrtforgeError]:
    """One error per place in the recipe, in the order of the file. ``tree`` is what was validated."""
    grouped: dict[KeyPath, list[ErrorDetails]] = {}
    for details in error.errors(include_url=False):
        grouped.setdefault(_path_of(details, tree), []).append(details)
    # of a key that takes a number or a list of them: what is wrong in a list is not that it is no number
    for path in {path[:-1] for path in grouped if path and isinstance(path[-1], int)}:
        grouped.pop(path, None)
    return {path: _problem(path, details, tree) for path, details in grouped.items()}


def raise_if_any(problems: Mapping[KeyPath, TrtforgeError], tree: Node, name: str) -> None:
    """One problem is raised as itself, several as InvalidRecipe that lists them (the first ten in words)."""
    places = {path: node_at(tree, path).at for path in problems}
    in_order = sorted(problems, key=lambda path: (str(places[path].path), places[path].line, places[path].column))
    found = [problems[path] for path in in_order]
    if not found:
        return
    if len(found) == 1:
        raise found[0]
    lines = []
    for number, problem in enumerate(found[:MAX_LISTED], start=1):
        lines.append(f"{number}. {problem.code} {problem.what}")
        lines += [f"   {label}: {text}" for label, text in problem._parts() if text]
    if len(found) > MAX_LISTED:
        lines.append(f"and {len(found) - MAX_LISTED} more")
    raise InvalidRecipe(
        f"{name} has {len(found)} problems",
        where=found[0].where,
        why="\n    ".join(["all that was found:", *lines]),
        next="edit the places named above; `trtforge explain CODE` says more about a code",
        problems=found,
    )


def node_at(tree: Node, path: KeyPath) -> Node:
    """The node of a key path, or the nearest one above it that exists."""
    node = tree
    for part in path:
        child = _child(node, part)
        if child is None:
            break
        node = child
    return node


def _child(node: Node, part: str | int) -> Node | None:
    if isinstance(node.value, dict):
        return node.value.get(str(part))
    if isinstance(node.value, list) and isinstance(part, int) and part < len(node.value):
        return node.value[part]
    return None


def _path_of(details: ErrorDetails, tree: Node) -> KeyPath:
    """pydantic's location without the parts that are names of union members rather than keys."""
    path: KeyPath = ()
    node = tree
    for part in details["loc"]:
        child = _child(node, part)
        if child is not None:
            node, path = child, (*path, part)
    if details["type"] == "missing" and not isinstance(node.value, list):
        return (*path, details["loc"][-1])
    if details["type"] in _TAG_ERRORS:
        return (*path, "kind")
    return path


def _problem(path: KeyPath, group: list[ErrorDetails], tree: Node) -> TrtforgeError:
    first = group[0]
    node = node_at(tree, path)
    if first["type"] == "extra_forbidden":
        return _unknown_key(path, node, _kind(first))
    if first["type"] == "union_tag_not_found" or (first["type"] == "missing" and not isinstance(node.value, list)):
        return _missing_key(path, node, tree)
    if first["type"] == "value_error":
        return _contradiction(path, first, node)
    if path and first["loc"][-1] == "[key]":
        return WrongValue(
            f"`{path[-1]}` is no name for an engine",
            where=str(node.key_at),
            why=f"expected {_expected(first)}",
            next="rename it",
        )
    length = _length(path, _kind(first))
    expected = " or ".join(dict.fromkeys(_expected(details, length) for details in group))
    found = f"the number {node.text}" if node.text else kind_of(node.plain())
    return WrongValue(
        f"`{dotted(path)}` has a wrong value" if path else "the recipe is no mapping",
        where=str(node.at),
        why=f"expected {expected}, found {found}" + (f" (from `{node.raw}`)" if node.raw else ""),
        next=_value_hint(first, node) or _brackets(first, node, length) or f"write {expected}",
    )


def _brackets(details: ErrorDetails, node: Node, length: int) -> str:
    """A single word where a list is wanted, in brackets; a list of one number where the number is, without them."""
    if details["type"] in ("tuple_type", "list_type") and isinstance(node.value, str | int | float):
        word = node.text or node.value
        return f"write {length} values: `[{word}, ...]`" if length > 1 else f"write `[{word}]`"
    if details["type"] in ("int_type", "float_type") and isinstance(node.value, list) and len(node.value) == 1:
        return f"write `{node.value[0].text}`" if node.value[0].text else ""
    return ""


def _kind(details: ErrorDetails) -> str:
    """The kind of `preprocess` that the error is in; `image`, the first, when it is in none."""
    places = details["loc"]
    tag = places[places.index("preprocess") + 1] if "preprocess" in places[:-1] else ""
    return str(tag) if tag in PREPROCESSES else "image"


def _length(path: KeyPath, kind: str) -> int:
    """How many values the list at a key path has; 0 when any number will do, or it takes no list."""
    *parent, key = path or ("",)
    model = _model_at(tuple(parent))
    model = PREPROCESSES[kind] if model in PREPROCESSES.values() else model
    field = model.model_fields.get(str(key)) if model else None
    choices = (field.annotation, *get_args(field.annotation)) if field else ()
    shapes = [get_args(choice) for choice in choices if get_origin(choice) is tuple]
    return next((len(shape) for shape in shapes if ... not in shape), 0)


def _unknown_key(path: KeyPath, node: Node, kind: str) -> UnknownKey:
    *parent, key = path
    model = _model_at(tuple(parent))
    if model in PREPROCESSES.values():
        model = PREPROCESSES[kind]
    allowed = sorted(model.model_fields) if model else []
    close = difflib.get_close_matches(str(key), allowed, n=1)
    if close:
        hint = f"did you mean `{close[0]}`?"
    elif model in PREPROCESSES.values() and (kinds := _kinds_with(str(key))):
        hint = f"`{key}` goes with {' or '.join(f'`kind: {name}`' for name in kinds)}"
    elif homes := _homes(str(key)):
        hint = f"`{key}` belongs in {' or '.join(homes)}"
    else:
        hint = "delete it, or use one of the keys allowed here"
    place = f"`{dotted(tuple(parent))}`" if parent else "the recipe itself"
    return UnknownKey(
        f"unknown key `{key}` in {place}", where=str(node.key_at), why=f"allowed there: {', '.join(allowed)}", next=hint
    )


def _kinds_with(key: str) -> list[str]:
    return [name for name, model in PREPROCESSES.items() if key in model.model_fields]


def _missing_key(path: KeyPath, node: Node, tree: Node) -> MissingKey:
    *parent, key = path
    place = f"`{dotted(tuple(parent))}`" if parent else "the recipe"
    model = _model_at(tuple(parent))
    field = model.model_fields.get(str(key)) if model else None
    about = f": {field.description}" if field is not None and field.description else ""
    hint = f"add `{key}: ...`"
    keys = tree.value if isinstance(tree.value, dict) else {}
    if not parent and "target" not in keys:
        hint = "add it; or, if this file is a base for others, build a recipe that extends it"
    where = node.key_at if parent else node.at
    return MissingKey(f"{place} has no `{key}`", where=str(where), why=f"`{key}` is required{about}", next=hint)


def _contradiction(path: KeyPath, details: ErrorDetails, node: Node) -> Contradiction:
    # raised by a model's own validator, which writes for people: what is wrong; what to do
    message = str(details["ctx"]["error"])
    what, _, remedy = message.partition("; ")
    children = node.value if isinstance(node.value, dict) else {}
    said = [f"`{key}` is said at {child.at}" for key, child in children.items() if f"`{key}" in what]
    return Contradiction(f"`{dotted(path)}`: {what}", where=str(node.key_at), why=", ".join(said), next=remedy)


def _expected(details: ErrorDetails, length: int = 0) -> str:
    kind, context = details["type"], details.get("ctx", {})
    if length and kind in ("missing", "tuple_type"):  # of a list: one error for each value that is not there
        return f"{length} values" if kind == "missing" else f"a list of {length}"
    if kind == "string_pattern_mismatch":
        return PATTERNS.get(context["pattern"], f"text that matches {context['pattern']}")
    if kind in ("literal_error", "union_tag_invalid"):
        words = str(context.get("expected") or context["expected_tags"].replace(", ", " or "))
        return words.replace("'", "`")
    if kind in ("too_short", "too_long"):
        return "at least one entry" if kind == "too_short" else f"{context['max_length']} values"
    if kind in _BOUNDS:
        name, words = _BOUNDS[kind]
        return f"{words} {context[name]:g}"
    return _EXPECTED.get(kind) or details["msg"][:1].lower() + details["msg"][1:]


def _value_hint(details: ErrorDetails, node: Node) -> str:
    if details["type"] == "string_type" and node.text is not None:
        return f'put it in quotes: "{node.text}"'
    if details["type"] in ("literal_error", "union_tag_invalid") and isinstance(node.value, str):
        context = details["ctx"]
        allowed = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        close = difflib.get_close_matches(node.value.lower(), allowed, n=1)
        if close:
            return f"did you mean `{close[0]}`?"
    return ""


def _model_at(path: KeyPath) -> type[BaseModel] | None:
    """The model that describes the mapping at a key path; None where there is none."""
    model: Any = Recipe
    for part in path:
        if isinstance(model, type) and issubclass(model, BaseModel):
            field = model.model_fields.get(str(part))
            if field is None:
                return None
            model = _mapping_type(field.annotation)
        else:  # dict[str, X]
            model = _mapping_type(get_args(model)[1])
        if model is None:
            return None
    return model if isinstance(model, type) and issubclass(model, BaseModel) else None


def _mapping_type(annotation: Any) -> Any:
    """The model or dict type inside ``X | None``, ``Annotated[X, ...]`` or a union of models (the first)."""
    origin = get_origin(annotation)
    if origin is dict or (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
        return annotation
    if origin is Annotated:
        return _mapping_type(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        return next((found for item in get_args(annotation) if (found := _mapping_type(item)) is not None), None)
    return None


def _homes(key: str) -> list[str]:
    """Where in a recipe a key of this name would be right."""
    places: dict[str, KeyPath] = {
        "the recipe itself": (),
        "an engine": ("engines", ""),
        "`model`": ("engines", "", "model"),
        "an input": ("engines", "", "inputs", ""),
        "`preprocess`": ("engines", "", "inputs", "", "preprocess"),
        "`windows`": ("engines", "", "windows"),
        "`calibration`": ("engines", "", "calibration"),
        "`quantize`": ("engines", "", "quantize"),
        "`verify`": ("engines", "", "verify"),
        "`dla`": ("engines", "", "dla"),
    }
    models = {name: _model_at(path) for name, path in places.items()}
    return [name for name, model in models.items() if model is not None and key in model.model_fields]
