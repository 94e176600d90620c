"""Models quantized by onnxruntime and by nvidia-modelopt: to a cache, back to Q/DQ, and every scale still the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from tests.scales.quantized.networks import IMAGE, TOKENS, conv_net, samples, transformer
from tests.scales.test_qdq_real import compiled_types
from trtforge.errors.calibration import QdqNotPlain
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.scales.carry import carry
from trtforge.scales.codecs.extraction import Extraction
from trtforge.scales.codecs.lost_weights import lost_weights
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.qdq_extract import extract, take_apart
from trtforge.scales.codecs.trt_cache import CalibrationCache
from trtforge.scales.identity import check_names
from trtforge.scales.precisions import precisions

FOLDER = Path(__file__).parent / "quantized"
MODELOPT = sorted(path.name for path in FOLDER.glob("*.modelopt*.onnx"))
NETWORKS = {"conv_net": (conv_net, "image", IMAGE), "transformer": (transformer, "tokens", TOKENS)}


def stated_scales(model: Model) -> dict[str, bytes]:
    """Bits of the float32 scale of every quantized activation, read from the nodes without any of our code."""
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}
    return {
        node.input[0]: np.float32(stored[node.input[1]].reshape(())).tobytes()
        for node in model.proto.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] not in stored
    }


def onnxruntime_quantized(tmp_path: Path, network: str, **options: object) -> Model:
    import_onnxruntime()
    from onnxruntime.quantization import CalibrationDataReader, quantize_static

    make, name, shape = NETWORKS[network]

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[np.ndarray] = iter(samples(shape))

        def get_next(self) -> dict[str, np.ndarray] | None:
            sample = next(self.left, None)
            return None if sample is None else {name: sample}

    onnx.save(make(), tmp_path / "float.onnx")
    quantize_static(str(tmp_path / "float.onnx"), str(tmp_path / "int8.onnx"), Reader(), **options)
    return io.load(tmp_path / "int8.onnx")


def symmetric(**more: object) -> dict[str, object]:
    from onnxruntime.quantization import QuantType

    extra = {"ActivationSymmetric": True, **more}
    return {"activation_type": QuantType.QInt8, "per_channel": True, "extra_options": extra}


def run(model: Model, name: str, x: np.ndarray) -> np.ndarray:
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(model.proto, model.folder, options).run(None, {name: x})[0]  # type: ignore[no-any-return]


def check_round_trip(quantized: Model) -> Extraction:
    """Q/DQ -> plain + cache -> Q/DQ: no scale changes a bit, and no float tensor loses its name."""
    found = take_apart(quantized)
    onnx.checker.check_model(found.model.proto, full_check=True)
    carried = carry(found)
    cache = CalibrationCache.from_table(carried.table, tensorrt="8.6.2", algorithm="EntropyCalibration2")
    read = CalibrationCache.from_bytes(cache.to_bytes())
    assert check_names(read.scales, found.model).findings() == []
    scales = {name: scale.tobytes() for name, scale in read.scales.items()}
    for name, stated in stated_scales(quantized).items():
        assert scales[name if name in scales else name.removesuffix("_QuantizeLinear_Input")] == stated, name
    assert all(carried.table.ranges[name] == seen for name, seen in found.table.ranges.items())
    again, report = insert(found.model, read.to_table())
    assert report.tensors
    back = stated_scales(again)
    assert set(back) == set(report.tensors)
    assert all(back[name] == scales[name] for name in back)
    ranks = {t.name: len(t.dims) for t in again.proto.graph.initializer}
    assert all(
        ranks[node.input[1]] == 0
        for node in again.proto.graph.node
        if node.op_type == "QuantizeLinear" and node.input[0] in back
    )
    return found


@pytest.mark.parametrize("name", MODELOPT)
def test_modelopt_models_keep_every_scale(name: str) -> None:
    quantized = io.load(FOLDER / name)
    if "fp16" in name:
        found = take_apart(quantized)
        cache = CalibrationCache.from_table(found.table, tensorrt="10.3.0")
        again = CalibrationCache.from_bytes(cache.to_bytes())
        stated = stated_scales(quantized)
        assert {tensor: scale.tobytes() for tensor, scale in again.scales.items()} == stated
        return
    found = check_round_trip(quantized)
    original = {"conv_net": conv_net, "transformer": transformer}[name.partition(".")[0]]()
    floats = {tensor.name: numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    for tensor in found.model.proto.graph.initializer:
        if tensor.name in floats:
            np.testing.assert_array_equal(numpy_helper.to_array(tensor), floats[tensor.name])
    assert lost_weights(found) == ()
    tensor = original.graph.input[0].name
    x = samples(NETWORKS[name.partition(".")[0]][2], 1)[0]
    np.testing.assert_allclose(run(found.model, tensor, x), run(Model(original), tensor, x), rtol=1e-5, atol=1e-5)


def test_modelopt_has_float_layers_and_the_precisions_name_them() -> None:
    found = take_apart(io.load(FOLDER / "conv_net.modelopt.onnx"))
    layers = precisions(found, carry(found))
    assert layers.of("float") == ["flat_node", "classes_node"]
    assert layers.of("fused") == ["sum_node"]
    assert {"stem_node", "stem_relu_node", "pooled_node", "joined_node", "mean_node"} <= set(layers.of("int8"))
    everything = take_apart(io.load(FOLDER / "conv_net.modelopt.dla.onnx"))
    assert precisions(everything, carry(everything)).of("float") == []


@pytest.mark.parametrize("network", NETWORKS)
def test_symmetric_onnxruntime_models_keep_every_scale(tmp_path: Path, network: str) -> None:
    found = check_round_trip(onnxruntime_quantized(tmp_path, network, **symmetric()))
    assert found.asymmetric == found.relus == ()
    assert lost_weights(found) == ()


@pytest.mark.parametrize("network", NETWORKS)
def test_onnxruntime_defaults_are_converted_and_told(tmp_path: Path, network: str) -> None:
    """uint8 with zero points, weights per tensor: no scale survives as it is, the network does."""
    found = take_apart(onnxruntime_quantized(tmp_path, network))
    make, name, shape = NETWORKS[network]
    relus = [node.output[0] for node in make().graph.node if node.op_type == "Relu"]
    assert sorted(found.relus) == sorted(relus)
    assert name in found.asymmetric
    assert {entry.kind for entry in lost_weights(found)} == {"per tensor"}
    for x in samples(shape, 2):
        ours, theirs = run(found.model, name, x).ravel(), run(Model(make()), name, x).ravel()
        assert float(ours @ theirs / np.linalg.norm(ours) / np.linalg.norm(theirs)) > 0.999


def test_weights_of_seven_bits_are_told(tmp_path: Path) -> None:
    quantized = onnxruntime_quantized(tmp_path, "conv_net", reduce_range=True, **symmetric())
    lost = lost_weights(take_apart(quantized))
    assert {entry.kind for entry in lost} == {"other scales"}
    assert {entry.tensor for entry in lost} >= {"stem_weight", "head_weight"}
    assert all(entry.channels == entry.of and entry.ratio == pytest.approx(127 / 64, rel=0.01) for entry in lost)


def test_onnxruntimes_operator_form_is_refused(tmp_path: Path) -> None:
    from onnxruntime.quantization import QuantFormat

    quantized = onnxruntime_quantized(tmp_path, "conv_net", quant_format=QuantFormat.QOperator)
    with pytest.raises(QdqNotPlain, match="image_QuantizeLinear") as caught:
        extract(quantized)
    assert "QOperator" in caught.value.why and "QuantFormat.QDQ" in caught.value.next


@pytest.mark.rtx
def test_a_cache_made_from_modelopts_model_is_int8_in_tensorrt_rtx(tmp_path: Path) -> None:
    """Q/DQ -> cache -> Q/DQ, and NVIDIA's compiler takes all six convolutions as INT8."""
    found = take_apart(io.load(FOLDER / "conv_net.modelopt.onnx"))
    cache = CalibrationCache.from_table(carry(found).table, tensorrt="8.6.2")
    quantized, report = insert(found.model, CalibrationCache.from_bytes(cache.to_bytes()).to_table())
    built = compiled_types(quantized, tmp_path)
    assert report.quantized_conv == 6
    assert sum(types[:2] == ["int8", "int8"] for types in built["corrltn"]) == 6
