"""The nodes of NVIDIA's plugins, with a stand-in for each plugin; refusals; the choice among lowerings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import AttributeProto, NodeProto, TensorProto, helper

from tests.plugins.nms import graphs
from tests.plugins.nms import test_decode as decoders
from trtforge.errors.graph import NoLowering
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run as run_passes
from trtforge.plugins.nms.function import Variant
from trtforge.plugins.nms.rewrite import OP
from trtforge.surgery.choose import apply, choose
from trtforge.surgery.documented import documented
from trtforge.surgery.op import Creator, Situation
from trtforge.surgery.rules import attribute

tools = graphs.tools
Array = np.ndarray[Any, Any]

A100 = Situation("tensorrt", "int8", "8.0", tensorrt="10.3", creators=documented("10.3"))
ORIN_DLA = Situation("tensorrt", "int8", "8.7", dla=True, tensorrt="8.6", creators=documented("8.6"))
TYPES = {
    "score_threshold": AttributeProto.FLOAT,
    "iou_threshold": AttributeProto.FLOAT,
    **dict.fromkeys(
        ("max_output_boxes", "background_class", "score_activation", "class_agnostic", "box_coding"), AttributeProto.INT
    ),
}
"""Fields of plugin/efficientNMSPlugin in NVIDIA/TensorRT: float32 and int32 there."""


def lowered(model: Model, situation: Situation, *names: str) -> tuple[Model, NodeProto]:
    """The graph with the one match lowered, and the plugin's node."""
    plan = choose(model, [OP], {"nms": names} if names else {}, situation)  # type: ignore[dict-item]
    after, _ = apply(model, model, plan, situation)
    (node,) = [node for node in after.proto.graph.node if node.domain == "trt.plugins"]
    return after, node


def with_stand_in(
    model: Model, node: NodeProto, plugin: Callable[..., list[Array]], feeds: dict[str, Array]
) -> dict[str, Array]:
    """The graph up to the plugin by onnxruntime, the plugin in NumPy, and the rest by onnxruntime."""
    part = type(model.proto).FromString(model.proto.SerializeToString())
    wanted = [name for name in node.input if name]
    kept = _upstream(part.graph, set(wanted))
    del part.graph.node[:]
    part.graph.node.extend(kept)
    names = [f"{name}_seen_{place}" for place, name in enumerate(wanted)]
    part.graph.node.extend(
        helper.make_node("Identity", [name], [seen]) for name, seen in zip(wanted, names, strict=True)
    )
    del part.graph.output[:]
    part.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    part.graph.ClearField("value_info")
    made = plugin(node, *tools.run(Model(part), feeds).values())
    rest = type(model.proto).FromString(model.proto.SerializeToString())
    rest.graph.node.remove(next(each for each in rest.graph.node if each.domain == "trt.plugins"))
    for name, value in zip(node.output, made, strict=True):
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        rest.graph.input.append(helper.make_tensor_value_info(name, kind, value.shape))
    passed = [output.name for output in rest.graph.output if output.name in node.output]
    outputs = [output for output in rest.graph.output if output.name not in passed]
    del rest.graph.output[:]
    rest.graph.output.extend(outputs)
    found = tools.run(Model(rest), feeds | dict(zip(node.output, made, strict=True))) if outputs else {}
    return found | {name: made[list(node.output).index(name)] for name in passed}


def _upstream(graph: onnx.GraphProto, needed: set[str]) -> list[NodeProto]:
    kept = []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(NodeProto.FromString(node.SerializeToString()))
    return kept[::-1]


def efficient(node: NodeProto, *inputs: Array) -> list[Array]:
    """`EfficientNMS_TRT` as its README and kernels have it."""
    assert {each.name: each.type for each in node.attribute} == {
        **TYPES,
        "plugin_version": AttributeProto.STRING,
        "plugin_namespace": AttributeProto.STRING,
    }
    assert (attribute(node, "plugin_version"), attribute(node, "plugin_namespace")) == ("1", "")
    fields = {name: attribute(node, name) for name in TYPES}
    variant = Variant(
        centre_size=bool(fields.pop("box_coding")),
        anchors=len(inputs) == 3,
        per_class=inputs[0].ndim == 4,
        sigmoid=bool(fields.pop("score_activation")),
        agnostic=bool(fields.pop("class_agnostic")),
    )
    made: list[Array] = graphs.by_loops(variant, *inputs, **fields)
    return made


@pytest.mark.parametrize("spelled", ["none", "tensorflow", "pytorch"])
def test_efficient_nms(spelled: str) -> None:
    model = graphs.detector() if spelled == "none" else decoders.head(decoders.SPELLINGS[spelled])
    after, node = lowered(model, A100)
    assert node.op_type == "EfficientNMS_TRT"
    assert len(node.input) == (2 if spelled == "none" else 3)
    feeds = {
        name: value
        for name, value in graphs.feeds(4, loc=(2, graphs.BOXES, 4)).items()
        if name in {each.name for each in model.proto.graph.input}
    }
    want, got = tools.run(model, feeds), with_stand_in(after, node, efficient, feeds)
    assert int(want["num"].sum()) > 2
    for name, values in want.items():
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5, err_msg=name)


def test_a_dla_engine_has_it_too() -> None:
    _, node = lowered(graphs.detector(), ORIN_DLA)
    assert node.op_type == "EfficientNMS_TRT"


def test_what_the_manifest_says() -> None:
    model = graphs.detector()
    plan = choose(model, [OP], {}, A100)
    _, (made,) = apply(model, model, plan, A100)
    assert made.plugin is not None and made.plugin.creator == Creator("EfficientNMS_TRT", "1")
    assert made.plugin.op == "" and made.plugin.fields["max_output_boxes"] == 5


def refusal(model: Model, situation: Situation, lowering: str = "stock") -> str:
    with pytest.raises(NoLowering) as caught:
        choose(model, [OP], {"nms": (lowering,)}, situation)  # type: ignore[dict-item]
    return str(caught.value.why).removeprefix(f"{lowering}: ")


BACKGROUND = {"  t = T": "  t0 = T", "(p)": "(p)\n  t = Where(mask, out, t0)"}


@pytest.mark.parametrize(
    ("model", "situation", "why"),
    [
        (
            graphs.detector(),
            replace(A100, backend="onnxruntime"),
            "onnxruntime runs the graph as it is, without TensorRT plugins",
        ),
        (
            graphs.detector(),
            Situation("tensorrt_rtx", "int8", "8.0", probed=True),
            "TensorRT-RTX has no EfficientNMS_TRT of version 1 (its registry was asked)",
        ),
        (
            graphs.detector(),
            replace(A100, tensorrt="7.2", creators=documented("7.2")),
            "TensorRT 7.2 has no EfficientNMS_TRT of version 1 (by NVIDIA's documents; the device was not asked)",
        ),
        (
            graphs.detector(constants={"least": np.float32(0.005)}),
            A100,
            "below a score threshold of 0.007 it also writes boxes under the threshold, and here it is 0.005",
        ),
        (
            graphs.detector(constants={"least": np.float32(0)}),
            A100,
            "below a score threshold of 0.007 it also writes boxes under the threshold, and here it is 0",
        ),
        (
            graphs.detector(
                {**BACKGROUND, "keep, overlap, least)": "keep, overlap)"}, {"mask": np.eye(3, 1, dtype=bool)}
            ),
            A100,
            "without a score threshold it also writes boxes of the background class",
        ),
        (
            graphs.detector(
                constants={"keep": np.array([5000]), "padding": np.array([0, 0, 0, 5000])},
                outputs="float[2, 5000] out_scores",
            ),
            A100,
            "it looks at the best 4096 scores of an image, and 5000 boxes are wanted",
        ),
    ],
)
def test_refusals(model: Model, situation: Situation, why: str) -> None:
    assert refusal(model, situation) == why


def test_tensorrt_rtx_falls_back_to_the_graph_as_it_is() -> None:
    (choice,) = choose(graphs.detector(), [OP], {}, Situation("tensorrt_rtx", "int8", "8.0", probed=True)).choices
    assert choice.lowering_name == "plain"
    assert [name for name, _ in choice.refused] == ["stock"]


# ---- MLPerf's plugin -------------------------------------------------------------------------------------------------


def ssd(topology: ModuleType, *passes: str, **more: Any) -> Model:
    proto = topology.ssd_mobilenet(64, classes=2, width=0.125, seed=3, batch=2, **more)
    return run_passes(Model(proto), [*passes, "fold-constants", "infer-shapes"])[0]


@pytest.fixture(scope="module")
def topology(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/ssd_mobilenet/topology.py")


MLPERF = {
    **dict.fromkeys(
        (
            *("shareLocation", "varianceEncodedInTarget", "backgroundLabelId", "numClasses", "topK", "keepTopK"),
            *("confSigmoid", "confSoftmax", "isNormalized", "codeType", "numLayers"),
        ),
        AttributeProto.INT,
    ),
    "confidenceThreshold": AttributeProto.FLOAT,
    "nmsThreshold": AttributeProto.FLOAT,
    "inputOrder": AttributeProto.INTS,
}


def nms_opt(node: NodeProto, *inputs: Array) -> list[Array]:
    """`NMS_OPT_TRT` version 2 as MLPerf's sources have it, for candidates fewer than topK."""
    assert {each.name: each.type for each in node.attribute} == {
        **MLPERF,
        "plugin_version": AttributeProto.STRING,
        "plugin_namespace": AttributeProto.STRING,
    }
    fields = {name: attribute(node, name) for name in MLPERF}
    scales, classes, keep = fields["numLayers"], fields["numClasses"], fields["keepTopK"]
    assert fields["inputOrder"] == [0, scales + 1, scales]
    assert len(inputs) == 2 * scales + 1
    corners, variances = inputs[scales].reshape(2, -1, 4).astype(np.float64)
    loc, conf = [], []
    for tensor in inputs[:scales]:
        shapes = tensor.shape[1] // (4 + classes)
        by_place = tensor.transpose(0, 2, 3, 1).astype(np.float64)
        loc.append(by_place[..., : 4 * shapes].reshape(len(tensor), -1, 4))
        conf.append(by_place[..., 4 * shapes :].reshape(len(tensor), -1, classes))
    y, x, h, w = np.moveaxis(np.concatenate(loc, 1), -1, 0)
    wide, high = (corners[:, 2:] - corners[:, :2]).T
    across, down = ((corners[:, :2] + corners[:, 2:]) / 2).T
    cx, cy = variances[:, 0] * x * wide + across, variances[:, 1] * y * high + down
    half_w, half_h = np.exp(variances[:, 2] * w) * wide / 2, np.exp(variances[:, 3] * h) * high / 2
    boxes = np.stack([cy - half_h, cx - half_w, cy + half_h, cx + half_w], -1).astype(np.float32)
    above = float(np.nextafter(np.float32(fields["nmsThreshold"]), np.float32(1)))
    count, kept, scores, kinds = graphs.by_loops(
        Variant(sigmoid=bool(fields["confSigmoid"])),
        boxes,
        np.concatenate(conf, 1).astype(np.float32),
        score_threshold=fields["confidenceThreshold"],
        iou_threshold=above,
        max_output_boxes=keep,
        background_class=fields["backgroundLabelId"],
    )
    raw = np.zeros((len(boxes), keep * 7 + 1), np.float32)
    rows = raw[:, :-1].reshape(len(boxes), keep, 7)
    rows[..., 0] = np.arange(len(boxes))[:, None]
    rows[..., 1:5], rows[..., 5] = kept.clip(0, 1), scores
    rows[..., 6] = np.where(np.arange(keep) < count, kinds, -1)
    raw[:, -1] = count[:, 0].view(np.float32)
    return [raw[:, None, None]]


@pytest.mark.parametrize("merged", [True, False])
def test_nms_opt(topology: ModuleType, merged: bool) -> None:
    passes = ["fold-batchnorm", *(["merge-sibling-convs"] if merged else [])]
    model = ssd(topology, *passes, limits=topology.Limits(scores=0.6, overlap=0.5, keep=20))
    after, node = lowered(model, A100, "nms-opt")
    assert node.op_type == "NMS_OPT_TRT"
    assert sum(each.op_type == "Concat" for each in after.proto.graph.node) == (0 if merged else 6)
    assert {"Exp", "TopK", "Sigmoid"}.isdisjoint(each.op_type for each in after.proto.graph.node)
    feeds = {"input": np.random.default_rng(0).uniform(-1, 1, (2, 3, 64, 64)).astype(np.float32)}
    want, got = tools.run(model, feeds), with_stand_in(after, node, nms_opt, feeds)
    assert int(want["num_detections"].min()) > 2
    assert (want["detection_boxes"] == 0).any() and want["detection_classes"].max() == 1
    for name, values in want.items():
        assert got[name].dtype == values.dtype
        np.testing.assert_allclose(got[name], values, rtol=0, atol=1e-5, err_msg=name)


def test_nms_opt_only_where_the_recipe_names_it(topology: ModuleType) -> None:
    model = ssd(topology)
    there = replace(A100, probed=True, creators=frozenset({Creator("NMS_OPT_TRT", "2")}))
    (choice,) = choose(model, [OP], {}, there).choices
    assert choice.lowering_name == "plain"
    assert lowered(model, there, "nms-opt")[1].op_type == "NMS_OPT_TRT"
    assert refusal(model, replace(there, creators=frozenset()), "nms-opt") == (
        "the plugin registry of TensorRT 10.3 has no NMS_OPT_TRT version 2"
    )


def test_nms_opt_refusals(topology: ModuleType) -> None:
    rtx = Situation("tensorrt_rtx", "int8", "8.0", probed=True)
    assert refusal(ssd(topology), rtx, "nms-opt") == (
        "NMS_OPT_TRT is a plugin for TensorRT, and the backend is tensorrt_rtx"
    )
    many = topology.Limits(scores=0.6, overlap=0.5, keep=300)
    assert (
        refusal(ssd(topology, limits=many), A100, "nms-opt")
        == "it sorts 256 scores of a class, and 300 boxes are wanted"
    )
    assert refusal(graphs.detector(), A100, "nms-opt") == (
        "it decodes boxes by centre and size itself, the vertical first, and the graph has no such decoder"
    )
    assert refusal(decoders.head(decoders.PYTORCH), A100, "nms-opt") == (
        "it clips boxes to the image, and the graph does not: no Clip to [0, 1] is behind the boxes"
    )
    clipped = decoders.head(
        decoders.PYTORCH,
        changes={
            "out_boxes = Where(": "wide = Where(",
            "picked, none)": "picked, none)\n  out_boxes = Clip(wide, none, edge)",
        },
        constants={"edge": np.float32(1)},
    )
    assert refusal(clipped, A100, "nms-opt") == (
        "boxes and scores are not convolutions of square feature maps side by side, by row, column and anchor"
    )
    unlimited = graphs.detector({"keep, overlap, least)": "keep, overlap)"})
    assert refusal(unlimited, A100, "nms-opt") == "it drops scores of 0, and there is no score threshold"


def test_the_stock_node_passes_onnx_checks() -> None:
    after, _ = lowered(graphs.detector(), A100)
    onnx.checker.check_model(after.proto)
    kinds = {value.name: value.type.tensor_type.elem_type for value in after.proto.graph.output}
    assert kinds["num"] == kinds["out_classes"] == TensorProto.INT32
