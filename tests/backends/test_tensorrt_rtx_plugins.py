"""Plugins of ours in TensorRT-RTX engines: built on this CPU by the real compiler, and looked for before loading."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper

from trtforge import plugins
from trtforge.backends.base import CompileRequest, CompileResult
from trtforge.backends.nvidia import plugins as shared
from trtforge.backends.nvidia import registry
from trtforge.backends.tensorrt_rtx_ import environment, session
from trtforge.backends.tensorrt_rtx_ import plugins as rtx_plugins
from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend
from trtforge.backends.tensorrt_rtx_.session import RtxSession
from trtforge.errors.engine import ForeignGpu, PluginNotHere
from trtforge.errors.environment import MissingPackage, NoGpu
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.ort import open_session, session_options
from trtforge.recipe.models import Engine
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.surgery.choose import choose
from trtforge.surgery.op import Creator, Situation
from trtforge.targets.model import Target

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")
UNET = ("instance-norm-relu", "pixel-shuffle-3d", "conv3d-small")
SHAPE = (1, 1, 16, 16, 16)


@dataclass(frozen=True)
class Net:
    """A 3D-UNet of two levels in float, one input of it, and the ranges of its tensors over that."""

    model: Model
    x: np.ndarray
    y: np.ndarray
    table: ScaleTable

    def request(self, sm: str, folder: Path) -> CompileRequest:
        ranges = {name: seen.amax for name, seen in self.table.ranges.items()}
        there = Situation("tensorrt_rtx", "int8", sm, creators=frozenset(), probed=True, ranges=ranges)
        plan = choose(self.model, [plugins.ops()[name] for name in UNET], {}, there)
        said = {"model": {"onnx": "n.onnx"}, "inputs": {"input": {"shape": SHAPE}}, "calibration": {"scales": "s"}}
        target = Target("there", "There", "discrete", sm=sm)
        return CompileRequest(self.model, self.table, Engine.model_validate(said), target, folder, plan, there)


def ran(proto: onnx.ModelProto, folder: Path | None, x: np.ndarray) -> dict[str, np.ndarray]:
    session = open_session(proto, folder, session_options(threads=1))
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {"input": x}), strict=True))


@pytest.fixture(scope="module")
def net(script: Any) -> Net:
    topology = script("recipes/unet3d/topology.py")
    before = plugins.ops()["pixel-shuffle-3d"].before
    proto = topology.unet3d((32, 64), shape=SHAPE)
    model, _ = run(Model(proto), ["upgrade-opset", "fold-constants", "infer-shapes", before])
    x = np.random.default_rng(0).normal(size=SHAPE).astype(np.float32)
    every = onnx.ModelProto()
    every.CopyFrom(model.proto)
    del every.graph.output[:]
    names = [name for node in model.proto.graph.node for name in node.output]
    every.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    values = {"input": x} | ran(every, None, x)
    floats = {name: value for name, value in values.items() if value.dtype == np.float32}
    table = ScaleTable({name: TensorRange(float(v.min()), float(v.max()), 1) for name, v in floats.items()})
    return Net(model, x, values["output"], table)


@dataclass(frozen=True)
class Built:
    folder: Path
    result: CompileResult


@pytest.fixture(scope="module", params=["8.0", "8.6"])
def built(request: pytest.FixtureRequest, net: Net, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRTFORGE_CACHE", str(tmp_path_factory.mktemp("cache")))
        folder = tmp_path_factory.mktemp("engine")
        yield Built(folder, TensorRTRtxBackend().compile(net.request(request.param, folder)))


@pytest.mark.rtx
@needs_rtx
class TestBuilt:
    def test_the_report_says_which_plugins_are_in_it(self, built: Built) -> None:
        report = built.result.report
        counts = {record["name"]: len(record["nodes"]) for record in report["plugins"]}
        assert counts == {
            "InstanceNormReluInt8": 6,
            "PixelShuffle3dConcatInt8": 1,
            "Conv3dSmallInt8": 1,
            "Conv3dSmallInt8ToFloat": 1,
        }
        for record in report["plugins"]:
            kind = plugins.kinds()[record["name"]]
            assert (record["version"], record["namespace"]) == ("1", "trtforge")
            assert record["source"] == kind.source_digest()
            assert record["kernels"] == kind.kernels.plugin
            assert all(set(node["fields"]) >= set(kind.fields) - {"to"} for node in record["nodes"])
        json.dumps(report)
        lowered = [match["lowering"] for match in report["surgery"]["matches"]]
        assert lowered == ["trtforge"] * 9
        assert shared.needed(report, built.folder).keys() == counts.keys()

    def test_kernels_lie_beside_the_plan(self, built: Built) -> None:
        cubins = {name: path for name, path in built.result.files.items() if name.endswith(".cubin")}
        number = re.findall(r"sm(\d+)", next(iter(cubins)))[0]
        sm = f"{number[:-1]}.{number[-1]}"
        folders = ("instance_norm_relu", "pixel_shuffle_3d", "conv3d_small")
        assert set(cubins) == {f"{name}.sm{number}.cubin" for name in folders}
        for path in cubins.values():
            assert path.parent == built.folder and path.read_bytes()[:4] == b"\x7fELF"
        for name in built.result.report["plugins"]:
            assert list(plugins.kinds()[name["name"]].kernels.files(built.folder)) == [sm]

    def test_the_plan_has_them_with_their_fields(self, built: Built) -> None:
        """Names, and the fields' own bytes: what the engine will read at the device."""
        plan = built.result.files["model.plan"].read_bytes()
        for record in built.result.report["plugins"]:
            assert record["name"].encode() in plan
            for node in record["nodes"]:
                fields = node["fields"]
                for name in ("input_scale", "output_scale", "epsilon"):
                    if name in fields:
                        assert struct.pack("<f", fields[name]) in plan, (record["name"], name)

    def test_definitions_are_kept_in_the_graph_and_not_given_to_the_compiler(self, built: Built) -> None:
        graph = built.result.graph
        assert graph is not None
        kept = io.load(graph)
        given = io.load(built.folder / "compiler" / "model.onnx")
        names = {record["name"] for record in built.result.report["plugins"]}
        assert {function.name for function in kept.proto.functions} == names
        assert not given.proto.functions
        assert {node.op_type for node in given.proto.graph.node if node.domain == "trtforge"} == names

    def test_the_graph_runs_in_onnxruntime(self, built: Built, net: Net) -> None:
        graph = io.load(built.result.graph)
        y = ran(graph.proto, graph.folder, net.x)["output"]
        assert y.shape == net.y.shape
        cosine = float((y * net.y).sum() / np.sqrt((y * y).sum() * (net.y * net.y).sum()))
        assert 0.95 < cosine < 1.0

    def test_the_convolutions_that_are_left_are_int8(self, built: Built) -> None:
        assert built.result.report["summary"].partition(": ")[2].startswith("6 of 6 convolutions in INT8")


@pytest.mark.rtx
@needs_rtx
def test_the_same_bytes_twice(net: Net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = []
    for turn in ("one", "two"):
        monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / f"{turn}-cache"))  # kernels are compiled anew too
        result = TensorRTRtxBackend().compile(net.request("8.0", tmp_path / turn))
        plans.append({name: path.read_bytes() for name, path in result.files.items()})
    assert plans[0] == plans[1]


@pytest.mark.rtx
@needs_rtx
def test_the_registry_has_ours_and_the_stock_ones() -> None:
    found = rtx_plugins.creators()
    assert {Creator(name, "1", "trtforge") for name in plugins.kinds()} < found
    assert {each.name for each in found if not each.namespace} >= {"ROIAlign_TRT"}
    assert TensorRTRtxBackend().creators(None) == (found, True)


@needs_rtx
def test_a_registry_that_cannot_be_asked_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    rtx_plugins.creators.cache_clear()
    monkeypatch.setattr(registry, "_ASK", "raise OSError('libtensorrt_rtx.so.1: file too short')")
    with pytest.raises(MissingPackage, match="cannot be asked") as caught:
        rtx_plugins.creators()
    assert caught.value.why == "OSError: libtensorrt_rtx.so.1: file too short"
    monkeypatch.setattr(environment, "missing", lambda: ["tensorrt-rtx-cu12"])
    assert TensorRTRtxBackend().creators(None) == (frozenset(), False)  # not installed: nothing to ask
    rtx_plugins.creators.cache_clear()


@needs_rtx
class TestMissingName:
    """The library under the name that the parser opens."""

    @pytest.fixture
    def folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        return Path(environment.child_environment()["LD_LIBRARY_PATH"])

    def test_it_is_a_link_in_our_own_cache(self, folder: Path, tmp_path: Path) -> None:
        assert folder.is_relative_to(tmp_path / "cache")
        link = folder / "libtensorrt_rtx.so"
        assert link.is_symlink() and link.resolve().name.startswith("libtensorrt_rtx.so.1")
        assert [path.name for path in folder.iterdir()] == ["libtensorrt_rtx.so"]
        beside = link.resolve().parent
        assert not (beside / "libtensorrt_rtx.so").exists(), "nothing is written into the package"

    def test_one_that_leads_nowhere_is_mended(self, folder: Path, tmp_path: Path) -> None:
        link = folder / "libtensorrt_rtx.so"
        there = link.readlink()
        link.unlink()
        link.symlink_to(tmp_path / "gone.so.1")
        assert environment.child_environment()["LD_LIBRARY_PATH"] == str(folder)
        assert link.readlink() == there

    def test_the_users_own_path_stays_behind_it(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("LD_LIBRARY_PATH", "/opt/lib")
        assert environment.child_environment()["LD_LIBRARY_PATH"] == f"{folder}:/opt/lib"

    def test_a_relative_cache_is_found_from_anywhere(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("TRTFORGE_CACHE", "near")
        monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
        assert Path(environment.child_environment()["LD_LIBRARY_PATH"]).is_relative_to(tmp_path / "near")


def record(**changes: str) -> dict[str, Any]:
    kind = next(iter(plugins.kinds().values()))
    whole = {"name": kind.name, "version": "1", "namespace": "trtforge", "source": kind.source_digest()}
    return {"plugins": [whole | changes]}


REFUSED = {
    "an unknown name": ({"name": "Turbo"}, "trtforge::Turbo 1", "this trtforge has Res2Int8, "),
    "another version": ({"version": "2"}, "trtforge::Res2Int8 2", "this trtforge has Res2Int8, "),
    "another namespace": ({"namespace": ""}, "::Res2Int8 1", "this trtforge has Res2Int8, "),
    "other sources": (
        {"source": "ab" * 32},
        "trtforge::Res2Int8 1",
        "its kernels' source was abababababab; here it is ",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_engine_of_another_trtforge_is_refused_before_a_driver_is_asked(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes, named, why = REFUSED[case]

    def asked() -> str:
        raise AssertionError("the driver was asked")

    monkeypatch.setattr(environment, "driver_problem", asked)
    with pytest.raises(PluginNotHere) as caught:
        RtxSession(tmp_path / "model.plan", record(**changes))
    error = caught.value
    assert (error.code, error.exit_code) == ("ENG115", 7)
    assert error.what == f"the engine needs the plugin {named}"
    assert error.where == str(tmp_path / "model.plan")
    assert error.why.startswith(why)
    assert "build it again: trtforge build RECIPE" in error.next


@pytest.mark.parametrize(
    ("sm", "files", "why"),
    [
        ("9.0", ["res2.sm80.cubin", "res2.sm86.cubin"], "the GPU is SM 9.0; kernels are here for 8.0, 8.6"),
        ("8.0", ["res2.sm86.cubin"], "the GPU is SM 8.0; kernels are here for 8.6"),
        ("8.7", ["res2.sm80.cubin"], "the GPU is SM 8.7; kernels are here for 8.0"),
        ("8.0", [], "the GPU is SM 8.0; kernels are here for none at all"),
        ("8.6", ["res2.sm80.cubin"], ""),
    ],
)
def test_kernels_for_another_gpu_are_refused_before_the_engine_is_read(
    sm: str, files: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine with a driver and a GPU ``sm``, of which cuda-core tells the compute capability."""

    device = SimpleNamespace(compute_capability=tuple(map(int, sm.split("."))))
    core = SimpleNamespace(Device=lambda number: device)

    class Read(Exception):
        """The session came as far as TensorRT-RTX."""

    def tensorrt_rtx() -> None:
        raise Read

    monkeypatch.setattr(environment, "driver_problem", lambda: "")
    monkeypatch.setattr(shared, "cuda_core", lambda: core)
    monkeypatch.setattr(session, "_tensorrt_rtx", tensorrt_rtx)
    for name in files:
        (tmp_path / name).write_bytes(b"\x7fELF")
    with pytest.raises(ForeignGpu if why else Read) as caught:
        RtxSession(tmp_path / "model.plan", record())
    if isinstance(error := caught.value, ForeignGpu):
        assert (error.code, error.exit_code) == ("ENG206", 7)
        assert error.what == "the kernels of the plugin Res2Int8 do not run on this GPU"
        assert (error.where, error.why) == (str(tmp_path / "model.plan"), why)
        assert error.next.endswith("from the recipe of this device's target: trtforge build RECIPE")


def test_an_engine_of_this_trtforge_passes(tmp_path: Path) -> None:
    assert list(shared.needed(record(), tmp_path)) == ["Res2Int8"]
    assert shared.needed({}, tmp_path) == {}  # built before there were plugins
    if environment.driver_problem():
        with pytest.raises(NoGpu):
            RtxSession(tmp_path / "model.plan", record())
