"""From a recipe file to a checked recipe: ``extends``, ``--set``, ``${VAR}``, paths, models, cross checks."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trtforge.errors.base import TrtforgeError
from trtforge.kinds import RECIPE, refuse_other
from trtforge.recipe.checks import contradictions, find_target
from trtforge.recipe.document import KeyPath, Node, Where, display, dotted
from trtforge.recipe.layers import apply_overrides, merge, read_chain, substitute, unknown_engine, without_nulls
from trtforge.recipe.models import Engine, Recipe
from trtforge.recipe.paths import project_root, rewrite_paths
from trtforge.recipe.problems import problems_of, raise_if_any

if TYPE_CHECKING:
    from trtforge.targets.model import Target


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe that has passed every check that needs no model and no device.

    ``recipe``: merged and with variables filled in; its relative paths are relative to ``root``. ``path``: the
    file loaded, absolute. ``files``: that file and all it extends, the base of all last. ``root``: the project
    folder (see ``paths.project_root``). ``sources``: key in the notation of ``--set`` -> the place that said its
    value. ``portable``: texts that stand for machine-dependent values in :meth:`resolved`. ``overrides``: those given
    to :func:`load`.
    """

    recipe: Recipe
    path: Path
    files: tuple[Path, ...]
    root: Path
    target: Target
    sources: Mapping[str, Where]
    portable: Mapping[KeyPath, str]
    overrides: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The file's name without its ending: ``orin_dla``."""
        return self.path.stem

    @property
    def store(self) -> Path:
        """The engine store, relative to the working directory unless the recipe says otherwise."""
        return Path(self.recipe.store or f"engines/{self.name}")

    def place(self, key: KeyPath) -> str:
        """Where the value of a key path was said, ``recipes/base.yaml:11:13``; the file when nobody said it."""
        where = self.sources.get(dotted(key))
        return str(where) if where is not None else display(self.path)

    def resolve(self, relative: str) -> Path:
        """The file that a path in ``recipe`` means (a model path, a set, scales; not ``store``, not ``package:``)."""
        return self.root / relative

    def resolved(self) -> dict[str, Any]:
        """The recipe after ``extends``, overrides and variables, JSON-able: equal on every machine.

        Paths are relative to the project. A path made absolute by a variable, and a URL with one in it, stand as
        the recipe writes them (``${MODELS}/r50.onnx``); any other absolute path is ``absolute:NAME``. What such a
        path leads to is told by digests, not by its place.
        """
        tree: dict[str, Any] = self.recipe.model_dump(mode="json", exclude={"extends"})
        for path, text in self.portable.items():
            parent: Any = tree
            for part in path[:-1]:
                parent = parent[part]
            parent[path[-1]] = text
        return tree

    def selected(self, only: Sequence[str] = ()) -> dict[str, Engine]:
        """The engines named in ``only``, in the order of the recipe; all of them when it is empty.

        Raises UnknownEngine.
        """
        for name in only:
            if name not in self.recipe.engines:
                raise unknown_engine(name, list(self.recipe.engines), where=display(self.path))
        return {name: engine for name, engine in self.recipe.engines.items() if not only or name in only}


def load(
    path: Path,
    *,
    overrides: Sequence[str] = (),
    only: Sequence[str] = (),
    environ: Mapping[str, str] | None = None,
) -> LoadedRecipe:
    """Load a recipe and check all of it that can be checked without its model.

    Args:
        path: the YAML file.
        overrides: ``KEY=VALUE`` options, applied in order over the merged files, as though they stood in ``path``.
        only: engines by name; the others are as though they were not there, so that what they lack is no matter.
        environ: variables for ``${NAME}``; the process environment when None.

    Raises:
        USE107 when ``path`` is something else, RCP101-RCP107 when a file cannot be read, BadOverride and UnknownEngine
        for ``overrides``. Everything else that is wrong is collected first: one problem is raised as itself, several
        as InvalidRecipe.
    """
    refuse_other(path, RECIPE)
    path = Path(os.path.normpath(Path.cwd() / path))
    root = project_root(path)
    chain = read_chain(path, root)
    tree = reduce(merge, [node for _, node in reversed(chain)])
    tree = _without_extends(without_nulls(apply_overrides(tree, overrides, path)))
    tree = _only(tree, only, path)

    problems: dict[KeyPath, TrtforgeError] = {}
    tree = substitute(tree, os.environ if environ is None else environ, problems)
    tree, portable = rewrite_paths(tree, root, problems)
    recipe = _validate(tree, problems)
    target = _target(tree, problems)
    if recipe is not None and target is not None:
        for key, problem in contradictions(recipe, target, tree):
            problems.setdefault(key, problem)
    raise_if_any(problems, tree, display(path))
    assert recipe is not None and target is not None  # else there is a problem
    return LoadedRecipe(
        recipe=recipe,
        path=path,
        files=tuple(file for file, _ in chain),
        root=root,
        target=target,
        sources={dotted(key): node.at for key, node in tree.walk() if key},
        portable={**portable, **_portable_store(tree, recipe)},
        overrides=tuple(overrides),
    )


def _without_extends(tree: Node) -> Node:
    assert isinstance(tree.value, dict)
    return Node({key: child for key, child in tree.value.items() if key != "extends"}, tree.at, tree.key_at)


def _only(tree: Node, names: Sequence[str], path: Path) -> Node:
    """The tree with these engines alone; with all where none is named. Raises UnknownEngine."""
    assert isinstance(tree.value, dict)
    engines = tree.value.get("engines")
    if not names or engines is None or not isinstance(engines.value, dict):
        return tree
    for name in names:
        if name not in engines.value:
            raise unknown_engine(name, [str(known) for known in engines.value], where=display(path))
    kept = Node({name: node for name, node in engines.value.items() if name in names}, engines.at, engines.key_at)
    return Node({**tree.value, "engines": kept}, tree.at, tree.key_at)


def _validate(tree: Node, problems: dict[KeyPath, TrtforgeError]) -> Recipe | None:
    try:
        return Recipe.model_validate(tree.plain())
    except ValidationError as error:
        for key, problem in problems_of(error, tree).items():
            problems.setdefault(key, problem)
        return None


def _target(tree: Node, problems: dict[KeyPath, TrtforgeError]) -> Target | None:
    assert isinstance(tree.value, dict)
    node = tree.value.get("target")
    if ("target",) in problems or node is None or not isinstance(node.value, str):
        return None  # already a problem
    try:
        return find_target(tree)
    except TrtforgeError as error:
        problems[("target",)] = error
        return None


def _portable_store(tree: Node, recipe: Recipe) -> dict[KeyPath, str]:
    if recipe.store is None or not Path(recipe.store).is_absolute():
        return {}
    node = tree.value["store"] if isinstance(tree.value, dict) else tree
    return {("store",): node.raw or f"absolute:{Path(recipe.store).name}"}
