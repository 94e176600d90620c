"""Recipes over recipes: the chain of ``extends``, deep merge, ``--set`` and ``${VAR}``."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import (
    BadOverride,
    ExtendsCycle,
    ExtendsNotFound,
    PathOutside,
    RecipeNotFound,
    UnknownEngine,
    UnsetVariable,
    WrongValue,
)
from trtforge.recipe.document import KeyPath, Node, Where, display, dotted, kind_of, parse_value, read

_SEGMENT = re.compile(r'"(?:[^"\\]|\\.)*"|\'[^\']*\'|[^."\'=\s]+')
_VARIABLE = re.compile(r"\$\$\{|\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<default>:-[^}]*)?\}|(?P<bad>\$\{)")


def read_chain(path: Path, root: Path) -> list[tuple[Path, Node]]:
    """The recipe and every file it extends, in that order (the base of all is last). ``path`` is absolute.

    Raises the errors of ``document.read`` and ExtendsNotFound, ExtendsCycle, PathOutside, WrongValue.
    """
    chain = [(path, read(path))]
    while (said := _keys(chain[-1][1]).get("extends")) is not None and said.value is not None:
        base = _base_path(said, root)
        seen = [file for file, _ in chain]
        if base in seen:
            circle = " -> ".join(display(file) for file in [*seen[seen.index(base) :], base])
            raise ExtendsCycle(
                "`extends` goes round in a circle",
                where=str(said.at),
                why=circle,
                next="remove `extends` from the file that is the base of the others",
            )
        try:
            chain.append((base, read(base)))
        except RecipeNotFound as error:
            raise ExtendsNotFound(
                f"cannot read base recipe `{said.value}`",
                where=str(said.at),
                why=f"{display(base)}: {error.why}",
                next=error.next,
            ) from error
    return chain


def _keys(tree: Node) -> dict[str, Node]:
    assert isinstance(tree.value, dict)  # document.read gives nothing else
    return tree.value


def _base_path(said: Node, root: Path) -> Path:
    text = said.value
    if not isinstance(text, str) or not text:
        raise WrongValue(
            "`extends` is not the name of a file",
            where=str(said.at),
            why=f"expected a path relative to this file, found {kind_of(said.plain())}",
            next="write `extends: base.yaml`",
        )
    if "${" in text or Path(text).is_absolute() or text.startswith("~"):
        raise ExtendsNotFound(
            f"`extends: {text}` is not relative to this file",
            where=str(said.at),
            why="a recipe must mean the same in every checkout: `extends` takes no absolute path and no ${VAR}",
            next="copy the base beside this file and write `extends: base.yaml`",
        )
    base = Path(os.path.normpath(said.at.path.parent / text))
    if not base.is_relative_to(root):
        raise PathOutside(
            f"`extends: {text}` leaves the project",
            where=str(said.at),
            why=f"{base} is not below {root}",
            next="copy the base into the project",
        )
    return base


def merge(base: Node, over: Node) -> Node:
    """``over`` on top of ``base``: mappings merge key by key, everything else replaces, null deletes.

    Fold a chain from its base upwards. Nulls stay in the result until :func:`without_nulls`.
    """
    if not isinstance(base.value, dict) or not isinstance(over.value, dict):
        return over
    merged = dict(base.value)
    for key, child in over.value.items():
        merged[key] = merge(merged[key], child) if key in merged else child
    return Node(merged, over.at, over.key_at)


def without_nulls(tree: Node) -> Node:
    """The tree without the keys that say null: to a recipe, null and absent are the same."""
    if not isinstance(tree.value, dict):
        return tree
    kept = {key: without_nulls(child) for key, child in tree.value.items() if child.value is not None}
    return Node(kept, tree.at, tree.key_at)


def apply_overrides(tree: Node, overrides: Sequence[str], path: Path) -> Node:
    """Merge ``KEY=VALUE`` options over the recipe, in order, as though each stood in the file ``path``.

    Raises BadOverride, UnknownEngine, RecipeSyntax.
    """
    for text in overrides:
        at = Where(path, 0, 0, text)
        keys, value = _split_override(text, at)
        engines = without_nulls(tree).plain().get("engines")
        if keys[0] == "engines" and len(keys) > 2 and isinstance(engines, dict) and keys[1] not in engines:
            raise unknown_engine(keys[1], list(engines), where=str(at))
        for key in reversed(keys):
            value = Node({key: value}, at, at)
        # a mapping that only leads to the new value keeps the place where the file says it
        tree = _keep_places(tree, merge(tree, value))
    return tree


def _keep_places(old: Node, new: Node) -> Node:
    if not isinstance(old.value, dict) or not isinstance(new.value, dict):
        return new
    children = {
        key: _keep_places(old.value[key], child) if key in old.value else child for key, child in new.value.items()
    }
    return Node(children, old.at, old.key_at)


def _split_override(text: str, at: Where) -> tuple[list[str], Node]:
    keys: list[str] = []
    position = 0
    while match := _SEGMENT.match(text, position):
        keys.append(_unquoted(match.group()))
        position = match.end()
        if not text.startswith(".", position):
            break
        position += 1
    if not keys or not text.startswith("=", position) or text[position - 1] == ".":
        wanted = "a key" if position == 0 or text[position - 1] == "." else "`.` or `=`"
        found = repr(text[position]) if position < len(text) else "the end"
        why = f"expected {wanted} at character {position + 1}, found {found}"
        raise BadOverride(
            f"cannot read --set {text}",
            where=str(at),
            why=why,
            next="write KEY=VALUE, such as --set engines.r50.precision=fp16;"
            """ a key with a dot in quotes: --set 'engines.r50.inputs."x.1".shape=[1,3]'""",
        )
    if keys[0] == "extends":
        raise BadOverride(
            "--set cannot change `extends`",
            where=str(at),
            why="it is applied after the files were read",
            next="write a recipe of three lines that extends the other file",
        )
    return keys, parse_value(text[position + 1 :], at)


def _unquoted(segment: str) -> str:
    if segment[0] == '"':
        return re.sub(r"\\(.)", r"\1", segment[1:-1])
    return segment[1:-1] if segment[0] == "'" else segment


def unknown_engine(name: str, known: Sequence[str], *, where: str) -> UnknownEngine:
    close = difflib.get_close_matches(name, known, n=1)
    return UnknownEngine(
        f"the recipe has no engine `{name}`",
        where=where,
        why=f"it defines: {', '.join(known)}",
        next=f"did you mean `{close[0]}`?" if close else "name one of these",
    )


def substitute(
    tree: Node, environ: Mapping[str, str], problems: dict[KeyPath, TrtforgeError], path: KeyPath = ()
) -> Node:
    """Replace ``${NAME}`` and ``${NAME:-default}`` in every string value; ``$${`` stands for ``${``.

    The default is used when the variable is unset or empty, as in a shell. What cannot be replaced is left as
    it is and noted in ``problems`` under its key path.
    """
    value = tree.value
    if isinstance(value, dict):
        replaced = {key: substitute(child, environ, problems, (*path, key)) for key, child in value.items()}
        return Node(replaced, tree.at, tree.key_at)
    if isinstance(value, list):
        items = [substitute(item, environ, problems, (*path, index)) for index, item in enumerate(value)]
        return Node(items, tree.at, tree.key_at)
    if not isinstance(value, str) or "${" not in value:
        return tree

    def replacement(match: re.Match[str]) -> str:
        if match.group() == "$${":
            return "${"
        name, default = match["name"], match["default"]
        if match["bad"]:
            problems.setdefault(path, _bad_variable(value, tree.at, path))
        elif default is not None:
            return environ.get(name) or default.removeprefix(":-")
        elif name in environ:
            return environ[name]
        else:
            problems.setdefault(path, _unset_variable(name, value, tree.at, path))
        return match.group()

    return Node(_VARIABLE.sub(replacement, value), tree.at, tree.key_at, raw=value)


def _unset_variable(name: str, value: str, at: Where, path: KeyPath) -> UnsetVariable:
    return UnsetVariable(
        f"variable {name} is not set",
        where=str(at),
        why=f"`{dotted(path)}` is `{value}`",
        next=f"export {name}=..., or give it a default in the recipe: ${{{name}:-...}}",
    )


def _bad_variable(value: str, at: Where, path: KeyPath) -> WrongValue:
    return WrongValue(
        f"`{dotted(path)}` has a `${{` that is no variable",
        where=str(at),
        why=f"it is `{value}`; a variable is ${{NAME}} or ${{NAME:-default}}, NAME of letters, digits and _",
        next="close the brace, or write `$${` for a literal `${`",
    )
