"""What a store remembers besides its engines: a small file that outlives the deletion of versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from trtforge.engines.records import RecordError, from_json, parse, to_json
from trtforge.errors.engine import StoreUnreadable
from trtforge.files import write_json

STATE = ".trtforge.json"


@dataclass(frozen=True)
class EngineState:
    """``config``: digest of the config.pbtxt that was last written here; any other on disk is a person's edit.

    ``config_due``: a publish is about to replace config.pbtxt. A later one sees it only when that was killed.
    """

    last_version: int = 0
    config: str | None = None
    config_due: bool = False


@dataclass(frozen=True)
class _State:
    schema: int = 1
    engines: Mapping[str, EngineState] = field(default_factory=dict)


def read(root: Path, engine: str) -> EngineState:
    """The state of one engine; that of a new one when nothing is known. Raises OSError, ENG104."""
    return _load(root).engines.get(engine, EngineState())


def write(root: Path, engine: str, state: EngineState) -> None:
    """Remember; only while publishing is locked. Raises OSError, ENG104."""
    engines = dict(_load(root).engines) | {engine: state}
    write_json(root / STATE, to_json(_State(engines=engines)))


def _load(root: Path) -> _State:
    path = root / STATE
    try:
        text = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return _State()
    try:
        state = from_json(_State, parse(text))
    except RecordError as error:
        raise StoreUnreadable(
            "the store's own notes are unreadable",
            where=str(path),
            why=str(error),
            next=f"delete {path}: numbering then goes on after the newest version present",
        ) from error
    if state.schema != 1:
        raise StoreUnreadable(
            "the store was written by a newer trtforge",
            where=str(path),
            why=f"its notes have schema {state.schema}; this trtforge reads schema 1",
            next="upgrade trtforge, or build with `--store PATH` into a new store",
        )
    return state
