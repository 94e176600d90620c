"""Preprocessing that has a name, and scans that went through it already: they say so in their header."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from trtforge.digest import digest_json
from trtforge.errors.volume import PreparedOtherwise
from trtforge.recipe.models import VolumePreprocess
from trtforge.volumes.place import Placed, place
from trtforge.volumes.volume import Shape, Volume

_MARK = "trtforge prepared "


@dataclass(frozen=True)
class Protocol:
    spec: VolumePreprocess
    window: Shape


KITS19 = Protocol(
    VolumePreprocess(
        kind="volume", spacing=(1.6, 1.2, 1.2), clip=(-79, 304), mean=101, std=76.9, pad=-2.2, multiple=64
    ),
    (128, 128, 128),
)
"""MLPerf Inference 3D-UNet, `vision/medical_imaging/3d-unet-kits19`: axes as stored, slices first."""


def mark(spec: VolumePreprocess, window: Shape) -> str:
    """What a prepared file's header says, 34 characters: equal for equal values, whatever way the axes were turned."""
    values = spec.model_dump(mode="json", exclude={"orientation"})
    return _MARK + digest_json([values, list(window)])[:16]


def place_once(volume: Volume, spec: VolumePreprocess, window: Shape) -> Placed:
    """`place`, but a scan that was prepared before is only given its axes. Raises VOL112, VOL113."""
    said = _said(volume)
    if not said.startswith(_MARK):
        return place(volume, spec, window)
    if said != mark(spec, window):
        raise PreparedOtherwise(
            "the scan was prepared for another network",
            where=str(volume.path),
            why=f"its header says {said.removeprefix(_MARK)}, this engine's preprocessing is "
            f"{mark(spec, window).removeprefix(_MARK)}",
            next="give the original scan, or prepare it with the values that this engine's recipe says",
        )
    return place(volume, VolumePreprocess(kind="volume", orientation=spec.orientation, pad=spec.pad), window)


def network_affine(volume: Volume, placed: Placed) -> np.ndarray[Any, np.dtype[np.float64]]:
    """float64 [4, 4]: indices on the network's grid to RAS mm."""
    to_raw = np.zeros((4, 4))
    to_raw[3, 3] = 1
    for axis, fit in enumerate(placed.fits):
        source, backwards = placed.turn.axes[axis], placed.turn.flipped[axis]
        first = fit.first * fit.step
        to_raw[source, axis] = -fit.step if backwards else fit.step
        to_raw[source, 3] = fit.raw - 1 - first if backwards else first
    affine: np.ndarray[Any, np.dtype[np.float64]] = volume.affine @ to_raw
    return affine


def _said(volume: Volume) -> str:
    if volume.template is None:
        return ""
    return bytes(volume.template.header["descrip"].item()).rstrip(b"\0").decode("ascii", "replace")
