"""Turns targets.yaml, which people edit, into targets.json, which is loaded: ``python -m trtforge.targets.compile``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trtforge.files import write_text
from trtforge.targets.model import FIGURES

SOURCE = Path(__file__).with_name("targets.yaml")
COMPILED = Path(__file__).with_name("targets.json")
ORIGINS = ("cross-checked", "recalled", "computed", "measured")


def compile_table(text: str) -> dict[str, Any]:
    """The JSON form of the YAML text. Raises ValueError naming the record when a figure lacks its provenance."""
    data = YAML(typ="safe", pure=True).load(text)
    sources: dict[str, str] = data["sources"]
    return {
        "targets": {key: _target(key, record, sources) for key, record in data["targets"].items()},
        "jetpacks": [row for group in data["jetpacks"] for row in _jetpacks(group, sources)],
        "dla_windows": [{**window, "source": sources[window["source"]]} for window in data["dla_windows"]],
    }


def render(table: dict[str, Any]) -> str:
    """One line a record, so that a change of one device is one line of a diff."""
    sections = []
    for name, records in table.items():
        if isinstance(records, dict):
            lines = [f"{json.dumps(key)}: {json.dumps(record, sort_keys=True)}" for key, record in records.items()]
            sections.append(f'"{name}": {{\n' + ",\n".join(lines) + "\n}")
        else:
            lines = [json.dumps(record, sort_keys=True) for record in records]
            sections.append(f'"{name}": [\n' + ",\n".join(lines) + "\n]")
    return "{\n" + ",\n".join(sections) + "\n}\n"


def _target(key: str, record: dict[str, Any], sources: dict[str, str]) -> dict[str, Any]:
    given = [name for name in (*FIGURES, "dla", "power_modes") if name in record]
    named: dict[str, tuple[str, str]] = {}
    rest: tuple[str, str] | None = None
    for origin, by_source in record.get("provenance", {}).items():
        if origin not in ORIGINS:
            raise ValueError(f"{key}: `{origin}` is not one of {', '.join(ORIGINS)}")
        for source, figures in by_source.items():
            entry = (origin, sources[source])
            if figures == "*":
                rest = entry
            else:
                named |= dict.fromkeys(figures, entry)
    if unknown := set(named) - set(given):
        raise ValueError(f"{key}: provenance for figures that are not given: {', '.join(sorted(unknown))}")
    provenance = {}
    for figure in given:
        entry_or_rest = named.get(figure, rest)
        if entry_or_rest is None:
            raise ValueError(f"{key}: {figure} has no provenance")
        provenance[figure] = {"origin": entry_or_rest[0], "source": entry_or_rest[1]}
    return {**record, "provenance": provenance}


def _jetpacks(group: dict[str, Any], sources: dict[str, str]) -> list[dict[str, Any]]:
    origin, source = group["provenance"]
    if origin not in ORIGINS:
        raise ValueError(f"JetPack {group['versions'][0]}: `{origin}` is not one of {', '.join(ORIGINS)}")
    shared = {name: value for name, value in group.items() if name != "versions"}
    shared["provenance"] = {"origin": origin, "source": sources[source]}
    return [{**shared, "version": version} for version in group["versions"]]


if __name__ == "__main__":
    write_text(COMPILED, render(compile_table(SOURCE.read_text(encoding="utf-8"))))
