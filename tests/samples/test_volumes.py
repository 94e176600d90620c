"""Scans as samples: windows of the loop's own grid, chosen by a stated rule, one scan in memory at a time."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest

from trtforge.errors.base import TrtforgeError
from trtforge.recipe.models import InputSpec, Windows
from trtforge.samples.load import open_set
from trtforge.samples.volumes import VolumeSamples
from trtforge.scales.collect import collect
from trtforge.volumes.choose import choose, organ_of
from trtforge.volumes.place import Placed, place
from trtforge.volumes.volume import Volume
from trtforge.volumes.windows import WindowGrid

KITS19 = {"spacing": [1.6, 1.2, 1.2], "clip": [-79, 304], "mean": 101, "std": 76.9, "pad": -2.2, "multiple": 64}


def spec(window: int = 8, **preprocess: object) -> InputSpec:
    return InputSpec.model_validate(
        {"shape": [1, 1, window, window, window], "preprocess": {"kind": "volume", **preprocess}}
    )


def scan(path: Path, voxels: np.ndarray, spacing: float = 1.0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(voxels, np.diag([spacing, spacing, spacing, 1])).to_filename(path)


def listing(folder: Path, text: str) -> Path:
    path = folder / "set.yaml"
    path.write_text("samples:\n" + text)
    return path


def test_windows_are_cut_where_the_loop_cuts_them(tmp_path: Path) -> None:
    voxels = np.random.default_rng(0).integers(0, 100, (13, 12, 20)).astype(np.int16)
    scan(tmp_path / "a.nii.gz", voxels)
    samples = open_set(listing(tmp_path, "  - a.nii.gz\n"), {"x": spec()}, windows=Windows(per_volume=5))
    grid = WindowGrid.of((13, 12, 20), (8, 8, 8), 0.5)
    there = {voxels[grid.slices(k)].astype(np.float32).tobytes() for k in grid}
    found = list(samples)
    assert len(found) == len(samples) == 5
    assert [sample.id for sample in found] == [f"a.nii.gz#{n}" for n in range(1, 6)]
    assert all(sample.inputs["x"].shape == (1, 1, 8, 8, 8) for sample in found)
    cut = [sample.inputs["x"].tobytes() for sample in found]
    assert set(cut) <= there and len(set(cut)) == 5


def test_identities_need_no_decoding(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"no volume at all")
    samples = open_set(listing(tmp_path, "  - a.nii.gz\n"), {"x": spec()}, windows=Windows(per_volume=2))
    (first, digest), (second, other) = samples.identities()
    assert (first, second) == ("a.nii.gz#1", "a.nii.gz#2") and digest == other
    with pytest.raises(TrtforgeError) as caught:
        list(samples)
    assert caught.value.code == "VOL103"


def test_what_is_done_already_is_not_read_again(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz", np.ones((8, 8, 16), np.int16))
    (tmp_path / "b.nii.gz").write_bytes(b"not read")
    samples = open_set(listing(tmp_path, "  - '*.nii.gz'\n"), {"x": spec()}, windows=Windows(per_volume=2))
    rest = samples.without({"a.nii.gz#1", "b.nii.gz#1", "b.nii.gz#2"})
    assert [sample.id for sample in rest] == ["a.nii.gz#2"]


def test_limit_counts_scans(tmp_path: Path) -> None:
    for name in "abc":
        scan(tmp_path / f"{name}.nii.gz", np.ones((8, 8, 8), np.int16))
    path = listing(tmp_path, "  - '*.nii.gz'\n")
    assert len(open_set(path, {"x": spec()}, limit=2, windows=Windows(per_volume=3))) == 6
    with pytest.raises(TrtforgeError, match="4 samples"):
        open_set(path, {"x": spec()}, limit=4)


def test_the_input_range_of_kits19_is_2_6398(tmp_path: Path) -> None:
    """Bone above 304 HU ends at (304 - 101) / 76.9: MLPerf's input scale, as a calibration finds it."""
    import onnx
    from onnx import TensorProto, helper

    from trtforge.graph.model import Model

    rng = np.random.default_rng(0)
    voxels = rng.normal(40, 60, (100, 150, 150))
    voxels[30:60, 60:90, 60:90] = 900
    voxels[:10] = -1000
    scan(tmp_path / "a.nii.gz", voxels.astype(np.int16))
    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], name="relu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, 128, 128, 128])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 1, 128, 128, 128])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    samples = open_set(listing(tmp_path, "  - a.nii.gz\n"), {"x": spec(128, **KITS19)})
    table = collect(Model(model, None), samples)
    assert table.ranges["x"].amax == pytest.approx(2.6398, abs=5e-5)
    assert table.ranges["x"].amax == float(np.float32(304 - 101) / np.float32(76.9))
    assert table.ranges["x"].min == pytest.approx(-2.3407, abs=5e-5)
    assert table.receipt is not None and len(table.receipt.samples) == 4


def test_labels_decide_which_windows_are_taken(tmp_path: Path) -> None:
    voxels = np.zeros((8, 8, 40), np.int16)
    voxels[..., 0] = 7  # a mark in the first window of nine
    truth = np.zeros((8, 8, 40), np.uint8)
    truth[..., :4] = 1
    scan(tmp_path / "a/imaging.nii.gz", voxels)
    scan(tmp_path / "a/segmentation.nii.gz", truth)
    entry = '  - {file: "*/imaging.nii.gz", labels: "{folder}/segmentation.nii.gz"}\n'
    samples = open_set(listing(tmp_path, entry), {"x": spec()}, windows=Windows(per_volume=1))
    (only,) = samples
    assert (only.inputs["x"][..., 0] == 7).all()
    without = open_set(listing(tmp_path, '  - "*/imaging.nii.gz"\n'), {"x": spec()}, windows=Windows(per_volume=1))
    assert samples.describe() != without.describe()  # so that neither takes the other's scales from the cache


def test_labels_that_are_not_there(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz", np.ones((8, 8, 8), np.int16))
    entry = '  - {file: a.nii.gz, labels: "{name}_seg.nii.gz"}\n'
    samples = open_set(listing(tmp_path, entry), {"x": spec()})
    with pytest.raises(TrtforgeError) as caught:
        samples.describe()
    assert caught.value.code == "CAL103" and "a_seg.nii.gz" in caught.value.why


def test_cases_are_whole_scans_on_the_networks_grid(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz", np.arange(8 * 9 * 10, dtype=np.int16).reshape(8, 9, 10))
    samples = open_set(listing(tmp_path, "  - a.nii.gz\n"), {"x": spec(mean=1, std=2)})
    assert isinstance(samples, VolumeSamples)
    (case,) = samples.cases()
    assert case.placed.array.shape == (8, 9, 10) and case.labels is None
    assert case.placed.array.flat[5] == 2


# -- the rule -------------------------------------------------------------------------------------------------


GRID = WindowGrid.of((8, 8, 44), (8, 8, 8), 0.5)


def organ(*voxels: slice) -> np.ndarray:
    mask = np.zeros(GRID.shape, bool)
    for voxel in voxels:
        mask[..., voxel] = True
    return mask


def test_the_first_window_holds_the_most_of_the_organ() -> None:
    assert choose(GRID, organ(slice(17, 23)), 1, [0]) == [(0, 0, 4)]


def test_the_same_seed_draws_the_same_windows() -> None:
    mask = organ(slice(10, 30))
    assert choose(GRID, mask, 5, [1, 7]) == choose(GRID, mask, 5, [1, 7])
    assert len({tuple(choose(GRID, mask, 5, [seed, 7])) for seed in range(20)}) > 10


def test_no_window_is_drawn_twice_before_all_are() -> None:
    windows = choose(GRID, organ(slice(10, 30)), len(GRID), [0])
    assert sorted(windows) == sorted(GRID)
    assert choose(GRID, organ(slice(10, 30)), len(GRID) + 2, [0])[-2:] == windows[:2]


def test_the_organ_is_favoured_and_nothing_is_left_out() -> None:
    """Windows that hold the organ are drawn about as often as 1 + n / mean(n) says, others still are."""
    mask = organ(slice(0, 12))
    second = [choose(GRID, mask, 2, [seed])[1] for seed in range(3000)]
    held = {window: mask[GRID.slices(window)].sum() for window in GRID}
    first = max(held, key=lambda window: held[window])
    mean = np.mean(list(held.values()))
    weight = {window: 1 + count / mean for window, count in held.items() if window != first}
    for window, value in weight.items():
        expected = value / sum(weight.values())
        assert second.count(window) / 3000 == pytest.approx(expected, abs=0.04)
    assert min(second.count(window) for window in weight) > 0


def test_without_an_organ_all_are_alike() -> None:
    first, *rest = choose(GRID, organ(), 4, [0])
    assert first == (0, 0, 0) and len(set(rest)) == 3


def placed(voxels: np.ndarray, **preprocess: object) -> Placed:
    volume = Volume(np.asfortranarray(voxels), np.eye(4), (1.0, 1.0, 1.0), Path("scan.nii"))
    recipe = spec(8, **preprocess).preprocess
    assert recipe.kind == "volume"
    return place(volume, recipe, (8, 8, 8))


def test_what_counts_as_organ() -> None:
    """Of what was clipped, the values between the ends; padding is none, though its value lies between them too."""
    voxels = np.full((8, 8, 14), -500, np.int16)
    voxels[..., 3:5], voxels[..., 5] = 40, 900
    scan = placed(voxels, clip=[-79, 304], mean=101, std=76.9, pad=-2.2, multiple=8)
    assert scan.array.shape == (8, 8, 16) and (scan.array[..., 0] == np.float32(-2.2)).all()
    assert np.flatnonzero(organ_of(scan, None, clipped=True)[0, 0]).tolist() == [4, 5]
    assert np.flatnonzero(organ_of(scan, None, clipped=False)[0, 0]).tolist() == [4, 5, 6]
    marked = np.zeros((8, 8, 16), np.uint8)
    marked[..., 9] = 2
    assert np.flatnonzero(organ_of(scan, marked, clipped=True)[0, 0]).tolist() == [9]


def test_headers_without_their_voxels_are_no_samples(tmp_path: Path) -> None:
    (tmp_path / "a.mhd").touch()
    with pytest.raises(TrtforgeError) as caught:
        open_set(listing(tmp_path, "  - a.mhd\n"), {"x": spec()})
    assert caught.value.code == "CAL105" and "a.mhd" in caught.value.what


def test_the_table_says_which_windows_it_came_from(tmp_path: Path) -> None:
    scan(tmp_path / "a.nii.gz", np.arange(512, dtype=np.int16).reshape(8, 8, 8))
    samples = open_set(listing(tmp_path, "  - a.nii.gz\n"), {"x": spec()}, windows=Windows(per_volume=3, seed=5))
    assert samples.describe()["windows"] == {"overlap": 0.5, "per_volume": 3, "seed": 5}
