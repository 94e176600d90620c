"""Where only the device can compile: a kit for it; and plans compiled ahead of time for a GPU that is not here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trtforge.engines.kit import read_kit

ORIN = (("target: host", "target: orin-agx-64gb/gpu"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))
DLA = (("target: host", "target: orin-agx-64gb/dla"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))

FINISHED = {"graph.onnx", "recipe.json", "samples.json", "samples.bin", "trtforge.lock"}
"""What `trtforge finish` takes, whatever the backend; the rest is for trtexec."""


def engine(result: dict[str, Any]) -> dict[str, Any]:
    (only,) = result["engines"]
    return dict(only)


# -- kits --------------------------------------------------------------------------------------------------


def test_a_kit_holds_what_the_device_needs(workshop) -> None:
    import onnx

    from trtforge.scales.codecs.trt_cache import CalibrationCache
    from trtforge.scales.table import ScaleTable

    workshop.bend("orin", *ORIN)
    done = workshop.forge("build", "recipes/orin.yaml", "--json")
    assert done.code == 10
    (row,) = done.json["engines"]
    assert (row["status"], row["version"]) == ("kit", None)
    assert row["parity"]["passed"] is True
    assert "error[KIT101]" in done.err
    assert "trtexec" in done.err
    kit = read_kit(Path(row["path"])).info
    assert (kit.engine, kit.target, kit.backend, kit.key) == ("net", "orin-agx-64gb/gpu", "tensorrt", row["key"])
    folder = workshop.root / "unpacked"
    read_kit(Path(row["path"]), into=folder)
    assert set(workshop.files(folder)) == set(kit.members)
    assert set(kit.members) == {*FINISHED, "model.onnx", "scales.json", "minmax.cache", "entropy2.cache"}
    model = onnx.load(folder / "model.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    assert [node.op_type for node in model.graph.node if "Quantize" in node.op_type] == []
    assert (folder / "minmax.cache").read_text().splitlines()[0] == "TRT-8602-MinMaxCalibration"
    assert (folder / "entropy2.cache").read_text().splitlines()[0] == "TRT-8602-EntropyCalibration2"
    scales = {name: entry.scale for name, entry in ScaleTable.load(folder / "scales.json").ranges.items()}
    read = CalibrationCache.load(folder / "minmax.cache").to_table()
    assert {name: entry.scale for name, entry in read.ranges.items()} == scales
    recipe = json.loads((folder / "recipe.json").read_text())
    assert recipe["target"] == "orin-agx-64gb/gpu"
    assert str(workshop.root) not in json.dumps([recipe, kit.to_json()])
    locked = json.loads((folder / "trtforge.lock").read_text())["recipes"]["orin.yaml"]
    assert locked == json.loads((workshop.root / "recipes/trtforge.lock").read_text())["recipes"]["orin.yaml"]
    samples = json.loads((folder / "samples.json").read_text())
    assert [entry["id"] for entry in samples["verify"]] == ["6.npy", "7.npy", "8.npy"]
    assert samples["probes"] == [] and samples["total"] == 3  # only onnxruntime checks itself by probes


def test_the_dla_is_named_in_the_command_that_finishes_a_kit(workshop) -> None:
    workshop.bend("dla", *DLA, ("precision: int8", "precision: int8\n    dla: {core: 1, gpu_fallback: false}"))
    error = workshop.forge("build", "recipes/dla.yaml").err
    assert "--useDLACore=1" in error
    assert "--allowGPUFallback" not in error
    assert "--calib=entropy2.cache" in error


@pytest.mark.parametrize(
    ("said", "header"),
    [
        ("8.6", "TRT-8602"),
        ("8.6.2", "TRT-8602"),
        ("10.3", "TRT-100300"),
        (">=8.5,<10", "TRT-8602"),
        ("~=8.4", "TRT-8602"),
    ],
)
def test_the_cache_names_the_release_on_the_device(workshop, said: str, header: str) -> None:
    workshop.bend("orin", ORIN[0], ("backend: onnxruntime", f'backend: tensorrt\ntensorrt: "{said}"'))
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    folder = workshop.root / "unpacked"
    read_kit(Path("engines/orin/net.kit.tar.zst"), into=folder)
    assert (folder / "minmax.cache").read_text().startswith(f"{header}-MinMaxCalibration\n")


def test_a_kit_for_tensorrt_11_carries_its_ranges_as_nodes(workshop) -> None:
    import onnx

    from trtforge.graph.model import Model
    from trtforge.scales.codecs.qdq import extract
    from trtforge.scales.table import ScaleTable

    workshop.bend("orin", ORIN[0], ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "11.4.1"'))
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    folder = workshop.root / "unpacked"
    kit = read_kit(Path("engines/orin/net.kit.tar.zst"), into=folder).info
    assert set(kit.members) == {*FINISHED, "model.onnx", "model.qdq.onnx", "scales.json"}
    model = onnx.load(folder / "model.qdq.onnx")
    assert [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] == [1, 3, 16, 16]
    _, written = extract(Model(model))
    scales = ScaleTable.load(folder / "scales.json").ranges
    assert "x" in written.ranges
    assert all(entry.scale == scales[name].scale for name, entry in written.ranges.items())
    command = kit.facts["on_device"]
    assert "--onnx=model.qdq.onnx" in command
    assert not {"--int8", "--fp16", "--calib"} & {word.partition("=")[0] for word in command.split()}


def test_a_float_kit_for_tensorrt_11_has_half_precision_in_its_graph(workshop) -> None:
    import onnx

    workshop.bend(
        "orin",
        ORIN[0],
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "11.4.1"'),
        ("precision: int8", "precision: fp16"),
    )
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    folder = workshop.root / "unpacked"
    kit = read_kit(Path("engines/orin/net.kit.tar.zst"), into=folder).info
    assert set(kit.members) == {*FINISHED, "model.onnx", "model.fp16.onnx"}
    weights = {weight.name: weight.data_type for weight in onnx.load(folder / "model.fp16.onnx").graph.initializer}
    assert set(weights.values()) == {onnx.TensorProto.FLOAT16}
    assert "--onnx=model.fp16.onnx" in kit.facts["on_device"]


@pytest.mark.parametrize(
    ("target", "tensorrt", "code", "said"),
    [
        ("orin-agx-64gb/gpu", "", "RCP112", 'add `tensorrt: "11.4.1"`'),
        ("a100-sxm-80gb", "", "RCP112", "dpkg -l"),
        ("orin-agx-64gb/gpu", '\ntensorrt: ">=9,<10"', "RCP113", "10.3.0"),
        ("orin-agx-64gb/gpu", '\ntensorrt: "7.2"', "RCP113", "8.4.0"),
        ("xavier-agx/gpu", '\ntensorrt: "10.3"', "RCP113", "8.5.2 is the last"),
    ],
)
def test_a_kit_needs_to_know_the_release(workshop, target: str, tensorrt: str, code: str, said: str) -> None:
    workshop.bend(
        "orin", ("target: host", f"target: {target}"), ("backend: onnxruntime", f"backend: tensorrt{tensorrt}")
    )
    error = workshop.build(recipe="orin", code=3)["error"]
    assert error["code"] == code
    assert said in error["why"] + error["next"]
    assert not (workshop.cache / "scales").exists()  # said before the work


def test_the_command_that_finishes_it_is_the_one_that_was_given(workshop) -> None:
    """With `--on` behind it: without its options it would build something else."""
    workshop.bend("orin", ("target: host", "target: orin-agx-64gb/gpu"), ("onnxruntime", 'tensorrt\ntensorrt: "8.6"'))
    options = ("--only", "net", "--set", "engines.net.calibration.samples=3", "--store", "my engines", "--no-samples")
    done = workshop.forge("build", "recipes/orin.yaml", *options)
    assert done.code == 10
    command = "trtforge build recipes/orin.yaml --only net --set engines.net.calibration.samples=3"
    assert f"next:  {command} --store 'my engines' --no-samples --on ssh://USER@HOST\n" in done.err


def test_a_second_build_keeps_the_kit(workshop) -> None:
    workshop.bend("orin", *ORIN)
    assert workshop.forge("build", "recipes/orin.yaml").code == 10
    kit = workshop.root / "engines/orin/net.kit.tar.zst"
    before = kit.stat().st_mtime_ns
    again = workshop.forge("build", "recipes/orin.yaml")
    assert again.code == 10
    assert "already there" in again.out
    assert kit.stat().st_mtime_ns == before
    workshop.write_model(seed=1)
    assert "already there" not in workshop.forge("build", "recipes/orin.yaml").out
    assert kit.stat().st_mtime_ns != before


def test_kits_of_the_same_inputs_are_equal(workshop) -> None:
    workshop.bend("orin", *ORIN)
    kit = workshop.root / "engines/orin/net.kit.tar.zst"
    made = []
    for _ in range(2):
        assert workshop.forge("build", "recipes/orin.yaml", "--force").code == 10
        made.append(kit.read_bytes())
    assert made[0] == made[1]


# -- ahead of time, for a GPU that is not here -------------------------------------------------------------


@pytest.mark.rtx
def test_a_plan_for_another_gpu_is_built_checked_and_refused_here(workshop) -> None:
    pytest.importorskip("tensorrt_rtx", reason="extra `rtx`")
    workshop.bend("a100", ("target: host", "target: a100-sxm-80gb"), ("onnxruntime", "tensorrt_rtx"))
    done = engine(workshop.build(recipe="a100"))
    assert done["status"] == "built"
    assert done["parity"]["passed"] is True
    assert "the engine itself has not run" in done["parity"]["measured_on"]
    manifest = json.loads((workshop.root / done["path"] / "manifest.json").read_text())
    assert manifest["target"]["sm"] == "8.0"
    assert manifest["report"]["int8_convolutions"] == 2
    header = workshop.forge("inspect", "engines/a100/net", "--json").json["header"]
    assert (header["kind"], header["compute capabilities"]) == ("tensorrt_rtx", "8.0")
    assert engine(workshop.build(recipe="a100"))["status"] == "up-to-date"
    refused = workshop.forge("run", "engines/a100/net", "data/7.npy", "--json")
    if refused.code:  # on a machine with the right GPU it runs
        assert refused.json["error"]["code"] in ("ENG112", "ENG205", "ENG206")
        assert refused.json["error"]["next"]
