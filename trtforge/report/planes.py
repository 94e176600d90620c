"""From a volume as its file has it to planes as a radiologist sees them: orientation, point, extent, resampling.

Planes are shown in radiological convention: the patient's right on the left of the picture, the front on top of an
axial plane and on the left of a sagittal one, the head on top. In a volume whose axes run to the patient's left, back
and feet (LPI) every such plane is a transposed slice, so a volume is turned to LPI first, as a view.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from trtforge.report.case import PREDICTION, REFERENCE, TRUTH, SegmentedCase

Array = np.ndarray[Any, Any]
Voxel = tuple[int, int, int]
Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]

MARGIN_MM = 20.0  # of tissue around what is labelled
NARROWEST_MM = 120.0  # a small lesion is shown with what is around it
TALLEST, FLATTEST = 1.2, 0.6  # height of a row of panels over the width of a panel
_FINEST = 1 << 20  # voxels of a box in which components are looked for one by one; a larger one is thinned out


@dataclass(frozen=True)
class Plane:
    """One of the three ways through a volume in LPI: the axis it cuts, those of its columns and rows.

    ``edges``: the letters at the left, right, top and bottom edge.
    """

    name: str
    cuts: int
    columns: int
    rows: int
    edges: tuple[str, str, str, str]


PLANES = (
    Plane("axial", 2, 0, 1, ("R", "L", "A", "P")),
    Plane("coronal", 1, 0, 2, ("R", "L", "S", "I")),
    Plane("sagittal", 0, 1, 2, ("A", "P", "S", "I")),
)


@dataclass(frozen=True, eq=False)
class Grid:
    """The grid of a volume, turned to LPI as closely as its axes allow.

    ``shape`` in voxels; ``spacing`` in mm; ``affine`` [4, 4]: voxel of this grid -> RAS mm; ``turn``: what nibabel
    needs to turn a volume from the file's axes.
    """

    shape: Voxel
    spacing: Triple
    affine: Array
    turn: Array

    @classmethod
    def of(cls, shape: tuple[int, ...], affine: Array) -> Grid:
        """``shape`` and ``affine`` (voxel -> RAS mm) as in the file."""
        orientations = _orientations()
        affine = np.asarray(affine, np.float64)
        turn = orientations.ornt_transform(orientations.io_orientation(affine), orientations.axcodes2ornt("LPI"))
        turned = affine @ orientations.inv_ornt_aff(turn, shape)
        x, y, z = orientations.apply_orientation(np.broadcast_to(np.uint8(0), shape), turn).shape
        dx, dy, dz = (float(step) for step in np.sqrt((turned[:3, :3] ** 2).sum(axis=0)))
        return cls((x, y, z), (dx, dy, dz), turned, turn)

    def turned(self, volume: Array) -> Array:
        """A view of a volume [I, J, K] of the file with this grid's axes: to the left, to the back, to the feet."""
        view: Array = _orientations().apply_orientation(volume, self.turn)
        return view

    @property
    def size_mm(self) -> Triple:
        x, y, z = (count * step for count, step in zip(self.shape, self.spacing, strict=True))
        return x, y, z

    def place(self, plane: Plane, index: int, point: Voxel) -> str:
        """Where a plane lies at ``point``, as in `S 42 mm`: the coordinate it cuts, with the letter of its side."""
        voxel = [*point]
        voxel[plane.cuts] = index
        value = float((self.affine @ [*voxel, 1])[plane.cuts])
        return f"{('RL', 'AP', 'SI')[plane.cuts][value < 0]} {abs(value):.0f} mm"


def _orientations() -> Any:
    """nibabel's module of that name; its functions have no types."""
    from nibabel import orientations

    return orientations


@dataclass(frozen=True, eq=False)
class Scene:
    """A case turned to its display grid, and where to look: views, no copies.

    ``labels`` by their names in a report; ``point``: the voxel that the three planes go through; ``box``: all that is
    labelled in any of the sets, or None.
    """

    case: SegmentedCase
    grid: Grid
    scan: Array
    labels: Mapping[str, Array]
    point: Voxel
    box: Box | None


def look(case: SegmentedCase) -> Scene:
    """Turn a case, and find where to look.

    The point is in the lesion: the highest label that the truth has, else the prediction, else the FP32 model. It is
    the voxel nearest to the centroid of its largest connected component. Without any label it is the middle.
    """
    grid = Grid.of(case.scan.shape, case.affine)
    labels = {name: grid.turned(volume) for name, volume in case.labels.items()}
    found = {name: boxes(volume) for name, volume in labels.items()}
    x, y, z = (count // 2 for count in grid.shape)
    point = (x, y, z)
    for name in (TRUTH, PREDICTION, REFERENCE):
        if places := found.get(name):
            lesion = max(places)
            point = _middle(labels[name], lesion, places[lesion], grid.spacing)
            break
    everything = [box for places in found.values() for box in places.values()]
    return Scene(case, grid, grid.turned(case.scan), labels, point, _around(everything) if everything else None)


def boxes(labels: Array) -> dict[int, Box]:
    """The smallest box around every label but 0, by label."""
    from scipy import ndimage

    order = sorted(range(3), key=lambda axis: -abs(labels.strides[axis]))  # several times faster along memory
    found: dict[int, Box] = {}
    for label, box in enumerate(ndimage.find_objects(labels.transpose(order)), start=1):
        if box is not None:
            x, y, z = (box[order.index(axis)] for axis in range(3))
            found[label] = (x, y, z)
    return found


def _around(boxes: list[Box]) -> Box:
    x, y, z = (slice(min(box[axis].start for box in boxes), max(box[axis].stop for box in boxes)) for axis in range(3))
    return x, y, z


def _middle(labels: Array, label: int, box: Box, spacing: Triple) -> Voxel:
    """The voxel nearest to the centroid of the largest component (connected by faces) of a label; first of equals."""
    from scipy import ndimage

    part = labels[box]
    step = math.ceil((part.size / _FINEST) ** (1 / 3))
    thinned = part[::step, ::step, ::step] == label
    if not thinned.any():
        step, thinned = 1, part == label
    components, _ = ndimage.label(thinned)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    voxels = np.argwhere(components == sizes.argmax())
    away = (((voxels - voxels.mean(axis=0)) * spacing) ** 2).sum(axis=1)
    x, y, z = (int(at) * step + side.start for at, side in zip(voxels[away.argmin()], box, strict=True))
    return x, y, z


@dataclass(frozen=True)
class Frame:
    """What a panel shows: a rectangle of a plane, in mm from its top left corner, on square pixels."""

    plane: Plane
    left: float
    top: float
    width: float
    height: float
    pixels: tuple[int, int]

    @property
    def pixels_per_mm(self) -> float:
        return self.pixels[0] / self.width


def frames(scene: Scene, cell: int) -> list[Frame]:
    """A frame for each of ``PLANES``, all at one scale and at most ``cell`` pixels wide.

    They show all that is labelled and a margin of tissue; without labels, the whole volume.
    """
    whole = scene.grid.size_mm
    start, stop = [0.0, 0.0, 0.0], list(whole)
    if scene.box is not None:
        start = [side.start * step for side, step in zip(scene.box, scene.grid.spacing, strict=True)]
        stop = [side.stop * step for side, step in zip(scene.box, scene.grid.spacing, strict=True)]
    x, y, z = (
        min(max(last - first + 2 * MARGIN_MM, NARROWEST_MM), size)
        for first, last, size in zip(start, stop, whole, strict=True)
    )
    scale = min(cell / max(x, y), TALLEST * cell / max(y, z))
    tall = min(max(scale * max(y, z), FLATTEST * cell), TALLEST * cell)
    made = []
    for plane in PLANES:
        spans = []
        for axis, room in ((plane.columns, cell), (plane.rows, tall)):
            shown = min(room / scale, whole[axis])
            first = (start[axis] + stop[axis] - shown) / 2
            spans.append((min(max(first, 0.0), whole[axis] - shown), shown))
        (left, width), (top, height) = spans
        pixels = (max(1, round(width * scale)), max(1, round(height * scale)))
        made.append(Frame(plane, left, top, width, height, pixels))
    return made


def whole_frame(grid: Grid, plane: Plane, pixels: tuple[int, int]) -> Frame:
    """All of a plane, on pixels that need not be square."""
    return Frame(plane, 0.0, 0.0, grid.size_mm[plane.columns], grid.size_mm[plane.rows], pixels)


def cut(volume: Array, plane: Plane, index: int) -> Array:
    """[rows, columns] of a plane through a volume in LPI, a view."""
    along: list[int | slice] = [slice(None)] * 3
    along[plane.cuts] = index
    return volume[tuple(along)].T


def resampled_grey(values: Array, frame: Frame, spacing: Triple, window: tuple[float, float]) -> Image.Image:
    """A plane of a scan [rows, columns] as 8-bit grey on the frame's pixels; linear, and averaged where it shrinks.

    NaN is shown as the lower end of the window.
    """
    low, high = window
    with np.errstate(over="ignore"):  # beyond float32 is infinite, hence white or black
        numbers = np.nan_to_num(values.astype(np.float32), nan=low, posinf=high, neginf=low)
    grey = (np.clip(numbers, low, high) - low) * (255 / (high - low))
    image = Image.fromarray(grey)
    resized = image.resize(frame.pixels, Image.Resampling.BILINEAR, _source(frame, spacing, image.size))
    return Image.fromarray(np.rint(np.asarray(resized)).clip(0, 255).astype(np.uint8))


def resampled_labels(labels: Array, frame: Frame, spacing: Triple, factor: int = 1) -> Array:
    """A plane of labels [rows, columns] on the frame's pixels, each divided in ``factor`` x ``factor``; nearest."""
    width, height = frame.pixels
    image = Image.fromarray(np.ascontiguousarray(labels))
    size = (width * factor, height * factor)
    return np.asarray(image.resize(size, Image.Resampling.NEAREST, _source(frame, spacing, image.size)))


def _source(frame: Frame, spacing: Triple, size: tuple[int, int]) -> tuple[float, float, float, float]:
    """The frame's rectangle in voxels; Pillow refuses one that rounding has taken past the edge."""
    dx, dy = spacing[frame.plane.columns], spacing[frame.plane.rows]
    right, bottom = (frame.left + frame.width) / dx, (frame.top + frame.height) / dy
    return frame.left / dx, frame.top / dy, min(right, size[0]), min(bottom, size[1])
