"""NVIDIA's plugin: the node it gets, field by field, and every reason why it cannot be had."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, helper

from tests.plugins.res2 import graphs
from trtforge.digest import sha256_bytes
from trtforge.errors.graph import NoLowering
from trtforge.graph.model import Model
from trtforge.plugins.res2.rewrite import OP
from trtforge.plugins.res2.stock import CREATOR, PARTS, StockRes2
from trtforge.surgery.choose import apply, choose
from trtforge.surgery.documented import documented
from trtforge.surgery.op import Creator, Situation
from trtforge.surgery.rules import Match, View
from trtforge.surgery.swap import names_of

FULL = graphs.Spelling(channels=(64, 64, 256), size=(56, 56), batch="n")


def found(spelling) -> tuple[Model, View, Match]:
    model = graphs.Stage(spelling).model()
    view = View(model)
    (match,) = OP.rule.find(view).matches
    return model, view, match


@pytest.fixture(scope="module")
def full() -> tuple[Model, View, Match]:
    return found(FULL)


def situation(match: Match, **changed) -> Situation:
    """An A100 with TensorRT 10.3, calibrated: the ranges are 1, 1.25, 1.5 and so on in MLPerf's order."""
    ranges = {tensor: 1 + number / 4 for number, tensor in enumerate(match.ranges)}
    asked = Situation("tensorrt", "int8", "8.0", False, "10.3", frozenset({CREATOR}), True, ranges)
    return replace(asked, **changed)


def lowered(model: Model, view: View, match: Match, **changed):
    where = situation(match, **changed)
    assert StockRes2().refuses(match, view, where) == ""
    return StockRes2().lower(match, view, where, names_of(model))


def fields_of(node: onnx.NodeProto) -> dict:
    """As TensorRT's parser gives them to a creator: a tensor's own type and bytes, text as it is."""
    fields = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        if attribute.type == AttributeProto.TENSOR:
            fields[attribute.name] = onnx.numpy_helper.to_array(value)
        else:
            assert attribute.type == AttributeProto.STRING
            fields[attribute.name] = value.decode()
    return fields


def test_the_node_has_mlperfs_fields(full) -> None:
    _, view, match = full
    made = lowered(*full)
    (node,) = made.nodes
    assert (node.op_type, list(node.input), list(node.output)) == ("RnRes2FullFusion_TRT", ["x"], ["c_relu"])
    assert made.initializers == made.functions == ()
    fields = fields_of(node)
    assert fields.pop("plugin_version") == "1"
    assert fields.pop("plugin_namespace") == ""
    weights = iter(match.inputs[1:])
    for block, parts in (
        ("a", ("br1", "br2a", "br2b", "br2c")),
        ("b", ("br2a", "br2b", "br2c")),
        ("c", ("br2a", "br2b", "br2c")),
    ):
        for part in parts:
            channels = 256 if part in ("br1", "br2c") else 64
            np.testing.assert_array_equal(fields.pop(f"c_res2{block}_{part}_w"), view.value(next(weights)))
            np.testing.assert_array_equal(fields.pop(f"s_res2{block}_{part}_s"), np.ones(channels))
            np.testing.assert_array_equal(fields.pop(f"s_res2{block}_{part}_b"), view.value(next(weights)))
        np.testing.assert_array_equal(fields.pop(f"r_res2{block}_br2c_r"), np.ones(256))
    ranges = fields.pop("dynamic_ranges")
    np.testing.assert_allclose(ranges, [1 + number / 4 for number in range(14)], rtol=1e-7)
    assert fields == {}


def test_every_field_is_float32(full) -> None:
    for value in fields_of(lowered(*full).nodes[0]).values():
        assert isinstance(value, str) or value.dtype == np.float32


def test_the_model_around_it_stays_float_and_valid(full) -> None:
    model, _, match = full
    where = situation(match)
    after, _ = apply(model, model, choose(model, [OP], {}, where), where)
    onnx.checker.check_model(after.proto)
    assert [node.op_type for node in after.proto.graph.node] == ["MaxPool", "RnRes2FullFusion_TRT", "MaxPool"]
    assert len(after.proto.graph.initializer) == 0
    assert {entry.domain for entry in after.proto.opset_import} == {"", "trt.plugins"}


def test_normalization_is_folded_and_absent_biases_are_zero() -> None:
    model, view, match = found(replace(FULL, norm=True, bias=False))
    fields = fields_of(lowered(model, view, match).nodes[0])
    scale, shift, mean, variance = (
        view.value(f"b_2b_{each}").astype(np.float64) for each in ("scale", "shift", "mean", "variance")
    )
    factor = scale / np.sqrt(variance + 0.001)
    weight = view.value("b_2b_w") * factor[:, None, None, None]
    np.testing.assert_allclose(fields["c_res2b_br2b_w"], weight, rtol=1e-6)
    np.testing.assert_allclose(fields["s_res2b_br2b_b"], shift - mean * factor, rtol=1e-6, atol=1e-7)
    plain = found(replace(FULL, bias=False))
    fields = fields_of(lowered(*plain).nodes[0])
    for part in PARTS:
        assert not fields[f"s_res2{part}_b"].any()


def test_a_tensor_of_zeros_has_the_range_of_scale_one(full) -> None:
    _, _, match = full
    ranges = dict(situation(match).ranges) | {match.ranges[3]: 0.0}
    fields = fields_of(lowered(*full, ranges=ranges).nodes[0])
    assert fields["dynamic_ranges"][3] == 127


def test_the_record_for_the_manifest_is_json(full) -> None:
    _, view, _ = full
    plugin = lowered(*full).plugin
    assert (plugin.creator, plugin.op) == (CREATOR, "")
    recorded = json.loads(json.dumps(plugin.fields))
    assert recorded["c_res2a_br2b_w"] == sha256_bytes(view.value("a_2b_w").tobytes())
    np.testing.assert_allclose(recorded["dynamic_ranges"], [1 + number / 4 for number in range(14)], rtol=1e-7)
    assert len(json.dumps(recorded)) < 8000


REFUSALS = {
    "RTX": ({"backend": "tensorrt_rtx"}, "plugin of TensorRT, and the backend is tensorrt_rtx"),
    "onnxruntime": ({"backend": "onnxruntime"}, "the backend is onnxruntime"),
    "DLA": ({"dla": True}, "plugins run on the GPU, not on a DLA"),
    "fp16": ({"precision": "fp16"}, "computes in int8 only, and the precision is fp16"),
    "TensorRT 11": ({"tensorrt": "11.1"}, "TensorRT 11.1 has no implicit quantization"),
    "asked registry": (
        {"creators": frozenset(), "tensorrt": "10.16"},
        "the plugin registry of TensorRT 10.16 has no RnRes2FullFusion_TRT version 1",
    ),
    "another version": (
        {"creators": frozenset({Creator("RnRes2FullFusion_TRT", "2")})},
        "the plugin registry of TensorRT 10.3 has no RnRes2FullFusion_TRT version 1",
    ),
    "documented": (
        {"creators": frozenset(), "probed": False, "tensorrt": "8.6"},
        "TensorRT 8.6 is not documented to have RnRes2FullFusion_TRT version 1",
    ),
    "release not known": (
        {"creators": frozenset(), "probed": False, "tensorrt": None},
        "this TensorRT is not documented",
    ),
    "Xavier": ({"sm": "7.2"}, "MLPerf on SM 7.5, 8.0, 8.6, 8.7, 8.9, 9.0, and the target has 7.2"),
    "Blackwell": ({"sm": "12.0"}, "the target has 12.0"),
    "SM not known": ({"sm": None}, "the target has none known"),
}


@pytest.mark.parametrize("why", REFUSALS)
def test_a_situation_is_refused_in_a_sentence(full, why: str) -> None:
    _, view, match = full
    changed, sentence = REFUSALS[why]
    assert sentence in StockRes2().refuses(match, view, situation(match, **changed))


@pytest.mark.parametrize("sm", ["7.5", "8.0", "8.6", "8.7", "8.9", "9.0"])
def test_where_mlperf_uses_it_nothing_is_in_the_way(full, sm: str) -> None:
    _, view, match = full
    assert StockRes2().refuses(match, view, situation(match, sm=sm)) == ""


@pytest.mark.parametrize("position", [0, 1, 8, 13])
def test_a_missing_range_is_named(full, position: int) -> None:
    _, view, match = full
    tensor = match.ranges[position]
    ranges = {name: amax for name, amax in situation(match).ranges.items() if name != tensor}
    assert f"no range for the tensor {tensor!r}" in StockRes2().refuses(match, view, situation(match, ranges=ranges))


def test_before_calibration_ranges_are_assumed(full) -> None:
    _, view, match = full
    assert StockRes2().refuses(match, view, situation(match, ranges=None)) == ""


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"channels": (64, 32, 128)}, "ResNet-50's channels 64, 64, 256 (inferred), and the stage has 64, 32, 128"),
        ({"size": (28, 56)}, "made for 56x56 (inferred), and the stage has 28x56"),
        ({"size": ("h", 56)}, "made for 56x56 (inferred), and the stage has ?x56"),
    ],
)
def test_other_sizes_are_refused(changed, sentence: str) -> None:
    _, view, match = found(replace(FULL, **changed))
    assert sentence in StockRes2().refuses(match, view, situation(match))


def test_it_is_chosen_where_it_can_and_the_reason_is_kept_where_not(full) -> None:
    model, _, match = full
    (choice,) = choose(model, [OP], {}, situation(match)).choices
    assert choice.lowering_name == "stock"
    (choice,) = choose(model, [OP], {"res2": ("stock", "plain")}, situation(match, sm="7.2")).choices
    assert choice.lowering_name == "plain"
    ((name, why),) = choice.refused
    assert name == "stock" and "7.2" in why
    with pytest.raises(NoLowering) as refused:
        choose(model, [OP], {"res2": ("stock",)}, situation(match, creators=frozenset()))
    assert "has no RnRes2FullFusion_TRT" in str(refused.value.why)


@pytest.mark.parametrize(("release", "known"), [("8.6", True), ("10.3", True), ("11.1", False)])
def test_the_documented_releases_agree(full, release: str, known: bool) -> None:
    _, view, match = full
    where = situation(match, creators=documented(release), probed=False, tensorrt=release)
    assert (StockRes2().refuses(match, view, where) == "") is known


LISTENER = """
import hashlib, json, sys
import numpy as np, tensorrt_rtx as trt

class Listener(trt.IPluginCreatorV3One):
    def __init__(self, names):
        super().__init__()
        self.name, self.plugin_version, self.plugin_namespace = "RnRes2FullFusion_TRT", "1", ""
        empty, kind = np.array([], np.float32), trt.PluginFieldType.FLOAT32
        self.field_names = trt.PluginFieldCollection([trt.PluginField(name, empty, kind) for name in names])
        self.heard = {}

    def create_plugin(self, name, fields, phase):
        for field in fields:
            value = np.array(field.data)
            self.heard[field.name] = [field.type.name, str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
        return None

listener = Listener(json.loads(sys.argv[2]))
assert trt.get_plugin_registry().register_creator(listener, "")
logger = trt.Logger(trt.Logger.ERROR)
network = trt.Builder(logger).create_network(0)
trt.OnnxParser(network, logger).parse(open(sys.argv[1], "rb").read())
print(json.dumps(listener.heard))
"""


@pytest.mark.rtx
def test_nvidias_parser_finds_the_plugin_and_hands_over_every_field(full, tmp_path: Path) -> None:
    """TensorRT-RTX's parser, which is built of the same source, and a creator of this name that only listens."""
    pytest.importorskip("tensorrt_rtx", reason="the extra `rtx` is not installed")
    from trtforge.backends.tensorrt_rtx_.environment import child_environment

    model, _, match = full
    where = situation(match)
    after, (made,) = apply(model, model, choose(model, [OP], {}, where), where)
    (tmp_path / "m.onnx").write_bytes(after.proto.SerializeToString())
    fields = {name: value for name, value in fields_of(made.nodes[0]).items() if not name.startswith("plugin_")}
    ran = subprocess.run(
        [sys.executable, "-P", "-c", LISTENER, str(tmp_path / "m.onnx"), json.dumps(list(fields))],
        env=child_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert ran.returncode == 0, ran.stderr
    heard = json.loads(ran.stdout.strip().rpartition("\n")[2])
    assert heard == {name: ["FLOAT32", "float32", sha256_bytes(value.tobytes())] for name, value in fields.items()}
