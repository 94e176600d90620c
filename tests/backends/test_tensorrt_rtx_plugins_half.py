"""Plugins of ours in float16 graphs: where they are half, what the compiler makes of them, what the graph computes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from trtforge import plugins
from trtforge.backends.base import CompileRequest
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend
from trtforge.backends.tensorrt_rtx_.half import convert
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.graph.shapes import tensor_types
from trtforge.ort import open_session, session_options
from trtforge.recipe.models import Engine
from trtforge.surgery.choose import Plan, apply, choose
from trtforge.surgery.op import Situation
from trtforge.targets.model import Target

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
UNET = ("instance-norm-relu", "pixel-shuffle-3d", "conv3d-small")
SHAPE = (1, 1, 16, 16, 16)
FP16 = Situation("tensorrt_rtx", "fp16", "8.0", creators=frozenset(), probed=True)
COUNTS = {"InstanceNormRelu": 6, "PixelShuffle3dConcat": 1}

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def net(script: Any) -> Model:
    """MLPerf's 3D-UNet of two levels, in float32."""
    topology = script("recipes/unet3d/topology.py")
    before = plugins.ops()["pixel-shuffle-3d"].before
    proto = topology.unet3d((32, 40), shape=SHAPE)
    return run(Model(proto), ["upgrade-opset", "fold-constants", "infer-shapes", before, "infer-shapes"])[0]


def planned(model: Model) -> Plan:
    return choose(model, [plugins.ops()[name] for name in UNET], {}, FP16)


def ran(model: Model, x: Array) -> Array:
    (y,) = open_session(model.proto, model.folder, session_options(threads=1)).run(None, {"input": x})
    return np.asarray(y)


def volume(seed: int = 0) -> Array:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def test_the_lowerings_take_a_float16_graph(net: Model) -> None:
    plan = planned(net)
    assert Counter(choice.op.name for choice in plan.swapped) == {"instance-norm-relu": 6, "pixel-shuffle-3d": 1}
    refused = [dict(choice.refused) for choice in plan.choices if choice.op.name == "conv3d-small"]
    assert refused[0]["trtforge"] == "its kernels compute in int8, and the recipe's precision is fp16"


def test_all_of_it_is_half_but_the_inputs_and_outputs(net: Model) -> None:
    graph, _ = apply(net, net, planned(net), FP16)
    half, report = convert(graph)
    onnx.checker.check_model(half.proto, full_check=True)
    calls = [node for node in half.proto.graph.node if node.domain == "trtforge"]
    assert Counter(node.op_type for node in calls) == COUNTS
    types = {name: kind.dtype for name, kind in tensor_types(half).items()}
    types |= {one.name: "float16" for one in half.proto.graph.initializer if one.data_type == TensorProto.FLOAT16}
    for node in calls:
        assert {types[name] for name in (*node.input, *node.output)} == {"float16"}, node.name
    assert (report.casts, report.float_nodes) == (2, [])
    assert {function.name for function in half.proto.functions} == set(COUNTS)


def test_the_float16_graph_computes_what_the_plain_one_does(net: Model) -> None:
    graph, _ = apply(net, net, planned(net), FP16)
    exact, plain, ours = (ran(model, volume()) for model in (net, convert(net)[0], convert(graph)[0]))
    scale = np.abs(exact).max()
    assert np.abs(ours - exact).max() < 0.02 * scale
    assert np.abs(ours - plain).max() < 0.02 * scale


def test_a_plugin_without_float16_kernels_stays_float(net: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(type(plugins.kinds()["InstanceNormRelu"]), "half", False)
    graph, _ = apply(net, net, planned(net), FP16)
    half, report = convert(graph)
    onnx.checker.check_model(half.proto, full_check=True)
    assert len(report.float_nodes) == 6 and all("norm" in name for name in report.float_nodes)
    assert np.abs(ran(half, volume()) - ran(net, volume())).max() < 0.02 * np.abs(ran(net, volume())).max()


@pytest.mark.rtx
@needs_rtx
@pytest.mark.parametrize("sm", ["8.0", "8.6"])
def test_it_is_compiled_without_a_gpu(net: Model, sm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    said = {"model": {"onnx": "n.onnx"}, "inputs": {"input": {"shape": SHAPE}}, "precision": "fp16"}
    target = Target("there", "There", "discrete", sm=sm)
    folder = tmp_path / "engine"
    request = CompileRequest(net, None, Engine.model_validate(said), target, folder, planned(net), FP16)
    result = TensorRTRtxBackend().compile(request)
    assert {one["name"]: len(one["nodes"]) for one in result.report["plugins"]} == COUNTS
    given = io.load(folder / "compiler" / "model.onnx")
    norms = [node for node in given.proto.graph.node if node.op_type == "InstanceNormRelu"]
    kinds = {one.name: one.data_type for one in given.proto.graph.initializer}
    assert len(norms) == 6
    assert {kinds[name] for node in norms for name in node.input[1:]} == {TensorProto.FLOAT}  # as the kernels read them
    plan = result.files["model.plan"].read_bytes()
    assert all(name.encode() in plan for name in COUNTS)
    assert result.graph is not None
    simulated = io.load(result.graph)
    exact, got = ran(net, volume(1)), ran(simulated, volume(1))
    assert np.abs(got - exact).max() < 0.02 * np.abs(exact).max()
