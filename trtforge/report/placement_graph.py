"""The coloured graph of a placement as SVG: a box for each fused chain or node, and the way of the data between."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import TYPE_CHECKING

from trtforge.graph.index import Index, used_names
from trtforge.graph.labels import label
from trtforge.report.layered import draw

if TYPE_CHECKING:
    from onnx import GraphProto

    from trtforge.lint.dla.placement import NodePlace, Placement

WIDTH, HEIGHT, ROW = 236.0, 44.0, 74.0
END_WIDTH = 180.0
MARGIN = 12.0
LETTERS = 31
"""Letters of a line in a box of this width."""

MOST_PASSED = 20_000
"""Rows that all lines together may pass; a page takes about a second and two megabytes for them."""

LONG = 8
"""Of a graph with more, lines that pass more rows than this are left out."""


@dataclass
class Box:
    """``kind``: its colour. ``lines``: what stands in it. ``facts``: what one reads when pointing at it."""

    kind: str
    lines: tuple[str, str]
    badge: str
    facts: list[str]
    outputs: list[str]
    reads: list[str] = field(default_factory=list)
    width: float = WIDTH


def draw_graph(graph: GraphProto, placement: Placement) -> str:
    """An SVG element that needs nothing outside it but the page's style."""
    boxes = _boxes(graph, placement)
    makers = {name: number for number, box in enumerate(boxes) for name in box.outputs}
    edges = list(
        dict.fromkeys(
            (makers[name], number)
            for number, box in enumerate(boxes)
            for name in box.reads
            if name in makers and makers[name] != number
        )
    )
    order = _topological(len(boxes), edges)
    rank = {number: at for at, number in enumerate(order)}
    boxes = [boxes[number] for number in order]
    edges, left_out = _short(len(boxes), [(rank[source], rank[target]) for source, target in edges])
    for source, target in left_out:
        boxes[target].facts.append(f"reads {' '.join(boxes[source].lines)}, far above: the line is not drawn")
    drawing = draw(len(boxes), edges, [box.width for box in boxes])
    width, height = drawing.width + 2 * MARGIN, drawing.rows * ROW - (ROW - HEIGHT) + 2 * MARGIN
    parts = [
        *([f'<p class="note">{_said(len(left_out))}</p>'] if left_out else []),
        f'<svg xmlns="http://www.w3.org/2000/svg" class="graph" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" style="--whole: {width:.0f}px" role="img" '
        'aria-label="Graph of the network, coloured by device">',
    ]
    for route, (source, target) in zip(drawing.routes, edges, strict=True):
        badges = {boxes[source].badge, boxes[target].badge} - {""}  # inputs and outputs have none
        crosses = " crosses" if len(badges) > 1 else ""
        parts.append(f'<path class="edge{crosses}" data-ends="{source} {target}" d="{_path(route)}"/>')
    for number, (box, x, row) in enumerate(zip(boxes, drawing.x, drawing.row, strict=True)):
        parts.append(_drawn(box, number, x + MARGIN - box.width / 2, row * ROW + MARGIN))
    parts.append("</svg>")
    return "\n".join(parts)


def _short(count: int, edges: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """The edges to draw, and those to leave out: long ones of a large graph. Every box keeps the one that sets its row.

    Edges lead from lower numbers to higher ones.
    """
    rows = [0] * count
    for source, target in sorted(edges):
        rows[target] = max(rows[target], rows[source] + 1)
    passed = [rows[target] - rows[source] - 1 for source, target in edges]
    most = LONG if sum(passed) > MOST_PASSED else count
    drawn = [edge for edge, over in zip(edges, passed, strict=True) if over <= most]
    return drawn, [edge for edge, over in zip(edges, passed, strict=True) if over > most]


def _said(count: int) -> str:
    lines = "One line that passes" if count == 1 else f"{count} lines that pass"
    are = "is" if count == 1 else "are"
    return f"{lines} more than {LONG} rows {are} left out; boxes at the lower ends name the upper ones."


def _boxes(graph: GraphProto, placement: Placement) -> list[Box]:
    """Inputs, then chains and nodes that are not folded away, then outputs."""
    index = Index(graph)
    through = _passed(placement)
    chains = {id(node): number for number, fusion in enumerate(placement.fusions) for node in fusion.nodes}
    boxes = [Box("end", ("input", name), "", [f"input {name}"], [name], width=END_WIDTH) for name in index.inputs]
    open_chains: dict[int, Box] = {}
    for place in placement.places:
        if place.device == "folded":
            continue
        number = chains.get(id(place.node))
        box = open_chains.get(number) if number is not None else None
        if box is None:
            box = Box(_kind(place), (place.node.op_type, place.name), _badge(place), [], [])
            boxes.append(box)
            if number is not None:
                open_chains[number] = box
                box.lines = (" + ".join(placement.fusions[number].operators), place.name)
        box.facts.append(_fact(place))
        box.outputs += [name for name in place.node.output if name]
        box.reads += [through.get(name, name) for name in used_names(place.node)]
    ends = [
        Box("end", ("output", name), "", [f"output {name}"], [], [through.get(name, name)], END_WIDTH)
        for name in index.outputs
    ]
    return boxes + ends


def _passed(placement: Placement) -> dict[str, str]:
    """Tensors behind nodes that TensorRT drops, and what they stand for."""
    through: dict[str, str] = {}
    for place in placement.places:
        if place.device == "folded" and place.node.input:
            through[place.node.output[0]] = through.get(place.node.input[0], place.node.input[0])
    return through


def _kind(place: NodePlace) -> str:
    return f"dla-{place.precision}" if place.device == "dla" else place.device


def _badge(place: NodePlace) -> str:
    return f"DLA {place.loadable}" if place.device == "dla" else {"gpu": "GPU", "refused": "none"}[place.device]


def _fact(place: NodePlace) -> str:
    where = f"DLA, loadable {place.loadable}, {place.precision}" if place.device == "dla" else _badge(place)
    reason = "; ".join(one.sentence for one in place.reasons) or place.reason
    return f"{place.node.op_type} {label(place.node)}: {where}" + (f": {reason}" if reason else "")


def _drawn(box: Box, number: int, x: float, y: float) -> str:
    """One box at its upper left corner."""
    room = int(LETTERS * box.width / WIDTH)
    first = escape(_begun(box.lines[0].replace("BatchNormalization", "BN"), room - 3 - len(box.badge)))
    second = escape(_ended(box.lines[1], room - 1))
    facts = escape("\n".join(box.facts))
    badge = f'<text class="badge" x="{box.width - 9:.0f}" y="18">{escape(box.badge)}</text>' if box.badge else ""
    return (
        f'<g class="node {box.kind}" data-number="{number}" tabindex="0" transform="translate({x:.1f} {y:.1f})">'
        f"<title>{facts}</title>"
        f'<rect width="{box.width:.0f}" height="{HEIGHT:.0f}" rx="{HEIGHT / 2 if box.kind == "end" else 7:.0f}"/>'
        f'<text class="op" x="11" y="18">{first}</text><text class="name" x="11" y="34">{second}</text>{badge}</g>'
    )


def _begun(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most - 1].rstrip(' +')}…"


def _ended(text: str, most: int) -> str:
    """The end of a name says more than its beginning."""
    return text if len(text) <= most else f"…{text[-(most - 1) :]}"


def _path(route: Iterable[tuple[float, int]]) -> str:
    """From box to box: straight down through the rows it passes, curved between them."""
    points = list(route)
    (x, row), commands = points[0], []
    bottom = row * ROW + MARGIN + HEIGHT
    commands.append(f"M{x + MARGIN:.1f} {bottom:.1f}")
    for next_x, next_row in points[1:]:
        top = next_row * ROW + MARGIN
        middle = (bottom + top) / 2
        commands.append(
            f"C{x + MARGIN:.1f} {middle:.1f} {next_x + MARGIN:.1f} {middle:.1f} {next_x + MARGIN:.1f} {top:.1f}"
        )
        bottom = top + HEIGHT
        if (next_x, next_row) != points[-1]:
            commands.append(f"V{bottom:.1f}")
        x = next_x
    return "".join(commands)


def _topological(count: int, edges: Iterable[tuple[int, int]]) -> list[int]:
    """Boxes before their readers; a chain of nodes can come earlier than what its later nodes read."""
    readers: list[list[int]] = [[] for _ in range(count)]
    waiting = [0] * count
    for source, target in edges:
        readers[source].append(target)
        waiting[target] += 1
    ready = [number for number in range(count) if not waiting[number]]
    order = []
    for number in ready:
        order.append(number)
        for target in readers[number]:
            waiting[target] -= 1
            if not waiting[target]:
                ready.append(target)
    return order
