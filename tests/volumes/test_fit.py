"""Lengths and indices of one axis: KiTS19's shapes, and every index against the formula it stands for."""

from __future__ import annotations

import json
from fractions import Fraction
from math import floor, prod
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import ndimage

from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes.fit import AxisFit, fit_axes, network_shape

KITS19 = VolumePreprocess(
    kind="volume", spacing=(1.6, 1.2, 1.2), clip=(-79, 304), mean=101, std=76.9, pad=-2.2, multiple=64
)
CASES = json.loads((Path(__file__).parent / "golden/kits19_shapes.json").read_text())


def fit(raw: int, edge: float, *, roi: int = 16, multiple: int | None = 8, target: float = 1.0) -> AxisFit:
    spec = VolumePreprocess(kind="volume", spacing=(target, 1, 1), multiple=multiple)
    return fit_axes((raw, 1, 1), (edge, 1, 1), spec, (roi, 1, 1))[0]


def test_the_63_cases_of_kits19() -> None:
    assert len(CASES) == 63
    for case, facts in CASES.items():
        shape = network_shape(tuple(facts["raw"]), tuple(facts["spacing"]), KITS19, (128, 128, 128))
        assert list(shape) == facts["network"], case
        assert prod(length // 64 - 1 for length in shape) == facts["windows"], case


def test_without_spacing_and_multiple_only_the_window_counts() -> None:
    spec = VolumePreprocess(kind="volume")
    assert network_shape((5, 17, 40), (3.0, 0.7, 0.7), spec, (16, 16, 16)) == (16, 17, 40)


@pytest.mark.parametrize(
    ("raw", "roi", "multiple", "size", "first"),
    [
        (128, 128, 64, 128, 0),
        (129, 128, 64, 128, 0),  # the one voxel too many goes from the end
        (131, 128, 64, 128, 1),
        (159, 128, 64, 128, 15),
        (160, 128, 64, 192, -16),
        (191, 128, 64, 192, 0),
        (100, 128, 64, 128, -14),
        (3, 128, 64, 128, -62),
        (130, 130, 64, 192, -31),  # cropping would leave less than the window
        (50, 130, 64, 192, -71),  # first repeated to 130, then padded
        (7, 4, 2, 8, 0),
        (7, 4, 1, 7, 0),
        (7, 4, None, 7, 0),
        (9, 4, 3, 9, 0),
        (10, 4, 3, 12, -1),  # one over of three is not below half of three, rounded down
    ],
)
def test_ends(raw: int, roi: int, multiple: int | None, size: int, first: int) -> None:
    axis = fit(raw, 1.0, roi=roi, multiple=multiple)
    assert (axis.size, axis.first) == (size, first)


def test_a_scan_thinner_than_half_a_network_voxel_keeps_one() -> None:
    assert fit(1, 0.3, roi=1, multiple=None).resampled == 1
    assert fit(1, 0.3).size == 16


axes = st.builds(
    fit,
    st.integers(1, 90),
    st.sampled_from([0.3, 0.5, 0.77, 1.0, 1.3, 2.5, 5.0]),
    roi=st.integers(1, 40),
    multiple=st.sampled_from([None, 1, 2, 3, 7, 8, 16]),
)


@given(axis=axes)
def test_the_network_grid_is_a_multiple_and_holds_a_window(axis: AxisFit) -> None:
    assert 0 <= axis.filled.start <= axis.kept.start < axis.kept.stop <= axis.filled.stop <= axis.size
    assert 0 <= axis.kept.start + axis.first < axis.kept.stop + axis.first <= axis.resampled


@given(raw=st.integers(1, 300), roi=st.integers(1, 130), multiple=st.integers(1, 70))
def test_size(raw: int, roi: int, multiple: int) -> None:
    size = fit(raw, 1.0, roi=roi, multiple=multiple).size
    assert size >= roi and size % multiple == 0
    assert -multiple / 2 < size - max(raw, roi) < multiple


def place_of(axis: AxisFit, raw: int) -> Fraction:
    """The coordinate on the network's grid where a raw voxel lies."""
    resampled = Fraction(raw * (axis.resampled - 1), axis.raw - 1) if axis.raw > 1 else Fraction(0)
    return resampled - axis.first


@given(axis=axes)
def test_nearest_network_voxel(axis: AxisFit) -> None:
    inside, nearest = axis.nearest_network()
    wanted = {raw: floor(place_of(axis, raw) + Fraction(1, 2)) for raw in range(axis.raw)}
    seen = {raw: index for raw, index in wanted.items() if axis.kept.start <= index < axis.kept.stop}
    assert dict(zip(range(inside.start, inside.stop), nearest.tolist(), strict=True)) == seen


@given(axis=axes)
def test_network_voxels_between(axis: AxisFit) -> None:
    inside, lower, upper, weight = axis.between_network()
    assert inside == axis.nearest_network()[0]
    for raw, low, high, share in zip(range(inside.start, inside.stop), lower, upper, weight, strict=True):
        place = min(max(place_of(axis, raw), axis.kept.start), axis.kept.stop - 1)
        assert axis.kept.start <= low <= high < axis.kept.stop and 0 <= share < 1
        assert float(low + (high - low) * Fraction(float(share))) == pytest.approx(float(place), abs=1e-6)


@given(axis=axes)
def test_nearest_raw_voxel_is_scipys(axis: AxisFit) -> None:
    numbers = np.arange(1, axis.raw + 1)
    zoomed = ndimage.zoom(numbers, axis.resampled / axis.raw, order=0, mode="constant", cval=0)
    if len(zoomed) != axis.resampled:  # the factor rounds otherwise
        return
    nearest, found = axis.nearest_raw()
    kept = slice(axis.kept.start - axis.filled.start, axis.kept.stop - axis.filled.start)
    ours = np.where(found, numbers[nearest], 0)[kept]
    assert ours.tolist() == zoomed[axis.kept.start + axis.first : axis.kept.stop + axis.first].tolist()


def test_every_length_to_every_other_as_scipy_rounds() -> None:
    beyond = 0
    for raw in range(1, 70):
        for resampled in range(1, 70):
            every = slice(0, resampled)
            axis = AxisFit(raw=raw, resampled=resampled, size=resampled, first=0, kept=every, filled=every)
            nearest, found = axis.nearest_raw()
            numbers = np.arange(1, raw + 1)
            zoomed = ndimage.zoom(numbers, (resampled + 1e-9) / raw, order=0, mode="constant", cval=0)
            assert np.where(found, numbers[nearest], 0).tolist() == zoomed.tolist(), (raw, resampled)
            beyond += not found.all()
    assert beyond  # the last coordinate does get rounded beyond the last voxel
