"""The YAML description of a sample set: what it may say, and the line every entry stands on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from trtforge.errors.calibration import SetUnreadable
from trtforge.kinds import SAMPLE, SAMPLES, kind_at
from trtforge.samples.sources import did_you_mean

_SHA256 = re.compile(r"[0-9a-f]{64}")
_FIELDS = ("name", "licence", "about", "samples")
_MAX_BYTES = 64 << 20  # a list of paths; more is another file by mistake


@dataclass(frozen=True)
class FileRef:
    """A path, glob or ``package:`` reference as written, the sha256 it is pinned to, and a scan's labels, if any.

    ``labels``: a path relative to the set, in which ``{folder}`` and ``{name}`` stand for the scan's.
    """

    text: str
    pin: str | None = None
    labels: str | None = None


@dataclass(frozen=True)
class Entry:
    """One item of ``samples``: a reference for every input, or one under the key None that feeds them all."""

    where: str
    refs: Mapping[str | None, FileRef]


@dataclass(frozen=True)
class SetDescription:
    name: str
    entries: tuple[Entry, ...]
    licence: str = ""
    about: str = ""


def read_description(path: Path, *, named_at: str = "") -> SetDescription:
    """Parse a set. Raises SetUnreadable (CAL101), naming file, line and column; nothing it lists is opened.

    ``named_at``: the place in a recipe that names the set, for what is wrong there.
    """
    _refuse_other(path, named_at or str(path))
    data = _parse(path)
    unknown = [key for key in data if key not in _FIELDS]
    if unknown:
        raise SetUnreadable(
            f"a sample set has no field `{unknown[0]}`",
            where=_place(path, data, unknown[0]),
            next=f"the fields are {', '.join(f'`{name}`' for name in _FIELDS)}",
        )
    texts = {key: _text(path, data, key) for key in ("name", "licence", "about") if key in data}
    items = data.get("samples")
    if not isinstance(items, list):
        raise SetUnreadable(
            "a sample set needs a list `samples`", where=str(path), next="add `samples:` with one `- path` a line"
        )
    entries = tuple(_entry(path, items, index) for index in range(len(items)))
    return SetDescription(texts.pop("name", path.stem), entries, **texts)


def _refuse_other(path: Path, where: str) -> None:
    """What is not there, a folder, and files of another kind: wrong is not the set but the name given for it."""
    found = kind_at(path)
    if path.is_dir() or found in SAMPLE:
        folder = path if path.is_dir() else path.parent.absolute()
        files = f"{folder.name}/*{'' if path.is_dir() else path.suffix}"
        what = f"{path.name} is {found.name if found else 'a folder'}, not a sample set"
        advice = f'write {folder.name}.yaml beside the folder, with `samples: ["{files}"]` in it, and name that'
    elif found is not None and found is not SAMPLES:
        what, advice = f"{path.name} is {found.name}, not a sample set", 'write one: `samples: ["photos/*.jpg"]`'
    elif not path.exists():
        folder = path.parent.absolute()
        raise SetUnreadable(
            f"there is no sample set {path.name}",
            where=where,
            why=f"the folder {folder} {'has no such file' if folder.is_dir() else 'does not exist'}",
            next=did_you_mean(path, SAMPLES)
            or "correct the path"
            + ("" if where == str(path) else "; one in a recipe is relative to the file that says it"),
        )
    else:
        return
    raise SetUnreadable(what, where=where, why=SAMPLES.about, next=advice)


def _parse(path: Path) -> Mapping[str, Any]:
    try:
        size = path.stat().st_size
        if size > _MAX_BYTES:
            raise SetUnreadable("this is too large to be a sample set", where=str(path), why=f"{size} bytes")
        data = YAML(typ="rt").load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = (
            (error.strerror or str(error)) if isinstance(error, OSError) else f"it is not UTF-8 text: {error.reason}"
        )
        raise SetUnreadable(
            "the sample set cannot be read", where=str(path), why=reason, next=f"make it a readable file: ls -l {path}"
        ) from error
    except RecursionError as error:
        raise SetUnreadable("the sample set is not valid YAML", where=str(path), why="nested too deeply") from error
    except YAMLError as error:
        mark = error.problem_mark if isinstance(error, MarkedYAMLError) else None
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else str(path)
        reason = error.problem if isinstance(error, MarkedYAMLError) else str(error)
        # `- *.png` is an alias in YAML, the likeliest slip in a file of globs
        advice = "put a glob that begins with `*` in quotes" if "alias" in str(reason) else "correct the line"
        raise SetUnreadable("the sample set is not valid YAML", where=place, why=str(reason), next=advice) from error
    if not isinstance(data, Mapping):
        raise SetUnreadable(
            "a sample set is a mapping with `name` and `samples`",
            where=str(path),
            why=f"the file holds {'nothing' if data is None else 'a ' + type(data).__name__}",
        )
    return data


def _text(path: Path, data: Mapping[str, Any], key: str) -> str:
    value = data[key]
    if not isinstance(value, str) or not value.strip():
        raise SetUnreadable(f"`{key}` is a text", where=_place(path, data, key), why=f"it holds {_shown(value)}")
    return value.strip()


def _entry(path: Path, items: Any, index: int) -> Entry:
    line, column = items.lc.item(index) if hasattr(items, "lc") else (0, 0)
    where = f"{path}:{line + 1}:{column + 1}"
    item = items[index]
    if not isinstance(item, Mapping) or "file" in item:
        return Entry(where, {None: _ref(item, where)})
    if not item or not all(isinstance(name, str) for name in item):
        raise SetUnreadable("an entry with several inputs maps input names to files", where=where)
    return Entry(where, {str(name): _ref(value, where) for name, value in item.items()})


def _ref(value: Any, where: str) -> FileRef:
    """A reference from ``path`` or ``{file: path, sha256: hex, labels: path}``."""
    if isinstance(value, str) and value.strip():
        return FileRef(value.strip())
    if (
        not isinstance(value, Mapping)
        or not set(value) <= {"file", "sha256", "labels"}
        or not isinstance(value.get("file"), str)
        or not isinstance(value.get("labels", ""), str)
    ):
        raise SetUnreadable(
            "an entry is a path, `{file: PATH, sha256: HEX, labels: PATH}`, or a mapping from input names to these",
            where=where,
            why=f"found {_shown(value)}",
        )
    pin = value.get("sha256")
    if pin is not None and not (isinstance(pin, str) and _SHA256.fullmatch(pin)):
        raise SetUnreadable(
            "`sha256` is 64 lower-case hexadecimal digits", where=where, next=f"sha256sum {value['file']}"
        )
    return FileRef(value["file"].strip(), pin, value.get("labels"))


def _shown(value: Any) -> str:
    """A value for a message. Collections are not written out: a few aliases of aliases make gigabytes of text."""
    if isinstance(value, Mapping):
        keys = [key[:40] for key in value if isinstance(key, str)]
        return f"a mapping with the keys {', '.join(keys[:5])}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _place(path: Path, data: Any, key: str) -> str:
    if not hasattr(data, "lc"):
        return str(path)
    line, column = data.lc.key(key)
    return f"{path}:{line + 1}:{column + 1}"
