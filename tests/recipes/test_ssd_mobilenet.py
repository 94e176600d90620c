"""SSD-MobileNetV1 built small with seeded weights: its shape, MLPerf's surgery on it, and the face weights' reader."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run as run_passes
from trtforge.plugins import ops
from trtforge.surgery.choose import as_functions

ROOT = Path(__file__).parents[2]
Array = np.ndarray[Any, Any]
SIZE = 64


@pytest.fixture(scope="module")
def ssd(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/ssd_mobilenet/topology.py")


@pytest.fixture(scope="module")
def small(ssd: ModuleType) -> onnx.ModelProto:
    made: onnx.ModelProto = ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, seed=1)
    return made


@pytest.fixture(scope="module")
def make(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/ssd_mobilenet/make.py")


@pytest.fixture(scope="module")
def compare(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/ssd_mobilenet/compare.py")


def detect(model: onnx.ModelProto, seed: int = 0, images: int = 2) -> dict[str, Array]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    size = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    x = np.random.default_rng(seed).uniform(-1, 1, (images, 3, size, size)).astype(np.float32)
    return dict(zip([output.name for output in session.get_outputs()], session.run(None, {"input": x}), strict=True))


def assert_same(first: onnx.ModelProto, second: onnx.ModelProto, near: float = 1e-5) -> None:
    want, got = detect(first), detect(second)
    assert int(want["num_detections"].sum()) > 10
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=near, err_msg=name)


def test_the_network(ssd: ModuleType, small: onnx.ModelProto) -> None:
    onnx.checker.check_model(small, full_check=True)
    kinds = Counter(node.op_type for node in small.graph.node)
    assert (kinds["Conv"], kinds["BatchNormalization"], kinds["Clip"]) == (47, 13, 36)  # one Clip is of the boxes
    made = detect(small)
    assert {name: (value.shape, value.dtype.name) for name, value in made.items()} == {
        "num_detections": ((2, 1), "int32"),
        "detection_boxes": ((2, 100, 4), "float32"),
        "detection_scores": ((2, 100), "float32"),
        "detection_classes": ((2, 100), "int32"),
    }
    scores = made["detection_scores"]
    assert (np.diff(scores, axis=1) <= 0).all() and (scores[scores > 0] > 0.3).all()
    assert made["detection_boxes"].min() >= 0 and made["detection_boxes"].max() <= 1
    assert ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, seed=1).SerializeToString() == small.SerializeToString()


def test_sizes_of_mlperf_and_of_the_faces(ssd: ModuleType) -> None:
    assert len(ssd.anchors_of([19, 10, 5, 3, 2, 1])) == 1917
    assert len(ssd.anchors_of([32, 16, 8, 4, 2, 1])) == 5118
    first = ssd.anchors_of([19, 10, 5, 3, 2, 1])[:3]
    np.testing.assert_allclose(first.mean(1), [1 / 38] * 3, atol=1e-6)
    np.testing.assert_allclose(first[:, 2] - first[:, 0], [0.1, 0.2 / 2**0.5, 0.2 * 2**0.5], rtol=1e-6)


def test_without_suppression(ssd: ModuleType) -> None:
    model = ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, seed=1, limits=None)
    onnx.checker.check_model(model, full_check=True)
    made = detect(model)
    assert {name: value.shape for name, value in made.items()} == {"boxes": (2, 96, 4), "scores": (2, 96, 3)}


def test_batch_norms_hold_the_statistics_of_what_they_see(small: onnx.ModelProto) -> None:
    variances = [tensor for tensor in small.graph.initializer if tensor.name.endswith(".var")]
    values = np.concatenate([onnx.numpy_helper.to_array(tensor) for tensor in variances])
    assert len(variances) == 13 and values.min() > 0 and not (values == 1).any()


def test_weights_go_in_and_out(ssd: ModuleType, small: onnx.ModelProto) -> None:
    weights = ssd.weights_of(small)
    again = ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, weights=weights)
    assert again.SerializeToString() == small.SerializeToString()
    with pytest.raises(ValueError, match=r"weight conv_0.weight must have the shape \(8, 3, 3, 3\), given is nothing"):
        ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, weights={})
    with pytest.raises(ValueError, match="the network has no weights called odd"):
        ssd.ssd_mobilenet(SIZE, classes=3, width=0.125, weights=weights | {"odd": weights["conv_0.bias"]})


@pytest.mark.parametrize(
    "passes", [[], ["fold-batchnorm"], ["fold-batchnorm", "merge-sibling-convs"], ["merge-sibling-convs"]], ids="-".join
)
def test_the_tail_is_one_plugin(small: onnx.ModelProto, passes: list[str]) -> None:
    model, reports = run_passes(Model(small), [*passes, "fold-constants", "infer-shapes"])
    after = as_functions(model, [ops()["nms"]])
    (node,) = [node for node in after.proto.graph.node if node.domain == "trtforge"]
    assert node.op_type == "NmsCentreSizeAnchorsSigmoid"
    assert list(node.input[:2]) == ["loc_scaled", "foreground"]
    assert {"NonMaxSuppression", "Exp", "TopK"}.isdisjoint(each.op_type for each in after.proto.graph.node)
    assert_same(model.proto, after.proto)
    if "merge-sibling-convs" in passes:
        (report,) = [each for each in reports if each.name == "merge-sibling-convs"]
        assert report.reason == "merged 12 Conv nodes into 6"
        assert_same(small, model.proto, near=1e-4)


def test_relu6_to_relu(small: onnx.ModelProto) -> None:
    model, (report,) = run_passes(Model(small), ["relu6-to-relu"])
    assert report.reason == "replaced 35 Clip nodes"
    assert [node.name for node in model.proto.graph.node if node.op_type == "Clip"] == ["detection_boxes"]
    made = detect(model.proto)
    assert np.isfinite(made["detection_boxes"]).all() and int(made["num_detections"].min()) > 0


def test_the_script(tmp_path: Path, ssd: ModuleType) -> None:
    script = ROOT / "recipes" / "ssd_mobilenet" / "topology.py"
    out = tmp_path / "ssd.onnx"
    arguments = ["--size", "32", "--classes", "2", "--width", "0.1", "--seed", "7", "--raw"]
    subprocess.run([sys.executable, str(script), str(out), *arguments], check=True, timeout=120)
    want = ssd.ssd_mobilenet(32, classes=2, width=0.1, seed=7, limits=None)
    assert onnx.load(out).SerializeToString() == want.SerializeToString()


# ---- the reader of the face weights ---------------------------------------------------------------------------------


def package(path: Path, parts: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, data in parts.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return path


def test_another_package_is_refused(tmp_path: Path, make: ModuleType) -> None:
    names = list(make.PARTS)
    with pytest.raises(ValueError, match=r"has no package/model/ssd_mobilenetv1_model\.bin; take @vladmandic/face-api"):
        make.read(package(tmp_path / "empty.tgz", {}))
    with pytest.raises(ValueError, match=r"ssd_mobilenetv1_model.bin of .* has the sha256 .*, not 2835640602d5"):
        make.read(package(tmp_path / "other.tgz", dict.fromkeys(names, b"{}")))
    result = subprocess.run(
        [sys.executable, str(ROOT / "recipes/ssd_mobilenet/make.py"), str(tmp_path / "nothing.tgz")],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 1 and "nothing.tgz" in result.stderr and "Traceback" not in result.stderr


def test_bytes_become_numbers(make: ModuleType) -> None:
    manifest: Any = [
        {
            "weights": [
                {"name": "a", "shape": [2, 2], "dtype": "float32",
                 "quantization": {"dtype": "uint8", "scale": 0.5, "min": -1.0}},
                {"name": "b", "shape": [1], "dtype": "float32"},
            ]
        }
    ]  # fmt: skip
    data = bytes([0, 1, 2, 4]) + np.float32(0.25).tobytes()
    made = make._dequantized(data, json.loads(json.dumps(manifest)))
    assert made["a"].tolist() == [[-1.0, -0.5], [0.0, 1.0]] and made["b"].tolist() == [0.25]
    with pytest.raises(ValueError, match="describes 8 bytes of weights, and there are 9"):
        make._dequantized(data + b"!", manifest)


def test_detections_that_agree(compare: ModuleType) -> None:
    def outputs(*found: tuple[list[float], float, int]) -> dict[str, Array]:
        boxes = np.zeros((1, 5, 4), np.float32)
        scores, classes = np.zeros((1, 5), np.float32), np.zeros((1, 5), np.int32)
        for place, (box, score, kind) in enumerate(found):
            boxes[0, place], scores[0, place], classes[0, place] = box, score, kind
        count = np.array([[len(found)]], np.int32)
        return {
            "num_detections": count,
            "detection_boxes": boxes,
            "detection_scores": scores,
            "detection_classes": classes,
        }

    whole, half, away = [0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.5], [2.0, 2.0, 3.0, 3.0]
    got = compare.agreement(outputs((whole, 0.9, 0), (away, 0.8, 1)), outputs((half, 0.7, 0), (whole, 0.85, 0)))
    assert (got.first, got.second, got.overlaps) == (2, 2, (1.0,))
    assert got.scores == pytest.approx([0.05])
    assert compare.agreement(outputs((away, 0.8, 1)), outputs((away, 0.8, 0))).overlaps == ()
    assert compare.agreement(outputs(), outputs((away, 0.8, 0))).first == 0
