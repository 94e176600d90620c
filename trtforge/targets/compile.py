"""Turns the YAML tables people edit into the JSON that is loaded: ``python -m trtforge.targets.compile``.

Reading YAML at run time would cost every command a tenth of a second.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from trtforge.files import write_text
from trtforge.targets.model import FIGURES

TARGETS = Path(__file__).with_name("targets.yaml")
DLA_LAYERS = Path(__file__).with_name("dla_layers.yaml")
ORIGINS = ("cross-checked", "recalled", "computed", "measured")


def compile_targets(text: str) -> dict[str, Any]:
    """The JSON form of targets.yaml. Raises ValueError naming the record when a figure lacks its provenance."""
    data = YAML(typ="safe", pure=True).load(text)
    sources: dict[str, str] = data["sources"]
    return {
        "targets": {key: _target(key, record, sources) for key, record in data["targets"].items()},
        "jetpacks": [row for group in data["jetpacks"] for row in _jetpacks(group, sources)],
        "dla_windows": [{**window, "source": sources[window["source"]]} for window in data["dla_windows"]],
    }


def compile_dla_layers(text: str) -> dict[str, Any]:
    """The JSON form of dla_layers.yaml: one row an operator."""
    data = YAML(typ="safe", pure=True).load(text)
    layers = {op: {**row, "runs": True} for op, row in data["runs"].items()}
    for origin, rows in data["falls_back"].items():
        if twice := set(layers) & set(rows):
            raise ValueError(f"listed twice: {', '.join(sorted(twice))}")
        layers |= {op: {**row, "runs": False, "origin": origin} for op, row in rows.items()}
    return {"layers": layers}


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


def rendered() -> dict[Path, str]:
    """Path of each compiled table -> its text as the sources now say."""
    return {
        TARGETS.with_suffix(".json"): render(compile_targets(TARGETS.read_text(encoding="utf-8"))),
        DLA_LAYERS.with_suffix(".json"): render(compile_dla_layers(DLA_LAYERS.read_text(encoding="utf-8"))),
    }


if __name__ == "__main__":
    for path, text in rendered().items():
        write_text(path, text)
