"""Shell completion: scripts for a shell, and the values that arguments can take.

Completion must stay silent: a recipe that cannot be read offers nothing, and the command itself says why.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import typer

from trtforge.errors.base import TrtforgeError, catalogue


class Shell(StrEnum):
    """Shells that completion is written for."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"


def show_script(shell: Shell | None) -> None:
    """Print a shell's completion script and exit."""
    if shell is None:
        return
    from typer.completion import get_completion_script  # type: ignore[attr-defined]

    print(get_completion_script(prog_name="trtforge", complete_var="_TRTFORGE_COMPLETE", shell=shell.value))
    raise typer.Exit


def install_script(shell: Shell | None) -> None:
    """Install completion for a shell and exit."""
    if shell is None:
        return
    from typer.completion import install  # type: ignore[attr-defined]

    _, path = install(shell=shell.value, prog_name="trtforge", complete_var="_TRTFORGE_COMPLETE")
    print(f"completion for {shell.value} is in {path}; start a new terminal")
    raise typer.Exit


def target_keys(incomplete: str) -> list[tuple[str, str]]:
    """Keys of targets, each with the device's name."""
    from trtforge.targets.load import get, keys

    return [(key, get(key).name) for key in keys() if key.startswith(incomplete)]


def codes(incomplete: str) -> list[tuple[str, str]]:
    """Codes of errors and lint rules, each with its title."""
    from trtforge import errors  # noqa: F401  # fills the catalogue
    from trtforge.lint.run import rules

    known = [(code, error.title) for code, error in catalogue().items()] + [(r.code, r.title) for r in rules()]
    return [pair for pair in known if pair[0].startswith(incomplete.upper())]


def results(incomplete: str) -> list[str]:
    """Names that `trtforge schema` takes."""
    from trtforge.cli.schema import names

    return [name for name in names() if name.startswith(incomplete)]


def engines(ctx: typer.Context, incomplete: str) -> list[str]:
    """Names of the engines in the recipe that stands on the command line."""
    from trtforge.recipe.load import load

    # While `--only` has no value yet, typer leaves the recipe among the words it could not place.
    recipe = ctx.params.get("recipe") or next((word for word in ctx.args if word.endswith((".yaml", ".yml"))), None)
    if recipe is None:
        return []
    try:
        known = load(Path(recipe)).recipe.engines
    except TrtforgeError:
        return []
    return [name for name in known if name.startswith(incomplete)]
