"""The tables of `trtforge targets`: all devices at a glance, or one with the source of every figure."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from trtforge.cli.ui import Ui
from trtforge.targets.load import dla_support, get, jetpacks, keys
from trtforge.targets.model import FIGURES, JetPack, Target

RECALLED_MARK = "~"


def overview(ui: Ui) -> None:
    """Every target and every JetPack."""
    targets = [get(key) for key in keys()]
    ui.table(
        "Targets (dense peaks; a DLA's are of one core)",
        ("key", "SM", "memory GB", "GB/s", "INT8 TOPS", "FP16 TFLOPS", "TDP W", "DLA cores"),
        [_row(target) for target in targets],
        right="SM,memory GB,GB/s,INT8 TOPS,FP16 TFLOPS,TDP W,DLA cores",
        drop="TDP W,GB/s,FP16 TFLOPS,memory GB",
    )
    ui.say(
        f"{RECALLED_MARK} recalled from a datasheet, not read again; `trtforge targets KEY` gives each figure's source"
    )
    packs = jetpacks()
    ui.table(
        "JetPack",
        ("JetPack", "TensorRT", "CUDA", "DLA software", "devices", "DLA usable on"),
        _jetpack_rows(packs),
        drop="CUDA,DLA software,devices",
    )
    ui.result("targets", {"targets": [t.to_json() for t in targets], "jetpacks": [p.to_json() for p in packs]})


def one(ui: Ui, key: str) -> None:
    """One target in full."""
    target = get(key)
    facts: list[tuple[str, object, str]] = [("name", target.name, ""), ("kind", target.kind, "")]
    facts += [("compute capability", target.sm, "")] if target.sm else []
    for figure in FIGURES:
        value = getattr(target, figure)
        if value is not None:
            facts.append((figure, f"{value:g}", _source(target, figure)))
    for mode in target.power_modes:
        facts.append((f"mode {mode.name}", f"{mode.int8_dense_tops:g} INT8 TOPS dense", _source(target, "power_modes")))
    if target.is_dla or target.kind == "soc-gpu":
        facts.append(("DLA", dla_support(target.key)[1], _source(target, "dla")))
    if target.host is not None:
        facts += [(name, value, "") for name, value in _host_rows(target.host.to_json())]
    if target.note:
        facts.append(("note", target.note, ""))
    ui.table(target.key, ("what", "value", "source"), facts)
    ui.result("target", {"target": target.to_json()})


def _source(target: Target, figure: str) -> str:
    origin = target.provenance.get(figure)
    return f"{origin.origin}: {origin.source}" if origin else ""


def _row(target: Target) -> tuple[str, ...]:
    def figure(name: str) -> str:
        value = getattr(target, name)
        if value is None:
            return "-"
        origin = target.provenance.get(name)
        return f"{RECALLED_MARK if origin and origin.origin == 'recalled' else ''}{value:g}"

    names = ("memory_gb", "bandwidth_gb_s", "int8_dense_tops", "fp16_dense_tflops", "tdp_w")
    return (target.key, target.sm or "-", *map(figure, names), str(target.dla.cores) if target.dla else "-")


def _jetpack_rows(packs: list[JetPack]) -> list[tuple[str, ...]]:
    """One row for a run of releases that carry the same things."""

    def content(pack: JetPack) -> tuple[str, ...]:
        usable = ", ".join(pack.dla) or "none"
        return (pack.tensorrt, pack.cuda, pack.dla_software or "-", ", ".join(pack.families), usable)

    runs = [(same, [pack.version for pack in run]) for same, run in groupby(packs, key=content)]
    return [
        (versions[0] if len(versions) == 1 else f"{versions[0]} to {versions[-1]}", *same) for same, versions in runs
    ]


def _host_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    return [(key, " ".join(value) if isinstance(value, list) else str(value)) for key, value in facts.items()]
