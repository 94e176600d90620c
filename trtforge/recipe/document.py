"""One YAML file as a tree of values that know where they stand: file, line, column."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import MaxDepthExceededError
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import DuplicateKey, RecipeNotAMapping, RecipeNotFound, RecipeSyntax, RecipeTooLarge
from trtforge.kinds import RECIPE, kind_at, nearest

MAX_BYTES = 256 << 10  # YAML is composed before it can be judged; a real recipe has a few kilobytes
MAX_VALUES = 10_000
MAX_DEPTH = 50

_SYNTAX_HINTS = {
    "another document": "keep one document in the file: remove the `---` between them",
    "mapping values are not allowed": "a value with `: ` in it needs quotes; else check the indentation here and above",
    "undefined alias": "a value that begins with `*` needs quotes; otherwise define the anchor (`&name`) above",
    "cannot start any token": "put the value in quotes",
    "expected <block end>": "the indentation of this line fits none above it: line it up with its neighbours",
}
"""Words of ruamel's message -> what to do."""

KeyPath = tuple[str | int, ...]
"""Where a value sits in a recipe: mapping keys and list indices from the root."""


@dataclass(frozen=True, slots=True)
class Where:
    """A place in a recipe file (line and column count from 1), or the ``--set`` option that gave the value."""

    path: Path
    line: int
    column: int
    override: str = ""

    def __str__(self) -> str:
        return f"--set {self.override}" if self.override else f"{display(self.path)}:{self.line}:{self.column}"


@dataclass(frozen=True, slots=True)
class Node:
    """A value and its place. ``key_at``: where the key it belongs to stands (its own place for list items).

    ``raw``: the text before ``${VAR}`` was replaced, None where there was none. ``text``: a number as written,
    so that a message can say ``10.10`` where YAML read 10.1.
    """

    value: dict[str, Node] | list[Node] | str | int | float | bool | None
    at: Where
    key_at: Where
    raw: str | None = None
    text: str | None = None

    def plain(self) -> Any:
        """The value without places: dict, list, str, int, float, bool, None."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value

    def walk(self, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Node]]:
        """This node and all below it, with their paths."""
        yield path, self
        if isinstance(self.value, dict):
            for key, child in self.value.items():
                yield from child.walk((*path, key))
        elif isinstance(self.value, list):
            for index, item in enumerate(self.value):
                yield from item.walk((*path, index))


def display(path: Path) -> str:
    """A path as a person would type it: relative to the working directory when it lies below it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def dotted(path: KeyPath) -> str:
    """A key path in the notation of ``--set``: ``engines.r50.inputs."input.1".shape``."""
    return ".".join(
        str(part) if isinstance(part, int) or re.fullmatch(r'[^\s."\'=]+', part) else f'"{_escaped(part)}"'
        for part in path
    )


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def read(path: Path) -> Node:
    """Read one recipe file; the result is a mapping.

    Raises RecipeNotFound, RecipeSyntax, RecipeNotAMapping, DuplicateKey, RecipeTooLarge.
    """
    text = _read_text(path)
    start = Where(path, 1, 1)
    node = _compose(text, start)
    tree = None if node is None else _Expansion(start).expand(node)
    if tree is None or not isinstance(tree.value, dict):
        found = "it is empty" if tree is None or tree.value is None else f"it holds {kind_of(tree.plain())}"
        raise RecipeNotAMapping(
            f"{display(path)} is not a recipe",
            where=str(tree.at if tree else start),
            why=f"a recipe is a mapping with `target`, `backend` and `engines`; {found}",
            next="start from one of the recipes/*.yaml that come with trtforge",
        )
    return tree


def parse_value(text: str, at: Where) -> Node:
    """Read the value of a ``--set`` option: YAML on one line; nothing is null. All places are ``at``.

    Raises RecipeSyntax, DuplicateKey, RecipeTooLarge.
    """
    node = _compose(text, at)
    return Node(None, at, at) if node is None else _Expansion(at).expand(node)


def kind_of(value: Any) -> str:
    """A value's type in the words of YAML, with the value when it is short."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return f"the value {str(value).lower()}"
    if isinstance(value, int | float):
        return f"the number {value}"
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 80 else f'the text "{value[:77]}..."'
    if isinstance(value, dict):
        return "a mapping" if value else "an empty mapping"
    shown = "[" + ", ".join(str(item) for item in value) + "]"
    return f"the list {shown}" if len(shown) <= 60 else f"a list of {len(value)}"


def _read_text(path: Path) -> str:
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= MAX_BYTES else b""
    except OSError as error:
        raise _not_found(path, error) from error
    if size > MAX_BYTES:
        raise RecipeTooLarge(
            f"{display(path)} is too large for a recipe",
            where=display(path),
            why=f"it has {size} bytes; a recipe has at most {MAX_BYTES}",
            next="check that this is the recipe and not, say, the model",
        )
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RecipeSyntax(
            f"{display(path)} is not a text file",
            where=f"{display(path)}:{line}",
            why=f"byte {error.start} (0x{data[error.start]:02x}) is not UTF-8",
            next="check that this is the recipe, and save it as UTF-8",
        ) from error


def _not_found(path: Path, error: OSError) -> RecipeNotFound:
    if isinstance(error, IsADirectoryError) or path.is_dir():
        why, names = "it is a folder", _recipes_in(path)[:8]
        hint = f"name a recipe in it: {', '.join(names)}" if names else "name a recipe file"
    elif isinstance(error, FileNotFoundError | NotADirectoryError):
        why = "there is no such file"
        hint = "check the path"
        if path.parent.is_dir():
            if close := nearest(path, RECIPE):
                hint = f"did you mean {display(close)}?"
            elif names := _recipes_in(path.parent):
                hint = f"recipes in that folder: {', '.join(names[:8])}"
        else:
            why = f"there is no folder {display(path.parent)}"
    else:
        why, hint = os.strerror(error.errno) if error.errno else str(error), "make the file readable"
    return RecipeNotFound(f"cannot read recipe {display(path)}", where=display(path), why=why, next=hint)


def _recipes_in(folder: Path) -> list[str]:
    """Names of the recipes in a folder, sorted; sample sets have the same ending."""
    return sorted(entry.name for entry in folder.glob("*.yaml") if kind_at(entry) is RECIPE)


def _compose(text: str, start: Where) -> Any:
    """ruamel's node graph of the one document in ``text``, None when there is none."""
    yaml = YAML(typ="safe", pure=True)
    yaml.max_depth = MAX_DEPTH
    yaml.composer.warn_double_anchors = False  # legal YAML; a warning on stderr would have no place
    try:
        return yaml.compose(text)
    except MaxDepthExceededError as error:
        raise _too_deep(_place(start, error.problem_mark)) from error
    except MarkedYAMLError as error:
        raise _syntax_error(error, text, start) from error
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        column = error.position - (text.rfind("\n", 0, error.position) + 1) + 1
        raise RecipeSyntax(
            "a recipe holds a character that YAML does not allow",
            where=str(Where(start.path, line, column, start.override)),
            why=f"character U+{ord(text[error.position]):04X}",
            next="delete it; check that this is a text file",
        ) from error
    except (YAMLError, ValueError, AssertionError) as error:  # ruamel: odd directives and tags end in these
        raise RecipeSyntax(
            f"{start.override or display(start.path)} is not valid YAML",
            where=str(start),
            why=" ".join(str(error).split()) or "the YAML reader gave up",
            next="remove directives (%) and tags (!)",
        ) from error


def _place(start: Where, mark: Any) -> Where:
    if mark is None or start.override:
        return start
    return Where(start.path, mark.line + 1, mark.column + 1)


def _too_deep(at: Where) -> RecipeTooLarge:
    return RecipeTooLarge(
        "a recipe is nested too deeply",
        where=str(at),
        why=f"more than {MAX_DEPTH} levels; an alias that contains itself also ends here",
        next="flatten it",
    )


def _syntax_error(error: MarkedYAMLError, text: str, start: Where) -> RecipeSyntax:
    lines = text.splitlines()
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    row, column = (mark.line, mark.column) if mark is not None else (0, 0)
    if row >= len(lines):  # the end of the text says nothing: show what was left open, or the last line
        row = max((number for number, line in enumerate(lines) if line.strip()), default=0)
        column = len(lines[row]) if lines else 0
        if opened is not None and opened.line < len(lines):
            row, column = opened.line, opened.column
    line = lines[row] if row < len(lines) else ""
    parts = [part for part in (error.context, error.problem) if part]
    why = ", ".join(" ".join(part.split()) for part in parts) or "the YAML reader gave up"
    why = re.sub(r"'?<([a-z ]+)>'?", r"the \1", why).replace("the stream end", "the end of the text")
    if line.strip():
        caret = re.sub(r"[^\t]", " ", line[:column]) + "^"  # tabs kept, so that the caret stands under its character
        why += f"\n    {line}\n    {caret}"
    if opened is not None and opened.line != row and not start.override:
        why += f"\n    begun at line {opened.line + 1}, column {opened.column + 1}"
    what = "--set value is not valid YAML" if start.override else f"{display(start.path)} is not valid YAML"
    where = start if start.override else Where(start.path, row + 1, column + 1)
    return RecipeSyntax(what, where=str(where), why=why, next=_syntax_hint(line, error))


def _syntax_hint(line: str, error: MarkedYAMLError) -> str:
    problem = error.problem or ""
    if "\t" in line[: len(line) - len(line.lstrip())] or "'\\t'" in problem:
        return "indent with spaces: YAML does not allow tabs there"
    if re.search(r"[\[{].*[^\"']\$\{", line):
        return 'put values with ${...} in quotes when they stand inside {...} or [...]: "${VAR}/model.onnx"'
    hints = (hint for words, hint in _SYNTAX_HINTS.items() if words in problem)
    return next(hints, "check brackets, quotes and indentation here and on the line before")


class _Expansion:
    """Turns ruamel's nodes into :class:`Node`, following aliases and merge keys, counting what comes out."""

    def __init__(self, start: Where) -> None:
        self.start = start
        self.count = 0
        self.entry = start  # the key of the document at hand: an alias has no better place

    def expand(self, node: Any, key_at: Where | None = None, depth: int = 0) -> Node:
        at = _place(self.start, node.start_mark)
        self.count += 1
        if depth == 1:
            self.entry = key_at or at
        if self.count > MAX_VALUES:
            raise RecipeTooLarge(
                "a recipe expands to too many values",
                where=str(self.entry),
                why=f"more than {MAX_VALUES} once aliases (`*name`) are followed",
                next="write the values out, or move what repeats into a file that others extend",
            )
        if depth > MAX_DEPTH:
            raise _too_deep(at)
        value = self._value(node, at, depth)
        text = node.value if isinstance(value, int | float) and not isinstance(value, bool) else None
        return Node(value, at, key_at or at, text=text)

    def _value(self, node: Any, at: Where, depth: int) -> Any:
        tag = (node.tag or "").removeprefix("tag:yaml.org,2002:")
        if isinstance(node, MappingNode) and tag == "map":
            return self._mapping(node, depth)
        if isinstance(node, SequenceNode) and tag == "seq":
            return [self.expand(item, None, depth + 1) for item in node.value]
        if isinstance(node, ScalarNode):
            try:
                return _scalar(tag, node.value)
            except ValueError as error:
                raise self._refused(at, f"`{node.value[:60]}` is no valid `{tag}`", str(error)) from error
            except KeyError as error:
                raise self._refused(at, f"tag `{tag}` means nothing in a recipe", "only plain YAML is read") from error
        raise self._refused(at, f"tag `{tag}` means nothing in a recipe", "only plain YAML is read")

    def _mapping(self, node: Any, depth: int) -> dict[str, Node]:
        own: dict[str, Node] = {}
        inherited: dict[str, Node] = {}
        for key_node, value_node in node.value:
            at = _place(self.start, key_node.start_mark)
            if not isinstance(key_node, ScalarNode):
                raise self._refused(at, "a key must be a single word or text", "lists and mappings cannot be keys")
            if key_node.value == "<<" and key_node.style is None:
                self._merge_key(value_node, inherited, at, depth)
                continue
            key = key_node.value  # as written, so that a tensor may be named 0 or null
            if key in own:
                raise DuplicateKey(
                    f"key `{key}` is given twice",
                    where=str(at),
                    why=f"first at {own[key].key_at}",
                    next="delete one of them",
                )
            own[key] = self.expand(value_node, at, depth + 1)
        return {**{key: child for key, child in inherited.items() if key not in own}, **own}

    def _merge_key(self, node: Any, inherited: dict[str, Node], at: Where, depth: int) -> None:
        """``<<: *base`` or ``<<: [*a, *b]``: earlier ones win, the mapping's own keys win over all."""
        for source in node.value if isinstance(node, SequenceNode) else [node]:
            merged = self.expand(source, at, depth + 1)
            if not isinstance(merged.value, dict):
                raise self._refused(
                    at, "`<<` takes a mapping or a list of mappings", f"found {kind_of(merged.plain())}"
                )
            for key, child in merged.value.items():
                inherited.setdefault(key, child)

    def _refused(self, at: Where, what: str, why: str) -> TrtforgeError:
        return RecipeSyntax(what, where=str(at), why=why, next="write it as plain YAML; quote it if it is text")


def _scalar(tag: str, text: str) -> str | int | float | bool | None:
    """The value of a scalar by its resolved YAML 1.2 tag. Raises ValueError, KeyError for an unknown tag."""
    if tag in ("str", "timestamp", "!"):  # a date is text to us
        return text
    if tag == "null":
        return None
    if tag == "bool":
        lowered = text.lower()
        if lowered not in ("true", "false"):
            raise ValueError("expected true or false")
        return lowered == "true"
    digits = text.replace("_", "")
    if tag == "int":
        return int(digits, 0) if re.match(r"[-+]?0[box]", digits) else int(digits)
    if tag == "float":
        return float(re.sub(r"\.(inf|nan)$", r"\1", digits.lower()))
    raise KeyError(tag)
