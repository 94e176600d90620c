"""Scans on the network's grid, voxel for voxel as the protocol says, and labels back on the file's."""

from __future__ import annotations

import tracemalloc
from itertools import permutations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nibabel.orientations import aff2axcodes, apply_orientation, axcodes2ornt, io_orientation, ornt_transform
from scipy import ndimage

from trtforge.errors.volume import VolumeTooLarge
from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.volumes.place import Placed, place
from trtforge.volumes.volume import Volume

Array = np.ndarray[Any, Any]

KITS19 = VolumePreprocess(
    kind="volume", spacing=(1.6, 1.2, 1.2), clip=(-79, 304), mean=101, std=76.9, pad=-2.2, multiple=64
)
CODES = ["".join(pick) for order in permutations(("LR", "AP", "SI")) for pick in product(*order)]


def volume(voxels: Array, spacing: tuple[float, float, float] = (1, 1, 1), affine: Array | None = None) -> Volume:
    given = np.diag([*spacing, 1.0]) if affine is None else affine
    return Volume(voxels=voxels, affine=given, spacing=spacing, path=Path("scan.nii.gz"))


def ct(shape: tuple[int, ...], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-1024, 2000, shape).astype(np.int16)


def small(**fields: Any) -> VolumePreprocess:
    return VolumePreprocess.model_validate({"kind": "volume", "multiple": 8, "pad": -2.5, **fields})


def by_the_book(
    voxels: Array,
    spacing: tuple[float, float, float],
    spec: VolumePreprocess,
    roi: tuple[int, int, int],
    *,
    labels: bool,
) -> Array:
    """The protocol in plain steps, each on the whole array, for a scan (float32) or its truth (uint8)."""
    out = voxels.astype(np.uint8 if labels else np.float32)
    if spec.spacing is not None and list(spacing) != list(spec.spacing):
        factors = [have / want for have, want in zip(spacing, spec.spacing, strict=True)]
        out = ndimage.zoom(out, factors, order=0 if labels else 1, mode="constant", cval=out.min(), grid_mode=False)
    if not labels:
        if spec.clip is not None:
            out = np.clip(out, *spec.clip)
        out = (out - spec.mean) / spec.std
    lacking = [max(0, window - length) for window, length in zip(roi, out.shape, strict=True)]
    out = np.pad(out, [(n // 2, n - n // 2) for n in lacking], mode="edge")
    for axis in range(3):
        multiple = spec.multiple or 1
        length, rest = out.shape[axis], out.shape[axis] % multiple
        if rest == 0:
            continue
        if rest < multiple // 2 and length - rest >= roi[axis]:
            out = out.take(range(rest // 2, rest // 2 + length - rest), axis)
        else:
            missing = multiple - rest
            widths = [(0, 0)] * 3
            widths[axis] = (missing // 2, missing - missing // 2)
            out = np.pad(out, widths, constant_values=0 if labels else spec.pad)
    return out


# -- onto the network's grid ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shape", "spacing", "network"),
    [
        # resampled to 97, 140, 175: repeated to the window; 12 cropped; 47, so padded to the next multiple
        ((62, 168, 210), (2.5, 1.0, 1.0), (128, 128, 192)),
        ((128, 128, 192), (1.6, 1.2, 1.2), (128, 128, 192)),  # nothing to do
        ((128, 129, 159), tuple(float(np.float32(edge)) for edge in (1.6, 1.2, 1.2)), (128, 128, 128)),
        ((30, 128, 200), (5.0, 0.78125, 1.2), (128, 128, 192)),
        ((150, 96, 131), (1.6, 1.6, 1.2), (128, 128, 128)),
    ],
)
def test_the_protocol_of_kits19(
    shape: tuple[int, int, int], spacing: tuple[float, float, float], network: tuple[int, int, int]
) -> None:
    voxels, truth = ct(shape), np.random.default_rng(1).integers(0, 3, shape).astype(np.uint8)
    placed = place(volume(voxels, spacing), KITS19, (128, 128, 128))
    assert placed.array.shape == network
    assert placed.array.dtype == np.float32 and placed.array.flags.c_contiguous
    np.testing.assert_array_equal(
        placed.array, by_the_book(voxels, spacing, KITS19, (128, 128, 128), labels=False), strict=True
    )
    np.testing.assert_array_equal(
        placed.labels_forward(truth), by_the_book(truth, spacing, KITS19, (128, 128, 128), labels=True), strict=True
    )


def test_normalised_values_span_what_mlperf_says() -> None:
    array = place(volume(ct((128, 128, 128))), KITS19.model_copy(update={"spacing": None}), (128, 128, 128)).array
    assert array.min() == np.float32(np.float32(-180) / np.float32(76.9))
    assert array.max() == np.float32(np.float32(203) / np.float32(76.9))
    assert (f"{array.min():.4f}", f"{array.max():.4f}") == ("-2.3407", "2.6398")


EDGES = st.sampled_from([0.4, 0.78, 1.0, 1.37, 2.5, float(np.float32(1.6))])


@settings(deadline=None, max_examples=150)
@given(
    shape=st.tuples(st.integers(1, 70), st.integers(1, 24), st.integers(1, 24)),
    spacing=st.tuples(EDGES, EDGES, EDGES),
    roi=st.tuples(st.integers(1, 20), st.integers(1, 20), st.integers(1, 20)),
    multiple=st.sampled_from([None, 1, 2, 5, 8]),
    dtype=st.sampled_from([np.int16, np.uint8, np.uint16, np.float32]),
    order=st.sampled_from("CF"),
    seed=st.integers(0, 99),
)
def test_any_scan_by_the_book(
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    roi: tuple[int, int, int],
    multiple: int | None,
    dtype: Any,
    order: Any,
    seed: int,
) -> None:
    spec = small(spacing=(1.0, 1.1, 0.9), multiple=multiple, mean=3.7, std=11.3)
    voxels = np.asarray(ct(shape, seed).astype(dtype), order=order)
    if any(round(n * (edge / want)) == 0 for n, edge, want in zip(shape, spacing, (1.0, 1.1, 0.9), strict=True)):
        return  # scipy would leave no voxel
    placed = place(volume(voxels, spacing), spec, roi)
    np.testing.assert_array_equal(placed.array, by_the_book(voxels, spacing, spec, roi, labels=False), strict=True)
    truth = (voxels.astype(np.int64) % 5).astype(np.uint8)
    np.testing.assert_array_equal(
        placed.labels_forward(truth), by_the_book(truth, spacing, spec, roi, labels=True), strict=True
    )


@pytest.mark.parametrize("length", [50, 101, 187])  # slabs that begin where k * step / step is not k
def test_slabs_that_begin_between_representable_offsets(length: int) -> None:
    resampled, spec = round(length * 2.5), small(spacing=(1.0, 1.0, 1.0), multiple=1)
    step = (length - 1) / (resampled - 1)
    assert any(start * step / step != start for start in range(0, resampled, 16))
    voxels = ct((length, 3, 3))
    placed = place(volume(voxels, (2.5, 1.0, 1.0)), spec, (1, 1, 1))
    np.testing.assert_array_equal(
        placed.array, by_the_book(voxels, (2.5, 1.0, 1.0), spec, (1, 1, 1), labels=False), strict=True
    )


def test_scipys_last_plane_beyond_the_volume_is_kept_as_it_is() -> None:
    beyond = [(n, m) for n in range(2, 60) for m in range(2, 60) if (m - 1) * ((n - 1) / (m - 1)) > n - 1]
    assert beyond
    for n, m in beyond[:10]:
        edge = (m + 1e-9) / n
        voxels = ct((n, 4, n))
        spec = small(spacing=(1.0, 1.0, 1.0), multiple=1)
        array = place(volume(voxels, (edge, 1.0, edge)), spec, (1, 1, 1)).array
        book = by_the_book(voxels, (edge, 1.0, edge), spec, (1, 1, 1), labels=False)
        assert (book[-1] == voxels.min()).all()
        np.testing.assert_array_equal(array, book, strict=True)


def test_a_scan_of_one_thin_slice_is_repeated() -> None:
    voxels = ct((1, 8, 8))
    array = place(volume(voxels, (0.3, 1, 1)), small(spacing=(1.0, 1.0, 1.0)), (8, 8, 8)).array
    assert (array == voxels.astype(np.float32)).all()


def test_a_spacing_in_another_unit_is_refused_before_anything_is_allocated() -> None:
    with pytest.raises(VolumeTooLarge) as caught:
        place(volume(ct((4, 20, 20)), (5000.0, 800.0, 800.0)), KITS19, (128, 128, 128))
    assert caught.value.where == "scan.nii.gz"
    assert "each 5000 x 800 x 800 mm" in caught.value.why and "GiB" in caught.value.why


def test_memory_beside_the_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtforge.volumes.place.usable_cpus", lambda: 2)
    place(volume(ct((4, 4, 4)), (2, 2, 2)), KITS19, (1, 1, 1))  # imports
    scan = volume(np.asfortranarray(ct((128, 200, 200))), (3.2, 1.2, 1.2))
    tracemalloc.start()
    placed = place(scan, KITS19, (128, 128, 128))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    slab = 16 * 200 * 200 * 4
    assert peak < placed.array.nbytes + scan.voxels.nbytes + 3 * slab


# -- orientation ---------------------------------------------------------------------------------------------------


def stored_as(codes: str, voxels: Array, spacing: tuple[float, float, float]) -> Volume:
    """A volume given along I, P, L, stored with its axes along ``codes``."""
    change = ornt_transform(axcodes2ornt("IPL"), axcodes2ornt(codes))
    ours = axcodes2ornt(codes)
    affine = np.eye(4)
    affine[:3, :3] = 0
    edges = [0.0] * 3
    for axis, (becomes, _) in enumerate(change):
        edges[int(becomes)] = spacing[axis]
    for axis, (world, direction) in enumerate(ours):
        affine[int(world), axis] = direction * edges[axis]
    assert "".join(aff2axcodes(affine)) == codes
    return volume(apply_orientation(voxels, change), (edges[0], edges[1], edges[2]), affine)


@pytest.mark.parametrize("codes", CODES)
def test_axes_stored_in_any_of_48_ways_are_one_scan(codes: str) -> None:
    voxels, spacing = ct((9, 13, 11)), (2.5, 0.8, 0.7)
    spec = small(orientation="IPL", spacing=(1.6, 1.2, 1.2))
    plain, turned = stored_as("IPL", voxels, spacing), stored_as(codes, voxels, spacing)
    one, other = (place(scan, spec, (8, 8, 8)) for scan in (plain, turned))
    np.testing.assert_array_equal(one.array, other.array)

    drawn = np.random.default_rng(2).integers(0, 4, one.array.shape).astype(np.uint8)
    shares = np.random.default_rng(3).random((2, *one.array.shape), np.float32)
    change = ornt_transform(axcodes2ornt("IPL"), axcodes2ornt(codes))
    np.testing.assert_array_equal(other.labels_back(drawn), apply_orientation(one.labels_back(drawn), change))
    for ours, theirs in zip(other.probabilities_back(shares), one.probabilities_back(shares), strict=True):
        np.testing.assert_array_equal(ours, apply_orientation(theirs, change))

    truth = (voxels % 3).astype(np.uint8)
    np.testing.assert_array_equal(other.labels_forward(apply_orientation(truth, change)), one.labels_forward(truth))


def test_48_axis_codes() -> None:
    assert len(set(CODES)) == 48


@settings(deadline=None, max_examples=100)
@given(data=st.data())
def test_oblique_axes_go_to_the_closest(data: st.DataObject) -> None:
    numbers = st.floats(-1, 1).filter(lambda value: abs(value) > 1e-3)
    affine = np.eye(4)
    affine[:3, :3] = np.array(data.draw(st.lists(numbers, min_size=9, max_size=9))).reshape(3, 3)
    edges = np.linalg.norm(affine[:3, :3], axis=0)
    if abs(np.linalg.det(affine[:3, :3] / edges)) < 0.05:
        return
    wanted = data.draw(st.sampled_from(CODES))
    scan = volume(ct((5, 6, 7)), tuple(edges.tolist()), affine)
    placed = place(scan, small(orientation=wanted), (1, 1, 1))
    change = ornt_transform(io_orientation(affine), axcodes2ornt(wanted))
    assert [fit.raw for fit in placed.fits] == list(apply_orientation(scan.voxels, change).shape)
    assert [scan.spacing[axis] for axis in placed.turn.axes] == [
        scan.spacing[int(np.flatnonzero(change[:, 0] == axis)[0])] for axis in range(3)
    ]
    np.testing.assert_array_equal(placed.turn.forward(scan.voxels), apply_orientation(scan.voxels, change))
    np.testing.assert_array_equal(placed.turn.back(placed.turn.forward(scan.voxels)), scan.voxels)


# -- back onto the file's grid -------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=100)
@given(
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40), st.integers(1, 40)),
    codes=st.sampled_from(CODES),
    roi=st.integers(1, 24),
)
def test_without_resampling_labels_come_back_as_they_went(shape: tuple[int, int, int], codes: str, roi: int) -> None:
    scan = stored_as(codes, np.zeros(shape, np.int16), (1.0, 1.0, 1.0))
    placed = place(scan, small(orientation="IPL"), (roi, roi, roi))
    labels = np.random.default_rng(0).integers(1, 9, scan.shape).astype(np.uint8)
    back = placed.labels_back(placed.labels_forward(labels))
    assert back.dtype == np.uint8 and back.shape == scan.shape
    np.testing.assert_array_equal(back, np.where(back == 0, 0, labels))
    kept = np.prod([fit.kept.stop - fit.kept.start for fit in placed.fits])
    assert (back != 0).sum() == kept  # 0 is only what was cropped away


def placed_at_random(seed: int) -> Placed:
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(2, 30, 3))
    spacing = tuple(float(edge) for edge in rng.choice([0.4, 0.8, 1.0, 2.5, 4.0], 3))
    scan = stored_as(CODES[seed % 48], ct(shape), spacing)
    return place(scan, small(orientation="IPL", spacing=(1.0, 1.3, 0.9)), (8, 8, 8))


@pytest.mark.parametrize("seed", range(48))
def test_labels_back_voxel_by_voxel(seed: int) -> None:
    placed = placed_at_random(seed)
    labels = np.random.default_rng(seed).integers(1, 255, placed.array.shape).astype(np.uint8)
    back = placed.turn.forward(placed.labels_back(labels))
    for index in np.random.default_rng(seed).integers(0, [fit.raw for fit in placed.fits], (60, 3)):
        near = []
        for raw, fit in zip(index.tolist(), placed.fits, strict=True):
            place_of = raw * (fit.resampled - 1) / max(fit.raw - 1, 1)
            resampled = int(np.floor(place_of + 0.5 + 1e-9))
            near.append(resampled - fit.first)
        inside = all(fit.kept.start <= at < fit.kept.stop for at, fit in zip(near, placed.fits, strict=True))
        assert back[tuple(index)] == (labels[tuple(near)] if inside else 0)


@pytest.mark.parametrize("seed", range(48))
def test_probabilities_back_agree_with_interpolation_and_with_labels(seed: int) -> None:
    placed = placed_at_random(seed)
    rng = np.random.default_rng(seed)
    shares = rng.dirichlet([0.5, 0.5, 0.5], placed.array.shape).astype(np.float32)
    back = placed.probabilities_back(np.moveaxis(shares, -1, 0))
    assert back.dtype == np.float32
    np.testing.assert_allclose(back.sum(axis=0), 1, atol=1e-5)
    assert back.min() >= -1e-6

    cropped = placed.labels_back(np.ones(placed.array.shape, np.uint8)) == 0
    assert (back[0][cropped] == 1).all() and not back[1:, cropped].any()

    kept = tuple(fit.kept for fit in placed.fits)
    coordinates = [
        np.arange(fit.raw) * (fit.resampled - 1) / max(fit.raw - 1, 1) - fit.first - fit.kept.start
        for fit in placed.fits
    ]
    for label in range(3):
        wanted = ndimage.map_coordinates(
            shares[(*kept, label)].astype(np.float64), np.meshgrid(*coordinates, indexing="ij"), order=1, mode="nearest"
        )
        ours = placed.turn.forward(back[label])
        seen = placed.turn.forward(~cropped)
        np.testing.assert_allclose(ours[seen], wanted[seen], atol=1e-5)


def test_labels_of_another_grid_are_no_labels_of_this() -> None:
    placed = place(volume(ct((8, 8, 16))), small(), (8, 8, 8))
    for wrong in (placed.labels_back, placed.labels_forward):
        with pytest.raises(ValueError, match="the"):
            wrong(np.zeros((8, 16, 8), np.uint8))
    with pytest.raises(ValueError, match="shape"):
        placed.probabilities_back(np.zeros((2, 8, 16, 8), np.float32))
