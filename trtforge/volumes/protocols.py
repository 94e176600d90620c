"""Preprocessing that has a name, and scans that went through it already: they say so in their header."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from trtforge.digest import digest_json
from trtforge.errors.volume import PreparedOtherwise
from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes.fit import network_shape
from trtforge.volumes.place import Placed, place
from trtforge.volumes.turn import Turn
from trtforge.volumes.volume import Array, Shape, Spacing, Volume, by

if TYPE_CHECKING:
    from trtforge.volumes.nifti import Template

_MARK = "trtforge prepared "


@dataclass(frozen=True)
class ScanProtocol:
    spec: VolumePreprocess
    window: Shape


KITS19 = ScanProtocol(
    VolumePreprocess(
        kind="volume",
        orientation="IPL",
        spacing=(1.6, 1.2, 1.2),
        clip=(-79, 304),
        mean=101,
        std=76.9,
        pad=-2.2,
        multiple=64,
    ),
    (128, 128, 128),
)
"""MLPerf Inference 3D-UNet, `vision/medical_imaging/3d-unet-kits19`.

The reference takes axes as stored. KiTS19 stores slices first, from head to foot, rows to the back, columns to the left
(IPL; recalled, no file was at hand), so for its own files this is the same, and others are turned.
"""

_SPACING_TOLERANCE = 0.2
"""A resampled axis has a whole number of voxels, so its spacing is about what was asked for; axes that changed places
differ by more (1.6 and 1.2 mm)."""


class Header(Protocol):
    """What a scan says of itself before its voxels: `Scan` and `Volume` do."""

    @property
    def path(self) -> Path: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def spacing(self) -> Spacing: ...
    @property
    def affine(self) -> Array: ...
    @property
    def template(self) -> Template | None: ...


def mark(spec: VolumePreprocess, window: Shape) -> str:
    """What a prepared file's header says, 34 characters: equal for equal values, whatever way the axes were turned."""
    values = spec.model_dump(mode="json", exclude={"orientation"})
    return _MARK + digest_json([values, list(window)])[:16]


def remaining(scan: Header, spec: VolumePreprocess, window: Shape) -> VolumePreprocess:
    """What is still to be done to a scan: ``spec``, or of a prepared one only the turn of its axes. Raises VOL113."""
    said = _said(scan)
    if not said.startswith(_MARK):
        return spec
    turned = Turn.to(spec.orientation, scan.affine).order(scan.spacing)
    if said != mark(spec, window):
        why = f"its header says {said.removeprefix(_MARK)}, this engine's preprocessing is "
        why += mark(spec, window).removeprefix(_MARK)
    elif spec.spacing and any(abs(a - b) > _SPACING_TOLERANCE * b for a, b in zip(turned, spec.spacing, strict=True)):
        why = f"turned to this engine's axes its voxels are {by(turned)} mm, not {by(spec.spacing)}"
    else:
        return VolumePreprocess(kind="volume", orientation=spec.orientation, pad=spec.pad)
    raise PreparedOtherwise(
        "the scan was prepared for another network",
        where=str(scan.path),
        why=why,
        next="give the original scan, or prepare it with the values that this engine's recipe says",
    )


def shape_of(scan: Header, spec: VolumePreprocess, window: Shape) -> Shape:
    """[D, H, W] on the network's grid, from the header alone. Raises VOL113."""
    todo = remaining(scan, spec, window)
    turn = Turn.to(todo.orientation, scan.affine)
    return network_shape(turn.order(scan.shape), turn.order(scan.spacing), todo, window)


def place_once(volume: Volume, spec: VolumePreprocess, window: Shape) -> Placed:
    """`place`, but a scan that was prepared before is only given its axes. Raises VOL112, VOL113."""
    return place(volume, remaining(volume, spec, window), window)


def network_affine(volume: Volume, placed: Placed) -> Array:
    """float64 [4, 4]: indices on the network's grid to RAS mm."""
    to_raw = np.zeros((4, 4))
    to_raw[3, 3] = 1
    for axis, fit in enumerate(placed.fits):
        source, backwards = placed.turn.axes[axis], placed.turn.flipped[axis]
        step = fit.step or 1 / fit.resampled  # of a single slice, which all of the network's repeat
        first = fit.first * step
        to_raw[source, axis] = -step if backwards else step
        to_raw[source, 3] = fit.raw - 1 - first if backwards else first
    affine: Array = volume.affine @ to_raw
    return affine


def _said(scan: Header) -> str:
    if scan.template is None:
        return ""
    return bytes(scan.template.header["descrip"].item()).rstrip(b"\0").decode("ascii", "replace")
