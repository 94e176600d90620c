"""The page of a placement: figures, findings and the coloured graph; one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

from trtforge.files import atomic_open
from trtforge.graph.labels import label
from trtforge.lint.dla.sizes import sized
from trtforge.report.placement_graph import draw_graph

if TYPE_CHECKING:
    from onnx import GraphProto

    from trtforge.lint.dla.placement import Placement
    from trtforge.lint.rule import Finding

KINDS = (("dla-int8", "DLA, INT8"), ("dla-fp16", "DLA, FP16"), ("gpu", "GPU"), ("refused", "neither: the build fails"))


_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\n\t"}
"""HTML has no way to write them; they come from names of a model only."""


@dataclass(frozen=True)
class PlacementPage:
    """What one page shows. ``summary``: a sentence. ``note``: what to know of the estimate."""

    title: str
    summary: str
    note: str
    graph: GraphProto
    placement: Placement
    findings: Sequence[Finding]


def write_placement(path: Path, page: PlacementPage) -> None:
    """Write the page; equal placements give equal bytes. Raises OSError."""
    with atomic_open(path) as stream:
        stream.write(draw_placement(page).encode())


def draw_placement(shown: PlacementPage) -> str:
    """HTML in UTF-8 that asks for no other file."""
    room = files("trtforge.report")
    page = Template(room.joinpath("placement.html").read_text("utf-8")).substitute(
        title=escape(shown.title),
        style=room.joinpath("placement.css").read_text("utf-8").strip(),
        script=room.joinpath("placement.js").read_text("utf-8").strip(),
        summary=escape(shown.summary),
        note=escape(shown.note),
        legend=_legend(shown.placement),
        loadables=_loadables(shown.placement),
        findings=_findings(shown.findings),
        graph=draw_graph(shown.graph, shown.placement),
    )
    return page.translate(_CONTROLS)


def _legend(placement: Placement) -> str:
    """The colours that are in the graph."""
    there = {f"dla-{place.precision}" if place.device == "dla" else place.device for place in placement.places}
    keys = [f'<li><span class="key {kind}"></span>{name}</li>' for kind, name in KINDS if kind in there]
    return "\n".join([*keys, '<li><span class="key line"></span>data changes the device or the loadable</li>'])


def _loadables(placement: Placement) -> str:
    heads = ("loadable", "nodes", "from", "to", "weights", "largest tensor", "all tensors", "batch")
    rows = [
        (
            f"DLA {one.number}",
            str(len(one.nodes)),
            label(one.nodes[0]),
            label(one.nodes[-1]),
            sized(one.weights),
            sized(one.largest),
            sized(one.total),
            "?" if one.batch is None else str(one.batch),
        )
        for one in placement.loadables
    ]
    return _table("Loadables", heads, rows) if rows else ""


def _findings(findings: Sequence[Finding]) -> str:
    heads = ("code", "severity", "where", "finding", "fix")
    rows = [(one.code, one.severity, one.where, one.message, one.fix) for one in findings]
    return _table("Findings", heads, rows) if rows else ""


def _table(caption: str, heads: Iterable[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in heads)
    body = "\n".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return (
        f'<h2>{caption}</h2>\n<table class="{caption.lower()}">'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>"
    )
