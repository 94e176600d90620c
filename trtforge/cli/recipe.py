"""`trtforge recipe`: a recipe as it is read after `extends`, variables and overrides."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from json import dumps
from typing import Any

import typer

from trtforge.cli.options import Json, RecipePath, Set
from trtforge.cli.ui import Ui, columns_of

PLAIN = re.compile(r"[A-Za-z/][\w./:@%+=-]*[\w/]|[A-Za-z]")
COMMENTS = 48  # the column where comments line up, at most
NOT_TEXT = {"true", "false", "null", "yes", "no", "on", "off", "y", "n"}


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at a recipe before building it.")
    group.command()(show)
    app.add_typer(group, name="recipe")


def show(recipe: RecipePath, set_: Set = None, json: Json = False) -> None:
    """Print a checked recipe in full, with the place of every value.

    The output is YAML.
    """
    ui = Ui(json=json)
    from trtforge.recipe.load import load

    loaded = load(recipe, overrides=set_ or ())
    resolved = loaded.resolved()
    lines = [
        (line, "" if key is None else str(loaded.sources.get(key, "default"))) for key, line in _yaml(resolved, "", "")
    ]
    width = columns_of(sys.stdout)
    fitting = [len(line) for line, place in lines if place and len(line) + len(place) + 4 <= width]
    column = max((length for length in fitting if length <= COMMENTS), default=0)
    for line, place in lines:
        if not place:
            ui.say(line)
        elif max(len(line), column) + len(place) + 4 <= width:
            ui.say(f"{line:<{column}}  # {place}")
        elif len(line) + len(place) + 4 <= width:
            ui.say(f"{line}  # {place}")
        else:  # a comment that goes on in the next line would be none
            ui.say(f"{' ' * (len(line) - len(line.lstrip()))}# {place}")
            ui.say(line)
    ui.result("recipe", {"recipe": str(recipe), "files": [str(path) for path in loaded.files], "resolved": resolved})


def _yaml(value: dict[str, Any], prefix: str, indent: str) -> Iterator[tuple[str | None, str]]:
    """The lines of a mapping in YAML, each with the dotted key of its value; None for a line that opens a mapping."""
    for key, inner in value.items():
        dotted = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(inner, dict) and inner:
            yield None, f"{indent}{_flow(key)}:"
            yield from _yaml(inner, dotted, f"{indent}  ")
        else:
            yield dotted, f"{indent}{_flow(key)}: {_flow(inner)}"


def _flow(value: Any) -> str:
    """A value in YAML's one-line style; words that YAML would read as something else are quoted."""
    if isinstance(value, list):
        return f"[{', '.join(map(_flow, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{_flow(key)}: {_flow(inner)}' for key, inner in value.items())}}}"
    if isinstance(value, str) and PLAIN.fullmatch(value) and value.lower() not in NOT_TEXT:
        return value
    return dumps(value, ensure_ascii=False)
