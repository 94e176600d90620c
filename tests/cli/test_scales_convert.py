"""`trtforge scales convert` between Q/DQ models and caches: what it writes, what it tells, what it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

QUANTIZED = Path(__file__).parents[1] / "scales" / "quantized"

CONFLICT = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) {
    q1 = QuantizeLinear(x, s, z)
    d1 = DequantizeLinear(q1, s, z)
    q2 = QuantizeLinear(x, t, z)
    d2 = DequantizeLinear(q2, t, z)
    a = Conv(d1, w)
    b = Conv(d2, w)
    out = Add(a, b)
}"""


@pytest.fixture
def shop(workshop):
    """A workshop with a quantized network of another maker, `quantized.onnx`."""
    shutil.copy(QUANTIZED / "conv_net.modelopt.onnx", workshop.root / "quantized.onnx")
    return workshop


def to_cache(shop, *more: str):
    return shop.forge("scales", "convert", "quantized.onnx", "net.cache", "--to", "trt-cache", *more)


def test_a_quantized_model_becomes_a_plain_one_a_cache_and_precisions(shop) -> None:
    options = ["--out", "plain.onnx", "--precisions", "layers.json", "--target", "orin-agx-64gb/dla"]
    done = to_cache(shop, *options)
    assert done.code == 0 and done.err == ""
    assert (shop.root / "net.cache").read_text().splitlines()[0] == "TRT-100300-EntropyCalibration2"
    plain = onnx.load(shop.root / "plain.onnx")
    assert not {node.op_type for node in plain.graph.node} & {"QuantizeLinear", "DequantizeLinear"}
    layers = json.loads((shop.root / "layers.json").read_text())
    assert layers["layers"]["classes_node"]["precision"] == "float"
    assert layers["trtexec"][1] in done.out
    assert "7 scales of the model, 8 carried over" in done.out
    assert "4 float tensors have no scale" in done.out
    assert "main_2: main_2_node, sum_node in FP16 on the DLA" in done.out
    assert "13.9x slower" in done.out
    result = to_cache(shop, *options, "--json").json
    assert result["without_scale"] == ["main_2", "mean", "flat", "classes"]
    assert result["consequences"][0]["read_by"] == ["Add sum_node"]
    assert result["precisions"]["layers"] == layers["layers"]
    assert result["lost_weight_scales"] == result["conflicts"] == result["asymmetric"] == []


def first_line(path: Path) -> str:
    return path.read_text().splitlines()[0]


def test_a_cache_is_for_the_calibrator_that_trtexec_has_and_a_guessed_release_is_told(shop) -> None:
    done = to_cache(shop, "--plain", "plain.onnx", "--precisions", "layers.json")
    assert first_line(shop.root / "net.cache") == "TRT-8602-EntropyCalibration2"
    assert "an IInt8EntropyCalibrator2 reads it: trtexec's" in done.out
    assert "TensorRT 8.6.2, which is a guess" in done.err
    assert "main_2: main_2_node, sum_node in FP16 or FP32" in done.out
    header = to_cache(shop, "--json").json["header"]
    assert header == {"tensorrt": "8.6.2", "algorithm": "EntropyCalibration2", "guessed": True}


def test_a_release_that_was_said_is_no_guess_but_for_its_patch(shop) -> None:
    said = to_cache(shop, "--tensorrt", "8.6.1", "--algorithm", "MinMaxCalibration")
    assert first_line(shop.root / "net.cache") == "TRT-8601-MinMaxCalibration"
    assert said.err == "" and "neither trtexec nor a DLA" in said.out
    assert "with 0 for the patch" in to_cache(shop, "--tensorrt", "8.6").err
    assert first_line(shop.root / "net.cache").startswith("TRT-8600-")
    of_device = to_cache(shop, "--tensorrt", "8.6", "--target", "orin-agx-64gb/dla")
    assert of_device.err == "" and first_line(shop.root / "net.cache").startswith("TRT-8602-")
    assert "TensorRT 10.3.0 is the newest for orin-agx-64gb/dla" in to_cache(shop, "--target", "orin-agx-64gb/dla").out


def test_a_cache_that_is_converted_keeps_its_first_line(shop) -> None:
    (shop.root / "old.cache").write_text("TRT-8201-MinMaxCalibration\nx: 3c010204\n")
    for source, out, to in (("old.cache", "s.json", "json"), ("s.json", "new.cache", "trt-cache")):
        done = shop.forge("scales", "convert", source, out, "--to", to)
        assert done.code == 0 and done.err == ""
    assert (shop.root / "new.cache").read_text() == (shop.root / "old.cache").read_text()
    shop.forge("scales", "convert", "old.cache", "dla.cache", "--to", "trt-cache", "--target", "orin-nx-8gb/dla")
    assert first_line(shop.root / "dla.cache") == "TRT-100300-EntropyCalibration2"


def test_the_cache_is_the_same_by_way_of_a_json(shop) -> None:
    assert to_cache(shop).code == 0
    done = shop.forge("scales", "convert", "quantized.onnx", "s.json", "--to", "json")
    assert "7 scales of the model, 8 carried over" in done.out and "s.json: 15 tensors" in done.out
    assert shop.forge("scales", "convert", "s.json", "by_json.cache", "--to", "trt-cache").code == 0
    direct, by_json = ((shop.root / name).read_text().splitlines() for name in ("net.cache", "by_json.cache"))
    assert direct[0] == by_json[0] and sorted(direct) == sorted(by_json)  # a JSON is in the order of names
    assert shop.forge("scales", "convert", "quantized.onnx", "o.json", "--to", "ort-json").code == 0
    assert shop.forge("scales", "diff", "s.json", "o.json", "--json").json["diff"]["only_a"] == []


def test_a_cache_goes_back_into_a_model_with_the_same_bits(shop) -> None:
    assert to_cache(shop, "--plain", "plain.onnx").code == 0
    done = shop.forge("scales", "convert", "net.cache", "back.onnx", "--to", "qdq", "--model", "plain.onnx")
    assert done.code == 0 and done.err == ""
    assert "6 conv" in done.out and "2 nodes stay in float" in done.out
    assert "10 scales have no place in the graph, where no INT8 layer reads them:" in done.out
    again = shop.forge("scales", "convert", "net.cache", "again.onnx", "--to", "qdq", "--model", "plain.onnx", "--json")
    placed = again.json["qdq"]
    names = {line.rsplit(": ", 1)[0] for line in (shop.root / "net.cache").read_text().splitlines()[1:]}
    assert set(placed["tensors"]) | set(placed["not_placed"]) == names and len(placed["not_placed"]) == 10
    result = shop.forge("scales", "diff", "net.cache", "back.onnx", "--json").json["diff"]
    assert result["changed"] == [] and result["only_b"] == [] and result["equal"] == 5
    made = onnx.load(shop.root / "back.onnx")
    ranks = {t.name: len(t.dims) for t in made.graph.initializer}
    assert {ranks[n.input[1]] for n in made.graph.node if n.op_type == "QuantizeLinear"} == {0}


def test_a_dla_gets_every_scale_of_its_layers_into_the_graph(shop) -> None:
    assert to_cache(shop, "--plain", "plain.onnx").code == 0
    to_qdq = ["scales", "convert", "net.cache", "back.onnx", "--to", "qdq", "--model", "plain.onnx"]
    placed = shop.forge(*to_qdq, "--target", "orin-agx-64gb/dla", "--json").json["qdq"]
    inside = ["last", "right", "left", "sum", "main_1", "stem"]  # a convolution or sum, and the Relu behind it
    assert placed["not_placed"] == inside
    result = shop.forge("scales", "diff", "net.cache", "back.onnx", "--json").json["diff"]
    assert result["changed"] == [] and result["equal"] == 15 - len(inside)


def test_missing_scales_are_taken_from_a_calibration_and_given_ones_stay(shop) -> None:
    assert to_cache(shop).code == 0
    before = dict(line.rsplit(": ", 1) for line in (shop.root / "net.cache").read_text().splitlines()[1:])
    (shop.root / "fill.cache").write_text(
        "TRT-8602-MinMaxCalibration\nmain_2: 3c010204\nmean: 3c010204\nsum: 3c010204\n"
    )
    done = to_cache(shop, "--fill", "fill.cache")
    assert done.code == 0 and "fill.cache: 2 scales for tensors that had none" in done.out
    assert "2 float tensors have no scale" in done.out
    after = dict(line.rsplit(": ", 1) for line in (shop.root / "net.cache").read_text().splitlines()[1:])
    assert after == {**before, "main_2": "3c010204", "mean": "3c010204"}


def test_an_old_opset_is_raised_for_qdq_nodes(shop) -> None:
    body = '<ir_version: 6, opset_import: ["" : 11]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) { out = Conv(x, w) }'
    model = parse_model(body)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"))
    onnx.save(model, shop.root / "old.onnx")
    (shop.root / "old.cache").write_text("TRT-8602-MinMaxCalibration\nx: 3c010204\n")
    done = shop.forge("scales", "convert", "old.cache", "new.onnx", "--to", "qdq", "--model", "old.onnx")
    assert done.code == 0 and "opset raised from 11 to" in done.out
    assert onnx.load(shop.root / "new.onnx").opset_import[0].version >= 13


def test_two_scales_of_a_tensor_are_refused_or_the_widest_is_taken(shop) -> None:
    model = parse_model(CONFLICT)
    for name, value in {"s": np.float32(1), "t": np.float32(2), "z": np.int8(0)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"))
    onnx.save(model, shop.root / "quantized.onnx")
    refused = to_cache(shop)
    assert refused.code == 5 and "CAL236" in refused.err and "--conflicts widest" in refused.err
    assert not (shop.root / "net.cache").exists()
    done = to_cache(shop, "--conflicts", "widest")
    assert done.code == 0 and "x had 2 scales (amax 254, 127)" in done.err
    assert "x: 40000000" in (shop.root / "net.cache").read_text()


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["net.cache", "o.onnx", "--to", "qdq"], "USE100", "--model MODEL.onnx"),
        (["net.cache", "o.json", "--to", "json", "--precisions", "p"], "USE105", "leave --precisions out"),
        (["quantized.onnx", "o.json", "--to", "json", "--precisions", "p"], "USE100", "--plain plain.onnx"),
        (["quantized.onnx", "o", "--to", "qdq", "--plain", "p", "--precisions", "l"], "USE100", "leave --precisions"),
        (["net.cache", "o.onnx", "--to", "qdq", "--model", "models/net.onnx"], "CAL215", "0 of their 15 tensors"),
        (["net.cache", "o", "--to", "trt-cache", "--fill", "net.cache"], "USE100", "--model MODEL.onnx"),
        (["net.cache", "o.json", "--to", "json", "--model", "models/net.onnx"], "CAL215", "not of this model"),
        (["net.cache", "o", "--to", "trt-cache", "--tensorrt", "11.4"], "CAL212", "--to qdq --model MODEL"),
        (["net.cache", "o", "--to", "trt-cache", "--target", "xavier-nx/dla", "--tensorrt", "8.6"], "CAL212", "8.5.2"),
        (
            ["net.cache", "o", "--to", "trt-cache", "--target", "orin-nx-8gb/dla", "--tensorrt", "10.9"],
            "CAL212",
            "10.7",
        ),
        (
            ["net.cache", "o", "--to", "trt-cache", "--target", "orin-nx-8gb/dla", "--algorithm", "MinMaxCalibration"],
            "CAL212",
            "leave --algorithm out",
        ),
        (["net.cache", "o", "--to", "trt-cache", "--target", "a3"], "RCP201", "a30"),
        (["net.cache", "o", "--to", "trt-cache", "--target", "a30", "--tensorrt", "new"], "CAL212", 'like "8.6.2"'),
        (["recipes/host.yaml", "o", "--to", "json"], "USE107", "a TensorRT cache (its first line begins with TRT-)"),
        (
            ["net.cache", "o", "--to", "trt-cache", "--model", "models/net.onnx", "--fill", "data/cal.yaml"],
            "USE107",
            "cal.yaml is a sample set, not a file of scales or an ONNX model",
        ),
        (["bad.cache", "o", "--to", "json"], "CAL211", "bad.cache:3"),
    ],
)
def test_refusals_say_what_to_do(shop, options: list[str], code: str, said: str) -> None:
    assert to_cache(shop).code == 0
    (shop.root / "bad.cache").write_text("TRT-8602-MinMaxCalibration\nx: 3c010204\ny: 3c01\n")
    done = shop.forge("scales", "convert", *options)
    assert f"error[{code}]" in done.err and said in done.err
    assert not (shop.root / options[1]).exists()


def test_scales_that_a_form_cannot_hold_are_told(shop) -> None:
    """A subnormal one cannot be divided by; 127 times a huge one is beyond float32."""
    body = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,3,3] x) => (float[1,2,3,3] out) { out = Conv(x, w) }'
    model = parse_model(body)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"))
    onnx.save(model, shop.root / "net.onnx")
    (shop.root / "tiny.cache").write_text("TRT-8602-MinMaxCalibration\nx: 000116c2\n")
    to_qdq = ["scales", "convert", "tiny.cache", "q.onnx", "--to", "qdq", "--model", "net.onnx"]
    done = shop.forge(*to_qdq)
    assert "1 scale is too small to divide by, of tensors that are zero in effect, and 1 now: x" in done.out
    assert shop.forge(*to_qdq, "--json").json["qdq"]["zero_range"] == ["x"]
    (shop.root / "huge.cache").write_text("TRT-8602-MinMaxCalibration\nx: 7f61b1e6\n")
    done = shop.forge("scales", "convert", "huge.cache", "o.json", "--to", "ort-json")
    assert "1 scale is rounded: a limit, 127 scales, is a float32 here" in done.out


def test_a_model_without_a_quantized_activation_gives_no_scale(shop) -> None:
    body = CONFLICT.replace("d1 = DequantizeLinear(q1, s, z)", "").replace("d2 = DequantizeLinear(q2, t, z)", "")
    model = parse_model(body.replace("Conv(d1, w)", "Conv(x, w)").replace("Conv(d2, w)", "Conv(x, w)"))
    for name, value in {"s": np.float32(1), "t": np.float32(2), "z": np.int8(0)}.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 2, 1, 1), np.float32), "w"))
    onnx.save(model, shop.root / "quantized.onnx")
    done = to_cache(shop, "--tensorrt", "8.6.2")
    assert done.code == 0 and "there is no scale to write" in done.err
    again = shop.forge("scales", "convert", "net.cache", "o.json", "--to", "json")
    assert "error[CAL201]" in again.err and "without a single scale" in again.err


def test_a_name_that_is_neither_a_file_nor_an_engine(shop) -> None:
    (shop.root / "folder").mkdir()
    for name, said in (("folder", "it is a folder, no file"), ("nothing", "nor is there a file of this name")):
        done = shop.forge("scales", "convert", name, "o.json", "--to", "json")
        assert "error[ENG106]" in done.err and said in done.err
