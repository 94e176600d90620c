"""The page: the figures, a viewer of slices and the panels; one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from trtforge.files import atomic_open
from trtforge.report.case import PREDICTION, SegmentedCase, dice_text, millilitres_text, table
from trtforge.report.panels import bar_mm, class_colours, compared, difference_keys, draw_panels
from trtforge.report.planes import Grid, Plane, Scene, look
from trtforge.report.sprites import Viewer, data_uri, viewers

LARGEST = 6_000_000  # bytes of a page
_TILES = ((320, 62), (256, 58), (192, 55), (128, 50), (80, 45))
"""Length of a tile in pixels and quality of its JPEG, best first: the first that keeps the page below ``LARGEST``."""
_AXES = "xyz"
_SIDES = ("left", "right", "top", "bottom")


def write_page(path: Path, case: SegmentedCase) -> None:
    """Write a case as an HTML page; equal cases give equal bytes. Raises OSError."""
    page = draw_page(case).encode()
    with atomic_open(path) as stream:
        stream.write(page)


def draw_page(case: SegmentedCase) -> str:
    """HTML in UTF-8, at most about ``LARGEST`` bytes; it asks for no other file."""
    scene = look(case)
    panels = data_uri(draw_panels(scene), "JPEG", quality=86, subsampling=0, optimize=True)
    page = ""
    for tile, quality in _TILES:
        page = _filled(scene, viewers(scene, tile, quality), panels)
        if len(page.encode()) <= LARGEST:
            break
    return page


def _filled(scene: Scene, made: list[Viewer], panels: str) -> str:
    case, room = scene.case, files("trtforge.report")
    layers = [layer.name for layer in made[0].layers]
    return Template(room.joinpath("page.html").read_text("utf-8")).substitute(
        name=escape(case.name),
        style=room.joinpath("page.css").read_text("utf-8").strip(),
        script=room.joinpath("page.js").read_text("utf-8").strip(),
        figures=_figures(case),
        overlays=_lines(_overlays(layers)),
        legend=_lines(_legend(case, layers)),
        widths=" ".join(f"{scene.grid.size_mm[viewer.plane.columns]:.6g}fr" for viewer in made),
        planes=_lines(_plane(scene, viewer) for viewer in made),
        last=len(layers),
        panels=panels,
        panels_alt=escape(f"Axial, coronal and sagittal planes of {case.name} with contours, labels and differences"),
        facts=_lines(f"<div><dt>{escape(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in case.facts.items()),
    )


def _lines(parts: Iterable[str]) -> str:
    return "\n".join(parts)


def _figures(case: SegmentedCase) -> str:
    """The table of Dice and volumes."""
    figures, colours = table(case), class_colours(case)
    groups = (("Dice with", len(figures.compared_with)), ("volume, ml", len(figures.volumes_of)))
    over = "".join(f'<th scope="colgroup" colspan="{count}">{title}</th>' for title, count in groups if count)
    names = [*figures.compared_with, *figures.volumes_of]
    body = []
    for row in figures.rows:
        swatch = "" if row.label is None else _swatch(colours[row.label])
        texts = [*map(dice_text, row.dice), *map(millilitres_text, row.millilitres)]
        cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
        body.append(f'<tr><th scope="row">{swatch}{escape(row.name)}</th>{cells}</tr>')
    return (
        '<div class="figures"><table><caption>Dice and volumes by class</caption>'
        f"<thead><tr><td></td>{over}</tr>"
        f'<tr><th scope="col"><span class="unseen">class</span></th>{_headings(names)}</tr></thead>'
        f"<tbody>\n{_lines(body)}\n</tbody></table></div>"
    )


def _headings(names: Iterable[str]) -> str:
    return "".join(f'<th scope="col">{escape(name)}</th>' for name in names)


def _swatch(colour: str) -> str:
    return f'<span class="swatch" style="background: {colour}"></span>'


def _overlays(layers: list[str]) -> Iterator[str]:
    """A choice of one of the layers or none; the prediction at first."""
    for number, name in enumerate(["none", *layers]):
        checked = " checked" if name == PREDICTION else ""
        title = escape(name[:1].upper() + name[1:])
        yield f'<label><input type="radio" name="overlay" value="{number}"{checked}>{title}</label>'


def _legend(case: SegmentedCase, layers: list[str]) -> Iterator[str]:
    """Colours, each with the numbers of the layers it belongs to."""
    sets = len(case.labels)
    of_classes = " ".join(str(number) for number in range(1, sets + 1))
    of_differences = " ".join(str(number) for number in range(sets + 1, len(layers) + 1))
    for name, colour in list(zip(case.classes, class_colours(case), strict=True))[1:]:
        yield f'<li data-for="{of_classes}">{_swatch(colour)}{escape(name)}</li>'
    if compared(case.labels):
        for name, colour in difference_keys(case):
            yield f'<li data-for="{of_differences}" hidden>{_swatch(colour)}{escape(name)}</li>'


def _plane(scene: Scene, viewer: Viewer) -> str:
    """A figure: the stage with its sprites, and the slider below it."""
    plane, grid = viewer.plane, scene.grid
    count = len(viewer.indices)
    places = [
        f"{grid.place(plane, index, scene.point)} · {number} / {count}"
        for number, index in enumerate(viewer.indices, start=1)
    ]
    middles = " ".join(f"{(index + 0.5) / grid.shape[plane.cuts]:.5f}" for index in viewer.indices)
    x, y = ((scene.point[axis] + 0.5) / grid.shape[axis] for axis in (plane.columns, plane.rows))
    style = (
        f"--ratio: {grid.size_mm[plane.columns] / grid.size_mm[plane.rows]:.6g}; "
        f"--columns: {viewer.columns}; --rows: {viewer.rows}; "
        f"--column: {viewer.start % viewer.columns}; --row: {viewer.start // viewer.columns}; "
        f"--x: {x:.5f}; --y: {y:.5f}"
    )
    layers = "".join(
        f'<img class="layer" data-layer="{number}" alt="" src="{layer.uri}"'
        f"{'' if layer.name == PREDICTION else ' hidden'}>"
        for number, layer in enumerate(viewer.layers, start=1)
    )
    sides = "".join(
        f'<span class="side {side}" aria-hidden="true">{letter}</span>'
        for side, letter in zip(_SIDES, plane.edges, strict=True)
    )
    title = plane.name.capitalize()
    return (
        f'<figure class="plane" data-cuts="{_AXES[plane.cuts]}" data-across="{_AXES[plane.columns]}" '
        f'data-down="{_AXES[plane.rows]}" data-columns="{viewer.columns}" data-at="{middles}" '
        f'data-places="{escape("|".join(places))}">\n'
        f'<div class="stage" style="{style}"><img class="scan" alt="{title} slice of the scan" src="{viewer.scan}">'
        f'{layers}<span class="cross x"></span><span class="cross y"></span>{sides}{_bar(grid, plane)}</div>\n'
        f"<figcaption><span>{title}</span><output>{places[viewer.start]}</output>"
        f'<input type="range" min="0" max="{count - 1}" value="{viewer.start}" '
        f'aria-label="{title} slice" aria-valuetext="{places[viewer.start]}"></figcaption>\n'
        "</figure>"
    )


def _bar(grid: Grid, plane: Plane) -> str:
    wide = grid.size_mm[plane.columns]
    length = bar_mm(wide)
    if length is None:
        return ""
    return f'<span class="bar" style="width: {100 * length / wide:.4g}%">{length:g} mm</span>'
