"""Where sample files are: paths and globs beside a set, and files that installed distributions ship.

Every file gets an id that means the same on every machine: its path relative to the set, or the ``package:`` form.
"""

from __future__ import annotations

import glob
import posixpath
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path, PureWindowsPath

from trtforge.errors.calibration import SampleMissing, SampleOutsideSet, SampleUnsupported
from trtforge.errors.environment import MissingPackage
from trtforge.kinds import SAMPLE, Kind, nearest, refuse_other
from trtforge.recipe.document import display

PACKAGE = "package:"


@dataclass(frozen=True)
class SourceFile:
    """One file. ``pin``: the sha256 it must have, or None. The path is of this machine; the id is not."""

    id: str
    path: Path
    pin: str | None = None


def resolve(text: str, folder: Path, *, where: str, pin: str | None = None) -> list[SourceFile]:
    """The files an entry names, sorted by id: one for a path, any number for a glob.

    Args:
        text: ``path``, ``glob``, ``package:DISTRIBUTION/path`` or ``package:DISTRIBUTION/glob``.
        folder: what plain paths are relative to.
        where: the place of the entry, for messages.
        pin: the sha256 the file must have.

    Raises: CAL103 missing, CAL104 outside the folder, CAL105 a folder, ENV101 distribution not installed.
    """
    prefix, root, pattern = _locate(text, folder, where)
    pattern = _inside(pattern, text, where)
    path = root / pattern
    try:
        if path.is_dir():
            raise SampleUnsupported(
                f"`{text}` is a folder", where=where, next=f"name the files in it: `{text.rstrip('/')}/*`"
            )
        if path.is_file():
            return [SourceFile(prefix + pattern, path, pin)]
        found = [match for match in root.glob(pattern) if match.is_file()] if _is_glob(pattern) else []
    except (OSError, ValueError) as error:  # a name too long, a folder that may not be read, `**.png`
        shown = text if len(text) <= 80 else text[:80] + "..."
        reason = error.strerror if isinstance(error, OSError) else str(error)
        advice = "write `**/*.png` for the files of all folders below" if "**" in text else "correct the entry"
        raise SampleMissing(f"`{shown}` cannot be looked up", where=where, why=reason or "", next=advice) from error
    if not found:
        raise _missing(text, prefix, root, pattern, where)
    files = [SourceFile(prefix + match.relative_to(root).as_posix(), match, pin) for match in found]
    return sorted(files, key=lambda file: file.id)


def given(paths: list[Path]) -> list[SourceFile]:
    """Files and quoted patterns of a command line; ids are relative to the working directory, or bare names outside it.

    A name that comes twice gets ``#2``, ``#3`` behind it. Raises: CAL103 missing, CAL105 a folder, USE107 no sample.
    """
    here = Path.cwd()
    seen: dict[str, int] = {}
    files = []
    for path in (match for typed in paths for match in _files_of(expanded(typed))):
        if path.is_dir():
            raise SampleUnsupported("a folder is not a sample", where=str(path), next=f"name its files: {path}/*")
        if not path.is_file():
            raise SampleMissing(
                "no such file",
                where=str(path),
                why=f"there is no folder {path.parent}"
                if not path.parent.is_dir()
                else f"the folder {path.parent} has no file of this name",
                next=did_you_mean(path) or f"correct the path: ls {path.parent if path.parent.is_dir() else '.'}",
            )
        refuse_other(path, *SAMPLE)
        absolute = path.absolute()
        name = absolute.relative_to(here).as_posix() if absolute.is_relative_to(here) else path.name
        seen[name] = seen.get(name, 0) + 1
        files.append(SourceFile(name if seen[name] == 1 else f"{name}#{seen[name]}", path))
    return files


def expanded(path: Path) -> list[Path]:
    """The files and folders, sorted, that a quoted pattern matches; what is no pattern, or is there, as it is.

    Raises SampleMissing (CAL103) when a pattern matches nothing.
    """
    if path.exists() or not _is_glob(str(path)):
        return [path]
    matches = glob.glob(str(path), recursive=True)  # noqa: PTH207 - Path.glob takes no absolute pattern
    if matches:
        return [Path(match) for match in sorted(matches)]
    raise SampleMissing("no file matches the pattern", where=str(path), next="correct it; quote it for the shell")


def _files_of(matches: list[Path]) -> list[Path]:
    """Without the folders that a pattern matched beside files; a folder alone stays, to be refused."""
    return [path for path in matches if not path.is_dir()] or matches


def did_you_mean(path: Path, *wanted: Kind) -> str:
    """`did you mean photos/coffee.png?` for a name that is close to one that is there; else empty."""
    close = nearest(path, *wanted)
    return f"did you mean {display(close)}?" if close else ""


def beside(pattern: str, scan: Path, folder: Path) -> Path:
    """The file that goes with a scan: `{folder}` stands for its folder, `{name}` for its name without the format.

    A pattern without `{folder}` is relative to ``folder``.
    """
    from trtforge.volumes.volume import stem

    path = Path(pattern.replace("{folder}", str(scan.parent)).replace("{name}", stem(scan)))
    return path if "{folder}" in pattern else folder / path


def _locate(text: str, folder: Path, where: str) -> tuple[str, Path, str]:
    """(prefix of the ids, root folder, path or glob below the root)."""
    if not text.startswith(PACKAGE):
        return "", folder, text
    name, _, pattern = text.removeprefix(PACKAGE).partition("/")
    if not name or not pattern:
        raise SampleMissing(
            f"`{text}` names no file of a distribution",
            where=where,
            next="write `package:DISTRIBUTION/path/in/it`, e.g. `package:scikit-image/skimage/data/coffee.png`",
        )
    try:
        root = Path(str(metadata.distribution(name).locate_file("")))
    except metadata.PackageNotFoundError as error:
        raise MissingPackage(
            f"the distribution {name} is not installed",
            where=where,
            why=f"`{text}` is a sample that {name} ships",
            next=f"pip install {name}",
        ) from error
    return f"{PACKAGE}{name}/", root, pattern


def _inside(pattern: str, text: str, where: str) -> str:
    """The pattern without ``.`` and ``..``; CAL104 when it leaves its root."""
    normal = posixpath.normpath(pattern)
    drive = PureWindowsPath(pattern)
    if normal.startswith(("/", "../")) or normal == ".." or drive.drive or drive.root:
        raise SampleOutsideSet(
            f"`{text}` leaves the folder it is relative to",
            where=where,
            why="samples lie beside or below their set, so that their ids mean the same on every machine",
            next="move the set beside the data, or link the data into the folder of the set",
        )
    return normal


def _is_glob(pattern: str) -> bool:
    return any(character in pattern for character in "*?[")


def _missing(text: str, prefix: str, root: Path, pattern: str, where: str) -> SampleMissing:
    advice = did_you_mean(root / pattern) or "fetch the data, or correct the entry; paths are relative to the set"
    if prefix:
        advice = f"look into the installed files: pip show --files {prefix.removeprefix(PACKAGE).rstrip('/')}"
    problem = "matches no file" if _is_glob(text) else "does not exist"
    why = "looked for in " + (f"what {prefix.removeprefix(PACKAGE).rstrip('/')} installed" if prefix else str(root))
    return SampleMissing(f"`{text}` {problem}", where=where, why=why, next=advice)
