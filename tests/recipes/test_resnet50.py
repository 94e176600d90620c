"""ResNet-50 built by version, width and layout: what it is, and what surgery makes of it."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import pytest

from trtforge import plugins
from trtforge.backends.base import CompileRequest
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run as passes
from trtforge.ort import open_session, session_options
from trtforge.recipe.models import Engine
from trtforge.samples.base import Sample
from trtforge.scales.collect import collect
from trtforge.surgery.choose import as_functions, choose
from trtforge.surgery.op import Situation
from trtforge.surgery.rules import View
from trtforge.targets.model import Target

Array = np.ndarray[Any, Any]
RES2 = plugins.ops()["res2"]
PREPARING = ("upgrade-opset", "fold-constants", "infer-shapes")


@pytest.fixture(scope="module")
def resnet(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("recipes/resnet50/topology.py")


def image(*shape: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(0, 60, shape).astype(np.float32)


def ran(model: onnx.ModelProto | Model, x: Array) -> dict[str, Array]:
    """All outputs by name."""
    proto = model.proto if isinstance(model, Model) else model
    session = open_session(proto, None, session_options(threads=1))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {session.get_inputs()[0].name: x}), strict=True))


def kinds(model: onnx.ModelProto) -> Counter[str]:
    return Counter(node.op_type for node in model.graph.node)


def parameters(model: onnx.ModelProto) -> int:
    """Trained ones: running means and variances are not."""
    running = (".norm.mean", ".norm.variance")
    return sum(int(np.prod(one.dims)) for one in model.graph.initializer if not one.name.endswith(running))


def strides(model: onnx.ModelProto) -> dict[str, int]:
    """Of the convolutions that halve the image."""
    found = {
        node.name: next(each.ints[0] for each in node.attribute if each.name == "strides")
        for node in model.graph.node
        if node.op_type == "Conv"
    }
    return {name: stride for name, stride in found.items() if stride > 1}


# ---- the network -----------------------------------------------------------------------------------------------------


def test_full_size(resnet: ModuleType) -> None:
    folded = resnet.resnet50()
    onnx.checker.check_model(folded, full_check=True)
    assert kinds(folded) == {
        "Conv": 53, "Relu": 49, "Add": 16, "MaxPool": 1, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1,
    }  # fmt: skip
    assert parameters(folded) == 25_530_472
    apart = resnet.resnet50(layout=resnet.Layout(norm="batchnorm"))
    assert kinds(apart)["BatchNormalization"] == 53
    assert parameters(apart) == 25_557_032  # He et al.'s network as it is usually counted


@pytest.mark.parametrize(("version", "halving"), [("1", "2a"), ("1.5", "2b")])
def test_versions_halve_in_another_convolution(resnet: ModuleType, version: str, halving: str) -> None:
    later = [f"res{stage}a.{part}" for stage in (3, 4, 5) for part in (halving, "branch1")]
    assert strides(resnet.resnet50(version=version, width=4, blocks=(1, 1, 1, 1))) == dict.fromkeys(
        ["conv1", *later], 2
    )


def test_layouts_compute_the_same(resnet: ModuleType) -> None:
    x = image(2, 3, 64, 64)
    small = {"width": 8, "blocks": (2, 1), "classes": 10, "shape": ["n", 3, 64, 64]}
    expected = ran(resnet.resnet50(**small), x)["output"]
    layouts = {
        "batchnorm": resnet.Layout(norm="batchnorm"),
        "the first convolution's alone": resnet.Layout(norm="first"),
        "MatMul": resnet.Layout(head="matmul", mean=True),
        "1x1 convolution": resnet.Layout(head="conv"),
    }
    for name, layout in layouts.items():
        model = resnet.resnet50(layout=layout, **small)
        onnx.checker.check_model(model, full_check=True)
        np.testing.assert_allclose(ran(model, x)["output"], expected, rtol=1e-4, atol=1e-4, err_msg=name)
    turned = resnet.resnet50(layout=resnet.Layout(nhwc=True), **{**small, "shape": ["n", 64, 64, 3]})
    np.testing.assert_allclose(ran(turned, x.transpose(0, 2, 3, 1).copy())["output"], expected, rtol=1e-5, atol=1e-5)


def test_scores_as_mlperf_has_them(resnet: ModuleType) -> None:
    x = image(3, 3, 64, 64)
    small = {"width": 8, "blocks": (1,), "classes": 11, "shape": ["n", 3, 64, 64]}
    logits = ran(resnet.resnet50(layout=replace(resnet.MLPERF, softmax=False, classes_too=False), **small), x)
    model = resnet.resnet50(layout=resnet.MLPERF, **small)
    onnx.checker.check_model(model, full_check=True)
    found = ran(model, x)
    assert list(found) == ["ArgMax:0", "softmax_tensor:0"]
    exponents = np.exp(logits["softmax_tensor:0"])
    np.testing.assert_allclose(found["softmax_tensor:0"], exponents / exponents.sum(1, keepdims=True), rtol=1e-5)
    assert found["ArgMax:0"].tolist() == exponents.argmax(1).tolist()


def test_no_activation_grows_or_dies(resnet: ModuleType) -> None:
    """On other noise than the statistics are of, at another size: what INT8 and half precision ask for."""
    model = resnet.resnet50(width=16)
    names = [node.output[0] for node in model.graph.node if node.op_type == "Relu"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in names)
    values = ran(model, image(1, 3, 224, 224))
    for name in names:
        assert 0.2 < np.sqrt(np.mean(np.square(values[name]))) < 10, name
    assert 0.3 < values["output"].std() < 5


def test_seed_decides_the_weights(resnet: ModuleType) -> None:
    small = {"width": 4, "blocks": (1, 1)}
    first, again, other = (resnet.resnet50(seed=seed, **small).SerializeToString() for seed in (3, 3, 4))
    assert first == again
    assert first != other


def test_command_line(resnet: ModuleType, tmp_path: Path) -> None:
    out = tmp_path / "net.onnx"
    command = [sys.executable, resnet.__file__, str(out), "--mlperf", "--width", "4", "--seed", "9", "--version", "1"]
    subprocess.run(command, check=True)
    same = resnet.resnet50(version="1", width=4, classes=1001, layout=resnet.MLPERF, seed=9)
    assert out.read_bytes() == same.SerializeToString()
    assert [value.name for value in same.graph.input] == ["input_tensor:0"]


# ---- res2 in it ------------------------------------------------------------------------------------------------------

FEW = {"blocks": (3, 1)}
NETWORKS: dict[str, Callable[[ModuleType], tuple[dict[str, Any], tuple[int, int, int]]]] = {
    "v1, all of it": lambda net: ({"version": "1", "shape": [1, 3, 224, 224]}, (64, 64, 256)),
    "v1.5": lambda net: ({**FEW, "shape": [2, 3, 64, 64]}, (64, 64, 256)),
    "BatchNormalization apart": lambda net: ({**FEW, "layout": net.Layout(norm="batchnorm")}, (64, 64, 256)),
    "NHWC": lambda net: ({**FEW, "layout": net.Layout(nhwc=True), "shape": ["n", 96, 64, 3]}, (64, 64, 256)),
    "narrow": lambda net: ({**FEW, "width": 32, "shape": ["n", 3, 64, 64]}, (32, 32, 128)),
    "MLPerf's": lambda net: ({**FEW, "layout": net.MLPERF, "classes": 1001}, (64, 64, 256)),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_res2_is_found_once_and_computes_the_same(resnet: ModuleType, network: str) -> None:
    options, channels = NETWORKS[network](resnet)
    built = resnet.resnet50(**options)
    sizes = [dim.dim_value or 1 for dim in built.graph.input[0].type.tensor_type.shape.dim]
    before, _ = passes(Model(built), PREPARING)
    found = RES2.rule.find(View(before))
    (match,) = found.matches
    assert found.near == ()
    assert match.facts["channels"] == channels
    after = as_functions(before, [RES2])
    assert [node.op_type for node in after.proto.graph.node if node.domain == "trtforge"] == ["Res2"]
    x = image(*sizes)
    want, got = ran(before, x), ran(after, x)
    for name, values in want.items():
        assert np.abs(got[name] - values).max() <= 1e-5 * np.abs(values).max(), name


def test_a_width_the_kernels_cannot_group_is_named(resnet: ModuleType) -> None:
    model, _ = passes(Model(resnet.resnet50(width=16, blocks=(3,))), PREPARING)
    (miss,) = RES2.rule.find(View(model)).near
    assert miss.why == "the stage has 16 input channels, and its kernels take them in groups of 32"


def test_the_structure_that_onnx_ships() -> None:
    """light_resnet50.onnx: Caffe2's export, BatchNormalization apart, Sum for Add, all weights ConstantOfShape."""
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
    shipped = Model(onnx.load(path))
    (miss,) = RES2.rule.find(View(shipped)).near
    assert "run fold-constants before" in miss.why
    model, _ = passes(shipped, PREPARING)
    found = RES2.rule.find(View(model))
    (match,) = found.matches
    assert found.near == ()
    assert match.facts["channels"] == (64, 64, 256)
    assert (match.facts["height"], match.facts["width"]) == (56, 56)
    assert all(match.facts["norms"])


class Noise:
    """One image."""

    name = "noise"

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Sample]:
        return iter([Sample("noise", "0" * 64, {"input": image(1, 3, 224, 224)})])

    def identities(self) -> list[tuple[str, str]]:
        return [("noise", "0" * 64)]

    def describe(self) -> dict[str, Any]:
        return {"inputs": {}}


@pytest.mark.rtx
def test_full_size_in_int8_compiles_with_and_without_it(
    resnet: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The figures of plugins/res2/README.md, but for the plan's bytes, which a release of the compiler may change."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend

    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
    model, _ = passes(Model(resnet.resnet50(shape=[1, 3, 224, 224])), PREPARING)
    table = collect(model, Noise(), threads=2)
    ranges = {name: seen.amax for name, seen in table.ranges.items()}
    there = Situation("tensorrt_rtx", "int8", "8.0", probed=True, ranges=ranges)
    said = {
        "model": {"onnx": "n.onnx"},
        "inputs": {"input": {"shape": [1, 3, 224, 224]}},
        "calibration": {"scales": "s"},
    }
    reports = {}
    for lowering in ("plain", "trtforge"):
        plan = choose(model, [RES2], {"res2": (lowering,)}, there)
        target, folder = Target("there", "There", "discrete", sm="8.0"), tmp_path / lowering
        request = CompileRequest(model, table, Engine.model_validate(said), target, folder, plan, there)
        reports[lowering] = TensorRTRtxBackend().compile(request).report
    plain, ours = reports["plain"], reports["trtforge"]
    assert (plain["int8_convolutions"], ours["int8_convolutions"]) == (53, 43)
    assert plain["float_convolutions"] == ours["float_convolutions"] == 0
    assert {one["name"]: len(one["nodes"]) for one in ours["plugins"]} == {"Res2Int8": 1}
    assert ours["layers"] < plain["layers"]
    assert ours["plan_bytes"] < plain["plan_bytes"] < 40e6


# ---- the head, as MLPerf's surgery leaves it -----------------------------------------------------------------------

HEAD = ("fold-batchnorm", "global-average-pool", "fc-as-conv", "topk-head")


@pytest.mark.parametrize("head", ["gemm", "matmul"])
@pytest.mark.parametrize("mean", [False, True])
def test_the_head_becomes_pool_convolution_and_topk(resnet: ModuleType, head: str, mean: bool) -> None:
    layout = replace(resnet.MLPERF, head=head, mean=mean)
    shape = [5, 3, 64, 64]
    before = Model(resnet.resnet50(width=8, blocks=(1, 1), classes=1001, layout=layout, shape=shape))
    after, reports = passes(before, [*PREPARING, *HEAD])
    changed = {report.name for report in reports if report.modified}
    assert changed >= set(HEAD)
    nodes = after.proto.graph.node
    assert [node.op_type for node in nodes][-4:] == ["AveragePool", "Conv", "Flatten", "TopK"]
    assert not {"Softmax", "ArgMax", "BatchNormalization"} & kinds(after.proto).keys()
    (pool,) = (node for node in nodes if node.op_type == "AveragePool")
    assert next(list(each.ints) for each in pool.attribute if each.name == "kernel_shape") == [8, 8]
    colours = np.random.default_rng(2).uniform(-120, 120, (5, 3, 1, 1)).astype(np.float32)
    x = image(*shape) * np.float32(0.1) + colours  # noise alone is of one class
    want, got = ran(before, x), ran(after, x)
    assert list(got) == ["topk_index"]
    assert got["topk_index"].shape == (5, 1)
    assert got["topk_index"][:, 0].tolist() == want["ArgMax:0"].tolist()
    assert len(set(want["ArgMax:0"].tolist())) > 1


def as_opset_8(model: onnx.ModelProto) -> onnx.ModelProto:
    """As MLPerf's file is: axes of Squeeze are an attribute, weights are inputs of the graph too."""
    old = onnx.ModelProto.FromString(model.SerializeToString())
    old.ir_version = 3
    old.opset_import[0].version = 8
    for node in old.graph.node:
        if node.op_type == "Squeeze":
            del node.input[1]
            node.attribute.append(onnx.helper.make_attribute("axes", [2, 3]))
    axes = next(position for position, one in enumerate(old.graph.initializer) if one.name == "features.axes")
    del old.graph.initializer[axes]
    old.graph.input.extend(
        onnx.helper.make_tensor_value_info(one.name, one.data_type, one.dims) for one in old.graph.initializer
    )
    onnx.checker.check_model(old, full_check=True)
    return old


def test_the_files_own_opset_goes_the_same_way(resnet: ModuleType) -> None:
    model = resnet.resnet50(width=32, blocks=(3, 1), classes=1001, layout=resnet.MLPERF, shape=["n", 3, 64, 64])
    old, _ = passes(Model(as_opset_8(model)), [*PREPARING, *HEAD])
    new, _ = passes(Model(model), [*PREPARING, *HEAD])
    assert kinds(old.proto) == kinds(new.proto)
    assert len(RES2.rule.find(View(old)).matches) == 1
    x = image(2, 3, 64, 64)
    assert ran(old, x)["topk_index"].tolist() == ran(new, x)["topk_index"].tolist()


# ---- what each target makes of res2 --------------------------------------------------------------------------------

NATIVE = {"a100-sxm-80gb": "8.6", "a30": "8.6", "a2": "8.6", "orin-agx-64gb/gpu": "8.6"}
RECIPE = """\
target: {target}
backend: {backend}
{release}
engines:
  resnet50:
    model: {{onnx: ../models/resnet50.onnx}}
    inputs: {{"input_tensor:0": {{shape: [8, 3, 224, 224]}}}}
    surgery: [upgrade-opset, fold-constants, infer-shapes, res2]
    precision: int8
    calibration: {{set: ../data/cal.yaml}}
"""


@pytest.fixture
def explained(resnet: ModuleType, workshop: Any) -> Callable[[str, str, str], tuple[dict[str, Any], str]]:
    """What `trtforge surgery --explain` says of conv2_x at full width: the match, and all that a person reads."""
    stage = resnet.resnet50(blocks=(3,), layout=resnet.MLPERF, classes=1001)
    onnx.save(stage, workshop.root / "models" / "resnet50.onnx")

    def explain(target: str, backend: str, release: str = "") -> tuple[dict[str, Any], str]:
        stated = f'tensorrt: "{release}"' if release else ""
        workshop.recipe("there", RECIPE.format(target=target, backend=backend, release=stated))
        command = ("surgery", "recipes/there.yaml", "--explain")
        told, shown = workshop.forge(*command, "--json"), workshop.forge(*command)
        assert told.code == shown.code == 0, told.err
        (match,) = told.json["engines"][0]["plugins"]["matches"]
        return match, " ".join((shown.out + shown.err).split())

    return explain


@pytest.mark.parametrize("target", NATIVE)
def test_native_tensorrt_gets_nvidias_plugin(explained: Any, target: str) -> None:
    match, _ = explained(target, "tensorrt", NATIVE[target])
    assert (match["lowering"], match["refused"]) == ("stock", [])


def test_a_dla_keeps_the_convolutions(explained: Any) -> None:
    match, said = explained("orin-agx-64gb/dla", "tensorrt", "8.6")
    assert match["lowering"] == "plain"
    whys = {one["lowering"]: one["why"] for one in match["refused"]}
    assert whys["stock"] == "plugins run on the GPU, not on a DLA"
    assert whys["trtforge"] == "plugins run on the GPU, not on a DLA"
    assert "plugins run on the GPU, not on a DLA" in said


@pytest.mark.rtx
@pytest.mark.parametrize("target", ["a100-sxm-80gb", "a30", "a2"])
def test_tensorrt_rtx_gets_ours(explained: Any, target: str) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    match, said = explained(target, "tensorrt_rtx")
    assert match["lowering"] == "trtforge"
    assert "is a plugin of TensorRT, and the backend is tensorrt_rtx" in said


def test_the_host_keeps_the_convolutions(explained: Any) -> None:
    match, _ = explained("host", "onnxruntime")
    assert match["lowering"] == "plain"
    assert [one["lowering"] for one in match["refused"]] == ["stock", "trtforge"]
