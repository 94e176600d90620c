"""What a build says of lint, and which findings end it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

DLA = (("target: host", "target: orin-agx-64gb/dla"), ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'))


def told(text: str) -> str:
    (line,) = [line for line in text.splitlines() if line.startswith("warning: net: lint finds")]
    return line


def test_a_kit_that_must_fail_is_said_and_the_command_shows_why(workshop: Any) -> None:
    workshop.bend("dla", *DLA)
    off = ("--set", "engines.net.dla.gpu_fallback=false")
    kit = workshop.forge("build", "recipes/dla.yaml", "--kit", *off)
    assert kit.code == 0  # the device has the last word
    said, command = told(kit.err).split("; see: ")
    assert "errors (DLA" in said and "fails or is wrong on its target" in said
    shown = workshop.forge(*shlex.split(command)[1:])
    assert shown.code == 11 and "DLA104" in shown.out and "fails the build" in shown.out
    calm = workshop.forge("build", "recipes/dla.yaml", "--kit")
    assert calm.code == 0 and "fails or is wrong" not in calm.err


def test_a_bound_on_the_calibration_samples_is_said(workshop: Any) -> None:
    once = workshop.forge("build", "recipes/host.yaml", "--set", "engines.net.verify.set=../data/cal.yaml")
    assert once.code == 0, once.err
    assert "1 warning (QNT104)" in told(once.err)
    assert "lint" not in workshop.forge("build", "recipes/host.yaml").err


def change_the_type(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    cast = onnx.helper.make_node("Cast", ["x"], ["xf"], name="cast", to=onnx.TensorProto.FLOAT)
    model.graph.node[0].input[0] = "xf"
    model.graph.node.insert(0, cast)


def change_an_operator(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type, model.graph.node[1].domain = "Swirl", "acme"
    model.opset_import.append(onnx.helper.make_opsetid("acme", 1))


@pytest.mark.parametrize(
    ("change", "code", "where", "fix"),
    [
        (change_the_type, "GRF105", "inputs.x.dtype: it is float32, the model takes uint8", "write dtype: uint8"),
        (change_an_operator, "GRF110", "Swirl `relu0`: `acme::Swirl` is no operator of ONNX", "ONNX's own operators"),
    ],
)
@pytest.mark.parametrize("command", ["build", "calibrate"])
def test_what_no_device_overrules_ends_it_with_the_words_of_lint(
    workshop: Any, command: str, change: Callable[[onnx.ModelProto], None], code: str, where: str, fix: str
) -> None:
    path = workshop.root / "models/net.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    done = workshop.forge(command, "recipes/host.yaml", "--json")
    error = done.json["error"]
    assert done.code == 11 and error["code"] == "LNT101"
    assert error["what"].startswith(where) and fix in error["next"]
    assert f"trtforge explain {code}" in error["why"]
    assert not (workshop.root / "engines/host/net").exists()


def test_an_operator_that_only_the_device_has_to_know_is_said_and_the_kit_written(workshop: Any) -> None:
    """Somebody's own plugin, in the device's library or given to trtexec: it may be there."""
    path = workshop.root / "models/net.onnx"
    model = onnx.load(path)
    change_an_operator(model)
    onnx.save(model, path)
    workshop.bend("gpu", ("target: host", "target: orin-agx-64gb/gpu"), DLA[1])
    alone = ("--set", "engines.net.precision=fp16", "--set", "engines.net.verify=null")
    done = workshop.forge("build", "recipes/gpu.yaml", "--kit", *alone)
    assert done.code == 0, done.err
    assert "(GRF110)" in told(done.err)
    assert workshop.forge("build", "recipes/gpu.yaml", "--kit", "--set", alone[1]).code == 11  # onnxruntime verifies


@pytest.mark.parametrize("target", ["host", "orin-agx-64gb/dla"])
@pytest.mark.parametrize("command", ["build", "calibrate", "lint"])
def test_a_model_in_int8_already_is_refused_before_it_is_calibrated(workshop: Any, command: str, target: str) -> None:
    """A cache of what it computes would name tensors that no float model has."""
    pairs = Path(__file__).parents[1] / "scales" / "quantized" / "conv_net.modelopt.onnx"
    (workshop.root / "models/net.onnx").write_bytes(pairs.read_bytes())
    workshop.bend("other", *(DLA if target != "host" else ()))
    done = workshop.forge(command, "recipes/other.yaml", "--set", "engines.net.verify=null")
    if command == "lint":
        assert done.code == 11 and "QNT109" in done.out
    else:
        assert "error[CAL232]: the model is quantized already" in done.err
        assert not list(workshop.root.rglob("*.scales.json"))
