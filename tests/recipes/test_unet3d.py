"""MLPerf's 3D-UNet built by widths, and the committed narrow one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import shape_inference

NARROW = (4, 8, 16, 32, 40, 40)


def _run(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": x})[0]


def _dims(value: onnx.ValueInfoProto) -> list[str | int]:
    return [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]


def test_mlperf_width(topology: ModuleType) -> None:
    model = topology.unet3d()
    assert Counter(node.op_type for node in model.graph.node) == {
        "Conv": 23,
        "ConvTranspose": 5,
        "InstanceNormalization": 22,
        "Relu": 22,
        "Concat": 5,
    }
    assert sum(weight.size for weight in topology.weights_of(model).values()) == 31_190_243
    assert (model.opset_import[0].version, model.ir_version) == (12, 8)
    assert _dims(model.graph.input[0]) == ["n", 1, "d", "h", "w"]
    assert _dims(model.graph.output[0]) == ["n", 3, "d", "h", "w"]


def test_only_the_last_and_the_transposed_convolutions_have_a_bias(topology: ModuleType) -> None:
    nodes = topology.unet3d(NARROW).graph.node
    biased = [node.name for node in nodes if "Conv" in node.op_type and len(node.input) == 3]
    assert biased == [*(f"decoder.{level}.up" for level in (4, 3, 2, 1, 0)), "output"]


def test_fixed_shape_goes_down_to_4_and_up_again(topology: ModuleType) -> None:
    model = topology.unet3d(NARROW, shape=(1, 1, 128, 128, 128))
    onnx.checker.check_model(model, full_check=True)
    inferred = shape_inference.infer_shapes(model, strict_mode=True).graph
    sizes = {value.name: _dims(value) for value in inferred.value_info}
    assert [sizes[f"encoder.{level}.relu.1"] for level in range(6)] == [
        [1, width, *[128 >> level] * 3] for level, width in enumerate(NARROW)
    ]
    assert sizes["decoder.0.concat"] == [1, 8, 128, 128, 128]
    assert _dims(inferred.output[0]) == [1, 3, 128, 128, 128]


def test_concat_takes_the_upsampled_volume_first(topology: ModuleType) -> None:
    nodes = {node.name: node for node in topology.unet3d(NARROW).graph.node}
    assert list(nodes["decoder.3.concat"].input) == ["decoder.3.up", "encoder.3.relu.1"]


def test_runs_in_any_size_and_keeps_activations_in_bounds(topology: ModuleType) -> None:
    model = topology.unet3d(NARROW, classes=4)
    x = np.random.default_rng(0).standard_normal((2, 1, 64, 32, 96), np.float32)
    y = _run(model, x)
    assert y.shape == (2, 4, 64, 32, 96)
    assert 0.1 < y.std() < 10


def test_seed_decides_the_weights(topology: ModuleType) -> None:
    first, again, other = (topology.unet3d(NARROW, seed=seed).SerializeToString() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_weights_go_in_and_out(topology: ModuleType) -> None:
    model = topology.unet3d(NARROW, seed=5)
    same = topology.unet3d(NARROW, weights=topology.weights_of(model))
    assert same.SerializeToString() == model.SerializeToString()


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_that_do_not_fit_are_refused_by_name(topology: ModuleType, change: str) -> None:
    weights = topology.weights_of(topology.unet3d(NARROW))
    if change == "missing":
        del weights["output.bias"]
    elif change == "extra":
        weights["encoder.0.conv.0.bias"] = np.zeros(4, np.float32)
    else:
        weights["output.bias"] = np.zeros(4, np.float32)
    name = "encoder.0.conv.0.bias" if change == "extra" else "output.bias"
    with pytest.raises(ValueError, match=name):
        topology.unet3d(NARROW, weights=weights)


def test_command_line(topology: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    arguments = [topology.__file__, out, "--filters", "2", "4", "--seed", "9"]
    subprocess.run([sys.executable, *map(str, arguments)], check=True)
    assert out.read_bytes() == topology.unet3d((2, 4), seed=9).SerializeToString()


def test_is_the_narrow_topology_with_other_weights(topology: ModuleType, training: ModuleType, committed: Path) -> None:
    assert committed.stat().st_size < 3_000_000
    model = onnx.load(committed)
    onnx.checker.check_model(model, full_check=True)
    weights = topology.weights_of(model)
    assert training.FILTERS == NARROW
    assert topology.unet3d(NARROW, weights=weights).SerializeToString() == committed.read_bytes()
    assert all(np.isfinite(weight).all() for weight in weights.values())


@pytest.fixture(scope="module")
def case(training: ModuleType, demo: Path) -> Any:
    """The demo phantom as the network sees it, and as it lies on disk."""
    image, label = (nibabel.load(demo / f"{name}.nii.gz") for name in ("imaging", "segmentation"))
    voxels = np.asanyarray(image.dataobj), np.asanyarray(label.dataobj)
    phantom = training.Phantom(*voxels, image.affine)
    return training.Case.of(phantom), phantom


def test_segments_the_demo_phantom(training: ModuleType, committed: Path, case: Any) -> None:
    seen, phantom = case
    label = training.segment(training.open_model(onnx.load(committed)), seen.image)
    assert min(training.dice(label, seen.label)) > 0.9
    assert min(training.dice(seen.restored(label, phantom.label.shape), phantom.label)) > 0.9


def test_eight_bits_change_little(training: ModuleType, committed: Path, case: Any) -> None:
    seen, _ = case
    model = onnx.load(committed)
    rounded = training.quantized(model, [seen.image])
    assert Counter(node.op_type for node in rounded.graph.node)["QuantizeLinear"] == 23
    window = np.ascontiguousarray(seen.image[:128, :128, :128])[None, None]
    float32, int8 = _run(model, window), _run(rounded, window)
    assert not np.array_equal(float32, int8)
    assert np.mean(float32.argmax(1) == int8.argmax(1)) > 0.995


def test_grid_is_a_multiple_of_64_and_labels_come_back(training: ModuleType) -> None:
    rng = np.random.default_rng(1)
    # 1.6 x 1.2 x 1.2 mm already: short of a window, a little over 128 (cropped), nearly 256 (padded)
    shape = (100, 150, 250)
    label = np.zeros(shape, np.uint8)
    label[20:90, 30:120, 20:230] = rng.integers(1, 3, (70, 90, 210))
    affine = np.zeros((4, 4))
    affine[[2, 1, 0, 3], [0, 1, 2, 3]] = -1.6, -1.2, -1.2, 1
    case = training.Case.of(training.Phantom(rng.integers(-1000, 1000, shape).astype(np.int16), label, affine))
    assert case.image.shape == case.label.shape == (128, 128, 256)
    assert case.offset == (-14, 11, -3)
    assert np.isclose(case.image[:, :, -1], training.PAD).all()
    assert np.isclose([case.image.min(), case.image.max()], [-2.3407, 2.6398], atol=1e-4).all()
    assert (case.restored(case.label, shape) == label).all()


def test_windows_cover_everything_with_weight(training: ModuleType) -> None:
    total = np.zeros((128, 192, 256), np.float32)
    for place in training.windows(total.shape):
        total[place] += training.importance()
    assert total.min() > 0
    assert len(list(training.windows((128, 192, 256)))) == 6
    middle = training.importance()[64, 64]
    assert np.isclose(middle[64 + 20] / middle[64], np.exp(-(20.5**2 - 0.5**2) / (6 * 16**2)))


def test_dice(training: ModuleType) -> None:
    truth = np.array([0, 1, 1, 2, 2, 2, 0, 0])
    found = np.array([0, 1, 0, 2, 2, 1, 2, 0])
    assert np.allclose(training.dice(found, truth), (2 / 4, 4 / 6))
    assert training.dice(np.zeros(4), np.zeros(4)) == (1, 1)
