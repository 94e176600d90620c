"""Whole networks against placements that NVIDIA published, or that others saw in build logs, for each TensorRT.

ResNet-50 as PyTorch exports it was built with TensorRT 10.3 on an AGX Orin: two loadables, the trunk and the Gemm;
GlobalAveragePool and Flatten on the GPU. MLPerf's ResNet-50, SSD-MobileNet and SSD-ResNet34 run whole on the DLA but
for TopK and NMS. 3D-UNet and BERT are none of its networks.
"""

from __future__ import annotations

from collections import Counter
from importlib import util
from pathlib import Path
from typing import Any

import pytest

from trtforge.lint.context import Context
from trtforge.lint.rule import Finding
from trtforge.lint.run import findings

JETPACKS = ["8.6", "10.3", "11.4.1"]
"""TensorRT releases whose DLA an AGX Orin can use: JetPack 6.0, 6.1 and later, 7.2.2."""

SHAPES = ["fold-constants", "infer-shapes"]
IMAGE = {"input": [1, 3, 224, 224]}


@pytest.fixture(scope="module")
def resnet50(topology) -> Any:
    return topology("resnet50").resnet50(width=8)


@pytest.fixture(scope="module")
def mlperf_resnet50(topology) -> Any:
    made = topology("resnet50")
    return made.resnet50(width=8, classes=1001, layout=made.MLPERF)


@pytest.fixture(scope="module")
def ssd_mobilenet(topology) -> Any:
    return topology("ssd_mobilenet").ssd_mobilenet(300, width=0.25, classes=20)


@pytest.fixture(scope="module")
def ssd_resnet34() -> Any:
    spec = util.spec_from_file_location("ssd_resnet34", Path(__file__).with_name("ssd_resnet34.py"))
    assert spec is not None and spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ssd_resnet34()


@pytest.fixture(scope="module")
def bert(topology) -> Any:
    made = topology("bert")
    return made.bert(made.Size(48, 4, 12, 96, vocabulary=50), opset=17)


@pytest.fixture(scope="module")
def unet3d(topology) -> Any:
    return topology("unet3d").unet3d((4, 8, 16, 32))


def on(context: Context, device: str) -> Counter[str]:
    """Operators on a device."""
    return Counter(place.node.op_type for place in context.placement.places if place.device == device)


def by_code(context: Context, code: str) -> list[Finding]:
    return [finding for finding in findings(context) if finding.code == code]


@pytest.mark.parametrize("tensorrt", JETPACKS)
def test_resnet50_as_exported_is_two_loadables(examined, resnet50: Any, tensorrt: str) -> None:
    context = examined(resnet50, IMAGE, SHAPES, tensorrt=tensorrt)
    assert on(context, "gpu") == {"GlobalAveragePool": 1, "Flatten": 1}
    trunk, layer = context.placement.loadables
    assert (trunk.nodes[0].name, trunk.nodes[-1].name) == ("conv1", "res5c.relu")
    assert [node.op_type for node in layer.nodes] == ["Gemm"]
    assert all(place.cuts for place in context.placement.places if place.device == "gpu")
    assert bool(context.placement.note) == (tensorrt == "11.4.1")


@pytest.mark.parametrize("tensorrt", JETPACKS)
def test_resnet50_of_mlperf_is_one_loadable_but_for_topk(examined, mlperf_resnet50: Any, tensorrt: str) -> None:
    passes = [*SHAPES, "global-average-pool", "fc-as-conv", "topk-head"]
    context = examined(mlperf_resnet50, {"input_tensor:0": [2, 3, 224, 224]}, passes, tensorrt=tensorrt)
    assert on(context, "gpu") == {"Flatten": 1, "TopK": 1}
    (loadable,) = context.placement.loadables
    assert (loadable.nodes[-1].op_type, loadable.batch) == ("Conv", 2)
    assert Counter(len(fusion.nodes) for fusion in context.placement.fusions) == {2: 32, 3: 16, 4: 1}
    said = [(finding.code, finding.severity, finding.where) for finding in findings(context)]
    assert said == [
        ("DLA102", "hint", "inputs.input_tensor:0.shape"),
        ("DLA104", "hint", "TopK `topk_head`"),
    ], "a clean network is not talked about"


@pytest.mark.parametrize("tensorrt", JETPACKS)
def test_ssd_mobilenet_is_one_loadable_but_for_its_suppression(examined, ssd_mobilenet: Any, tensorrt: str) -> None:
    passes = [*SHAPES, "relu6-to-relu", "merge-sibling-convs"]
    context = examined(ssd_mobilenet, {"input": [1, 3, 300, 300]}, passes, tensorrt=tensorrt, surgery=["nms"])
    there, everything = context.placement.weighted
    assert there == everything == 41
    network = context.placement.loadables[0]
    assert {node.op_type for node in network.nodes} == {"Conv", "BatchNormalization", "Relu", "Split"}
    assert sum(node.op_type == "Conv" for node in network.nodes) == everything
    assert on(context, "gpu")["NonMaxSuppression"] == 1
    assert "Conv" not in on(context, "gpu")
    assert not by_code(context, "DLA114"), "every Relu is fused"
    (suppression,) = [place for place in context.placement.places if place.node.op_type == "NonMaxSuppression"]
    assert suppression.why is not None and suppression.why.kind == "plugin"


def test_ssd_mobilenet_as_exported_has_clips_that_are_not_fused(examined, ssd_mobilenet: Any) -> None:
    context = examined(ssd_mobilenet, {"input": [1, 3, 300, 300]}, SHAPES)
    assert on(context, "dla")["Clip"] >= 35
    (hint,) = by_code(context, "DLA114")
    assert "35 probably not fused" in hint.message
    assert "relu6-to-relu" in hint.fix


@pytest.mark.parametrize("tensorrt", JETPACKS)
def test_ssd_resnet34_is_one_loadable_but_for_its_suppression(examined, ssd_resnet34: Any, tensorrt: str) -> None:
    context = examined(ssd_resnet34, {"image": [1, 3, 1200, 1200]}, SHAPES, tensorrt=tensorrt)
    (loadable,) = context.placement.loadables
    assert {node.op_type for node in loadable.nodes} == {"Conv", "Relu", "MaxPool", "Add"}
    assert set(on(context, "gpu")) == {"Reshape", "Concat", "Transpose", "Softmax", "NonMaxSuppression"}
    assert {finding.severity for finding in findings(context)} == {"hint"}, "its end goes to the GPU, and cuts nothing"


@pytest.mark.parametrize("tensorrt", JETPACKS)
@pytest.mark.parametrize("fallback", [True, False])
def test_unet3d_is_refused_for_its_third_dimension(examined, unet3d: Any, tensorrt: str, fallback: bool) -> None:
    inputs = {"input": [1, 1, 32, 32, 32]}
    context = examined(unet3d, inputs, SHAPES, tensorrt=tensorrt, dla={"gpu_fallback": fallback})
    assert not context.placement.loadables
    assert on(context, "gpu" if fallback else "refused")["Conv"] == 15
    (refused,) = by_code(context, "DLA109")
    assert refused.severity == "error"
    assert refused.message.startswith("0 of 18 Conv, ConvTranspose, Gemm and MatMul layers run on the DLA")
    assert "it has three spatial dimensions" in refused.message
    assert refused.fix.startswith("write target: orin-agx-64gb/gpu")
    (volume,) = by_code(context, "DLA103")
    assert volume.severity == ("warning" if fallback else "error")


@pytest.mark.parametrize("tensorrt", JETPACKS)
def test_bert_is_refused_and_says_why(examined, bert: Any, tensorrt: str) -> None:
    inputs = {value.name: [1, 32] for value in bert.graph.input}
    context = examined(bert, inputs, SHAPES, tensorrt=tensorrt)
    placement = context.placement
    assert (len(placement.loadables), placement.limit) == (16, 16)
    assert placement.wanted > 100
    (refused,) = by_code(context, "DLA109")
    assert refused.severity == "error"
    assert "16 loadables are taken" in refused.message
    (pieces,) = by_code(context, "DLA108")
    assert pieces.severity == "warning"
    messages = " ".join(finding.message for finding in findings(context))
    for reason in ("LayerNormalization", "multiplies two activations", "the DLA keeps four"):
        assert reason in messages


@pytest.mark.parametrize("network", ["resnet50", "ssd_resnet34"])
def test_no_tensorrt_from_10_8_on_runs_anything_on_a_dla(examined, request, network: str) -> None:
    inputs = IMAGE if network == "resnet50" else {"image": [1, 3, 1200, 1200]}
    context = examined(request.getfixturevalue(network), inputs, SHAPES, tensorrt="10.8")
    assert set(context.placement.counts) == {"gpu"}
    assert "10.7 was the last" in context.placement.places[0].reason
    said = [finding.code for finding in findings(context) if finding.severity == "error"]
    assert said == ["DLA101"], "one reason is enough"


def test_a_core_held_four_loadables_under_8_2(examined) -> None:
    cuts = " ".join(f"e{i} = Exp(r{i}) r{i + 1} = Relu(e{i})" for i in range(6))
    body = f"g (float[1, 8, 4, 4] r0) => (float[1, 8, 4, 4] r6) {{ {cuts} }}"
    for tensorrt, most in (("8.2", 4), ("8.4", 16), (None, 16)):
        placement = examined(body, {"r0": [1, 8, 4, 4]}, tensorrt=tensorrt, target="xavier-agx/dla").placement
        assert placement.limit == most
        assert len(placement.loadables) == min(most, 6)
        assert placement.wanted == 6
