"""What to do about a scan that does not fit into memory: what makes it so large comes first."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from trtforge.memory import human_bytes
from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes.scan import Scan
from trtforge.volumes.volume import by

USUAL_OVERLAP = 0.5
_MUCH_LESS = 0.75
_MANY = 4
"""Times as many voxels after resampling: more than a network on a finer grid than its scans would ask for."""


def advice(
    scan: Scan,
    spec: VolumePreprocess,
    overlap: float,
    loop: Callable[[float], int],
    *,
    needed: int,
    free: int,
    probabilities: bool,
) -> str:
    """The `next` of ENV103.

    Args:
        loop: bytes that the loop takes with an overlap.
        needed, free: bytes of the loop and all else, and those there are.
    """
    said = [_overlap(overlap, loop, needed, free), _spacing(scan, spec), "free memory"]
    said += ["leave out --probabilities" if probabilities else "", "run it on a larger machine"]
    return ", or ".join(text for text in said if text)


def _overlap(overlap: float, loop: Callable[[float], int], needed: int, free: int) -> str:
    """Worth saying when the usual one fits, or takes much less."""
    if overlap <= USUAL_OVERLAP:
        return ""
    usual = needed - loop(overlap) + loop(USUAL_OVERLAP)
    if usual > free and usual > _MUCH_LESS * needed:
        return ""
    return f"lower --overlap, which is {overlap:g}: with {USUAL_OVERLAP} the scan needs {human_bytes(usual)}"


def _spacing(scan: Scan, spec: VolumePreprocess) -> str:
    times = prod(scan.spacing) / prod(spec.spacing or scan.spacing)
    if spec.spacing is None or times < _MANY:
        return ""
    return (
        f"check the spacing: the scan's header says {by(scan.spacing)} mm a voxel, and at the recipe's `spacing` of "
        f"{by(spec.spacing)} mm that is {times:.3g} times as many voxels"
    )
