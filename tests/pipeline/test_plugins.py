"""Plugins from a recipe to an engine: found, calibrated around, compiled in for a GPU that is not here, recorded."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

RECIPE = """\
target: a100-sxm-80gb
backend: tensorrt_rtx
engines:
  volume:
    model: {onnx: ../models/volume.onnx}
    inputs: {x: {shape: [1, 1, 8, 8, 8]}}
    surgery: [infer-shapes, pixel-shuffle-3d, instance-norm-relu, conv3d-small]
    precision: int8
    calibration: {set: ../data/volumes.yaml}
    verify: {set: ../data/held_volumes.yaml, metric: cosine, at_least: 0.98}
"""


@pytest.fixture
def hospital(workshop: Any) -> Any:
    """The workshop with a small volume network: convolutions, normalization, up again, concatenation, scores."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = {
        "w0": rng.normal(0, 0.3, (32, 1, 3, 3, 3)),
        "one": np.ones(32),
        "none": np.zeros(32),
        "w1": rng.normal(0, 0.05, (32, 32, 3, 3, 3)),
        "up": rng.normal(0, 0.2, (32, 32, 2, 2, 2)),
        "w2": rng.normal(0, 0.1, (3, 64, 1, 1, 1)),
        "b2": rng.normal(0, 0.1, 3),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["c0"], name="first", pads=[1] * 6),
        helper.make_node("InstanceNormalization", ["c0", "one", "none"], ["n0"], name="norm0"),
        helper.make_node("Relu", ["n0"], ["r0"]),
        helper.make_node("Conv", ["r0", "w1"], ["c1"], name="down", pads=[1] * 6, strides=[2] * 3),
        helper.make_node("InstanceNormalization", ["c1", "one", "none"], ["n1"], name="norm1"),
        helper.make_node("Relu", ["n1"], ["r1"]),
        helper.make_node("ConvTranspose", ["r1", "up"], ["u"], name="up", strides=[2] * 3, kernel_shape=[2] * 3),
        helper.make_node("Concat", ["u", "r0"], ["joined"], axis=1),
        helper.make_node("Conv", ["joined", "w2", "b2"], ["y"], name="last"),
    ]
    graph = helper.make_graph(
        nodes,
        "volume",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 1, "d", "h", "w"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(proto, workshop.root / "models" / "volume.onnx")
    for name, numbers in (("volumes", range(4)), ("held_volumes", range(4, 6))):
        for number in numbers:
            volume = rng.normal(0, 1, (1, 8, 8, 8)).astype(np.float32)
            np.save(workshop.root / "data" / f"volume{number}.npy", volume)
        listed = "".join(f"  - volume{number}.npy\n" for number in numbers)
        (workshop.root / "data" / f"{name}.yaml").write_text("samples:\n" + listed)
    workshop.recipe("volume", RECIPE)
    return workshop


def built(hospital: Any, *arguments: str) -> tuple[dict[str, Any], dict[str, Any]]:
    (engine,) = hospital.build(*arguments, recipe="volume")["engines"]
    return engine, json.loads((hospital.root / engine["path"] / "manifest.json").read_text())


@pytest.mark.rtx
def test_an_engine_with_plugins_is_built_and_says_which(hospital: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    engine, manifest = built(hospital)
    assert engine["parity"]["passed"] is True  # of the graph with the plugins as functions
    nodes = {one["name"]: len(one["nodes"]) for one in manifest["plugins"]}
    expected = {
        "InstanceNormReluInt8": 2,
        "PixelShuffle3dConcatInt8": 1,
        "Conv3dSmallInt8": 1,
        "Conv3dSmallInt8ToFloat": 1,
    }
    assert nodes == expected
    assert all(one["source"] and one["version"] == "1" for one in manifest["plugins"])
    kernels = {one["kernels"] for one in manifest["plugins"]}
    assert {f"{name}.sm80.cubin" for name in kernels} <= set(manifest["files"])
    assert manifest["report"]["int8_convolutions"] == 2  # `down`, and `up` as a convolution
    again, _ = built(hospital)
    assert again["status"] == "up-to-date"
    shown = hospital.forge("inspect", "engines/volume/volume")
    assert "2 trtforge::InstanceNormReluInt8" in shown.out


@pytest.mark.rtx
def test_an_fp16_engine_has_the_plugins_with_float16_kernels(hospital: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    engine, manifest = built(hospital, "--set", "engines.volume.precision=fp16")
    assert engine["parity"]["passed"] is True
    nodes = {one["name"]: len(one["nodes"]) for one in manifest["plugins"]}
    assert nodes == {"InstanceNormRelu": 2, "PixelShuffle3dConcat": 1}
    assert manifest["report"]["fp16"]["float_nodes"] == []
    refused = [match for match in manifest["report"]["surgery"]["matches"] if match["plugin"] == "conv3d-small"]
    assert {match["lowering"] for match in refused} == {"plain"}


@pytest.mark.rtx
def test_an_engine_whose_plugin_is_another_one_here_is_refused(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    from trtforge.backends.tensorrt_rtx_.backend import TensorRTRtxBackend
    from trtforge.errors.engine import PluginNotHere
    from trtforge.kernels.plugin import PluginKind

    engine, manifest = built(hospital)
    monkeypatch.setattr(PluginKind, "source_digest", lambda self: "0" * 64)
    with pytest.raises(PluginNotHere) as caught:
        TensorRTRtxBackend().load(hospital.root / engine["path"], manifest["report"])
    assert "here it is 000000000000" in caught.value.why


@pytest.mark.rtx
def test_the_plain_graph_where_the_recipe_says_so(hospital: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    plain = ["--set", "engines.volume.plugins.instance-norm-relu=[plain]"]
    _, manifest = built(hospital, *plain)
    assert "InstanceNormReluInt8" not in {one["name"] for one in manifest["plugins"]}


def test_what_the_recipe_allows_and_nothing_serves_is_an_error_at_its_line(hospital: Any) -> None:
    failed = hospital.build("--set", "engines.volume.plugins.instance-norm-relu=[stock]", recipe="volume", code=4)
    error = failed["error"]
    assert error["code"] == "ONX119"
    assert "instance-norm-relu" in error["what"]
    assert "InstanceNormalization_TRT" in error["why"]


@pytest.fixture
def twins(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The hospital with a second plugin for normalizations, under the name of res2, which its network has none of."""
    from trtforge import plugins

    norm = plugins.ops()["instance-norm-relu"]
    twin = type("Twin", (type(norm),), {"__doc__": norm.__doc__, "name": "res2"})()
    monkeypatch.setitem(plugins.ops(), "res2", twin)
    text = RECIPE.replace("conv3d-small]", "conv3d-small, res2]")
    hospital.recipe("volume", text)
    hospital.recipe("orin", text.replace("a100-sxm-80gb", "orin-agx-64gb/gpu").replace(
        "backend: tensorrt_rtx", 'backend: tensorrt\ntensorrt: "8.6"'
    ))  # fmt: skip
    return hospital


@pytest.mark.parametrize("command", ["build", "surgery"])
def test_two_plugins_for_one_node_are_an_error_at_the_recipes_line(twins: Any, command: str) -> None:
    failed = twins.forge(command, "recipes/orin.yaml", "--json")
    assert failed.code == 4
    error = failed.json["error"]
    assert error["code"] == "ONX120"
    assert error["what"] == "two plugins claim the node that makes 'n0'"
    assert error["where"] == "recipes/orin.yaml:8:14"
    assert error["why"] == "instance-norm-relu at 'norm0' and res2 at 'norm0' both replace it"
    assert error["next"] == "remove one of them from `surgery`, or write `plugins: {res2: [plain]}`"


@pytest.mark.parametrize("left", ["res2", "instance-norm-relu"])
def test_what_the_error_advises_gives_the_nodes_to_the_other(twins: Any, left: str) -> None:
    done = twins.forge("surgery", "recipes/orin.yaml", "--json", "--set", f"engines.volume.plugins.{left}=[plain]")
    assert done.code == 0, done.err
    matches = [
        match
        for match in done.json["engines"][0]["plugins"]["matches"]
        if match["plugin"] in ("res2", "instance-norm-relu")
    ]
    assert {(match["plugin"] == left, match["lowering"]) for match in matches} == {(True, "plain"), (False, "stock")}
    assert sorted(match["at"] for match in matches) == ["norm0", "norm0", "norm1", "norm1"]


@pytest.mark.rtx
def test_two_plugins_for_one_node_and_the_compiler(twins: Any) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    assert twins.build(recipe="volume", code=4)["error"]["code"] == "ONX120"
    _, manifest = built(twins, "--set", "engines.volume.plugins.res2=[plain]")
    assert {one["name"]: len(one["nodes"]) for one in manifest["plugins"]}["InstanceNormReluInt8"] == 2
    owners = {match["plugin"]: match["lowering"] for match in manifest["report"]["surgery"]["matches"]}
    assert (owners["instance-norm-relu"], owners["res2"]) == ("trtforge", "plain")


def test_the_host_runs_the_graph_as_it_is(hospital: Any) -> None:
    text = RECIPE.replace("a100-sxm-80gb", "host").replace("tensorrt_rtx", "onnxruntime")
    hospital.recipe("here", text)
    (engine,) = hospital.build(recipe="here")["engines"]
    assert engine["parity"]["passed"] is True
    manifest = json.loads((hospital.root / engine["path"] / "manifest.json").read_text())
    assert manifest["plugins"] == []


def test_functions_are_written_out_for_onnxruntime(hospital: Any) -> None:
    import onnxruntime

    done = hospital.forge("surgery", "recipes/volume.yaml", "--out", "functions.onnx", "--json")
    assert done.code == 0, done.err
    path = str(hospital.root / "functions.onnx")
    volume = np.load(hospital.root / "data" / "volume0.npy")[None]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    (got,) = onnxruntime.InferenceSession(path, options).run(None, {"x": volume})
    (expected,) = onnxruntime.InferenceSession(str(hospital.root / "models" / "volume.onnx"), options).run(
        None, {"x": volume}
    )
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.rtx
def test_a_kit_with_plugins_is_finished_like_a_build(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit brings the kernels' sources and binaries; a machine without NVRTC takes the binaries."""
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    from trtforge.engines.kit import read_kit
    from trtforge.errors.environment import MissingPackage
    from trtforge.kernels import cubins

    _, direct = built(hospital)
    assert hospital.forge("build", "recipes/volume.yaml", "--out", "volume.kit.tar.zst").code == 0
    members = set(read_kit(hospital.root / "volume.kit.tar.zst").info.members)
    assert {
        "plugins/instance_norm_relu/kernel.cu",
        "plugins/instance_norm_relu/instance_norm_relu.sm80.cubin",
    } <= members

    def lacking(kernels: Any) -> Any:
        raise MissingPackage("no NVRTC")

    with monkeypatch.context() as device:
        device.setattr(cubins, "_Nvrtc", lacking)
        device.setenv("TRTFORGE_CACHE", str(hospital.root / "other"))
        done = hospital.forge("finish", "volume.kit.tar.zst", "--store", "finished")
    assert done.code == 0, done.err
    finished = json.loads((hospital.root / "finished/volume/1/manifest.json").read_text())
    assert finished["plugins"] == direct["plugins"] and finished["key"] == direct["key"]
    assert finished["parity"] == direct["parity"]


@pytest.mark.rtx
def test_a_kit_with_other_kernels_is_refused(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    assert hospital.forge("build", "recipes/volume.yaml", "--out", "volume.kit.tar.zst").code == 0
    monkeypatch.setattr("trtforge.pipeline.finish.sha256_file", lambda path: "0" * 64)
    done = hospital.forge("finish", "volume.kit.tar.zst", "--json")
    assert (done.code, done.json["error"]["code"]) == (7, "ENG115")


ORIN = RECIPE.replace("a100-sxm-80gb", "orin-agx-64gb/gpu").replace("tensorrt_rtx", 'tensorrt\ntensorrt: "10.3"')
COMPILER = """
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def emit(**event): print(json.dumps(event), file=events)
Path(os.environ["SEEN"]).write_text(json.dumps(job))
Path(os.environ["SEEN"] + ".onnx").write_bytes(Path(job["onnx"]).read_bytes())
Path(job["plan"]).write_bytes(b"ftrt" + bytes(20) + bytes([10, 3, 0, 26]) + bytes(100))
Path(job["options"]["inspect"]).write_text('{"Layers": []}')
def tensor(mode, shape): return {"mode": mode, "dtype": "FLOAT", "format": "linear", "shape": shape}
tensors = {"x": tensor("input", [1, 1, 8, 8, 8]), "y": tensor("output", [1, 3, 8, 8, 8])}
if job["options"]["timing_cache"]: Path(job["options"]["timing_cache"]).write_bytes(b"times")
engine = {"layers": 9, "hardware_compatibility": "none", "device_memory": 64, "tensors": tensors, "devices": {}}
emit(event="done", version="10.3.0.26", parse_seconds=0, build_seconds=0, inputs=[], outputs=[], engine=engine,
     placement=[], calibration=None)
"""


def test_a_device_with_tensorrt_10_gets_ours_too(hospital: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kit has our kernels for its GPU and nothing for trtexec; finished, the engine names and keeps them.

    The compiler's process is a stand-in; tests/native holds the real one's code to NVIDIA's bindings.
    """
    import onnx

    from trtforge.backends.nvidia import process
    from trtforge.backends.tensorrt_ import environment, registry
    from trtforge.engines import machine
    from trtforge.engines.kit import read_kit

    hospital.recipe("orin", ORIN)
    assert hospital.forge("build", "recipes/orin.yaml").code == 10
    kit = read_kit(hospital.root / "engines/orin/volume.kit.tar.zst").info
    assert "plugins/conv3d_small/conv3d_small.sm87.cubin" in kit.members
    assert kit.facts["on_device"] == "" and "model.onnx" not in kit.members
    assert {match["lowering"] for match in kit.facts["plan"]["matches"]} == {"trtforge", "stock"}

    (hospital.root / "stand_in.py").write_text(COMPILER)
    monkeypatch.setenv("PYTHONPATH", str(hospital.root))
    monkeypatch.setenv("SEEN", str(hospital.root / "seen"))
    monkeypatch.setattr(process, "_CHILD", "stand_in")
    monkeypatch.setattr(environment, "problem", lambda: ("", ""))
    monkeypatch.setattr(environment, "version", lambda: "10.3.0.26")
    monkeypatch.setattr(registry, "creators", frozenset)
    monkeypatch.setattr(machine, "compute_capability", lambda: "8.7")
    done = hospital.forge("build", "recipes/orin.yaml", "--set", "engines.volume.verify=null", "--store", "made")
    assert done.code == 0, done.err
    job = json.loads((hospital.root / "seen").read_text())
    assert job["options"]["precision"] == "typed" and job["options"]["calibration"] is None
    assert {"PixelShuffle3dConcatInt8", "InstanceNormReluInt8"} <= set(job["plugins"])
    given = onnx.load(str(hospital.root / "seen.onnx"))
    assert "QuantizeLinear" in {node.op_type for node in given.graph.node}
    assert {node.op_type for node in given.graph.node if node.domain == "trtforge"} == set(job["plugins"])
    folder = hospital.root / "made/volume/1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert {record["name"] for record in manifest["plugins"]} == set(job["plugins"])
    assert (folder / "conv3d_small.sm87.cubin").exists()
