"""`trtforge recipe`: a recipe as it is read after `extends`, variables and overrides."""

from __future__ import annotations

import typer

from trtforge.cli.options import Json, RecipePath, Set
from trtforge.cli.ui import Ui


def register(app: typer.Typer) -> None:
    group = typer.Typer(no_args_is_help=True, help="Look at a recipe before building it.")
    group.command()(show)
    app.add_typer(group, name="recipe")


def _flat(value: object, prefix: str = "") -> list[tuple[str, object]]:
    if isinstance(value, dict) and value:
        return [row for key, inner in value.items() for row in _flat(inner, f"{prefix}.{key}" if prefix else str(key))]
    return [(prefix, value)]


def show(recipe: RecipePath, set_: Set = None, json: Json = False) -> None:
    """Check a recipe and print every value it resolves to, with the file and line that said it."""
    ui = Ui(json=json)
    from trtforge.recipe.load import load

    loaded = load(recipe, overrides=set_ or ())
    resolved = loaded.resolved()
    rows = []
    for key, value in _flat(resolved):
        where = loaded.sources.get(key)
        rows.append((key, value, str(where) if where is not None else "default"))
    widths = [max(len(str(row[column])) for row in rows) for column in (0, 1)]
    for key, value, place in rows:  # no table: a key or a path folded over two lines cannot be copied
        ui.say(f"{key:<{widths[0]}}  {value!s:<{min(widths[1], 60)}}  {place}")
    ui.result("recipe", {"recipe": str(recipe), "files": [str(path) for path in loaded.files], "resolved": resolved})
