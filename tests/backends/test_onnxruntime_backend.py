"""The onnxruntime backend from the outside: compile, load, run, refuse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.backends.onnxruntime_ import backend as backend_module
from trtforge.backends.onnxruntime_.backend import ENGINE_FILE, OnnxruntimeBackend
from trtforge.backends.onnxruntime_.forms import EXACT, candidates
from trtforge.backends.onnxruntime_.selfcheck import SelfCheck
from trtforge.errors.backend import BadThreads, PrecisionNotOffered, RuntimeRefusedGraph, ScalesNeeded
from trtforge.errors.engine import ReportIncomplete, SessionRefused, WrongCpu, WrongFeed
from trtforge.graph.io import load as load_model
from trtforge.graph.model import Model
from trtforge.targets.host import HostFacts, host_facts

AVX2 = HostFacts(model="old CPU", vendor="test", machine="x86_64", cores=1, isa=("avx", "avx2"))
VNNI = replace(AVX2, model="new CPU", isa=("avx", "avx2", "avx512_vnni"))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float((a * b).sum() / np.sqrt((a * a).sum() * (b * b).sum()))


def outputs(session, samples):
    return [session.run(sample.inputs)["logits"] for sample in samples]


@pytest.fixture
def engine_backend() -> OnnxruntimeBackend:
    return OnnxruntimeBackend()


def test_int8_engine_is_close_to_fp32_on_samples_not_calibrated_on(engine_backend, residual, tmp_path):
    int8 = engine_backend.compile(residual.request(tmp_path / "int8"))
    fp32 = engine_backend.compile(residual.request(tmp_path / "fp32", precision="fp32"))
    assert fp32.report["session"]["config"] == EXACT.config  # no integer kernels for Q/DQ the model may have had
    held_out = residual.samples[4:]
    sessions = [engine_backend.load(Path(result.files[ENGINE_FILE]).parent, result.report) for result in (int8, fp32)]
    found, expected = (outputs(session, held_out) for session in sessions)
    assert min(cosine(a, b) for a, b in zip(found, expected, strict=True)) > 0.99
    assert max(np.abs(a - b).max() for a, b in zip(found, expected, strict=True)) > 0  # it is not the float model


def test_report_says_what_was_chosen_and_why(engine_backend, residual, tmp_path):
    report = engine_backend.compile(residual.request(tmp_path)).report
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["form"]["name"]
    assert report["quantization"]["quantized"]["conv"] == 9
    check = report["self_check"]
    assert check["probes"] == [sample.id for sample in residual.samples[:4]]
    assert check["forms"]
    assert all(form["right"] or form["why"] for form in check["forms"])
    assert report["cpu"]["isa"] == list(host_facts().isa)


def test_result_describes_the_engine(engine_backend, residual, tmp_path):
    result = engine_backend.compile(residual.request(tmp_path))
    assert [(spec.name, spec.shape, spec.dtype) for spec in result.inputs] == [("x", (1, 3, 32, 32), "float32")]
    assert [(spec.name, spec.shape, spec.dtype) for spec in result.outputs] == [("logits", (1, 10), "float32")]
    assert list(result.files) == [ENGINE_FILE]
    onnx.checker.check_model(str(result.files[ENGINE_FILE]), full_check=True)


def test_same_form_same_bytes(engine_backend, residual, tmp_path, monkeypatch):
    monkeypatch.setattr(SelfCheck, "speedup", lambda self, model, config: 2.0)
    first, second = (engine_backend.compile(residual.request(tmp_path / name)) for name in ("a", "b"))
    assert first.files[ENGINE_FILE].read_bytes() == second.files[ENGINE_FILE].read_bytes()


@pytest.mark.parametrize("cpu", [AVX2, VNNI], ids=["avx2", "vnni"])
def test_a_form_for_vnni_is_refused_without(engine_backend, residual, tmp_path, monkeypatch, cpu):
    monkeypatch.setattr(SelfCheck, "speedup", lambda self, model, config: 2.0)
    monkeypatch.setattr(backend_module, "host_facts", lambda: cpu)
    result = engine_backend.compile(residual.request(tmp_path))
    folder = result.files[ENGINE_FILE].parent
    monkeypatch.setattr(backend_module, "host_facts", lambda: AVX2)
    if cpu is AVX2:
        assert result.report["isa"] == []
        engine_backend.load(folder, result.report)
        return
    assert result.report["isa"] == ["avx512_vnni"]
    with pytest.raises(WrongCpu) as caught:
        engine_backend.load(folder, result.report)
    assert "old CPU" in caught.value.why
    assert "trtforge build" in caught.value.next


def test_an_engine_of_an_arm_machine_is_refused_where_its_kernels_would_saturate(engine_backend, tmp_path, monkeypatch):
    arm = HostFacts(model="Neoverse", vendor="ARM", machine="aarch64", cores=1, isa=("asimd", "asimddp"))
    report = {"session": {"config": {}}, "form": candidates(arm)[0].to_json()}
    monkeypatch.setattr("trtforge.backends.onnxruntime_.backend.host_facts", lambda: AVX2)
    with pytest.raises(WrongCpu, match="wrong answers"):
        engine_backend.load(tmp_path, report)


def test_without_probes_the_engine_is_the_exact_simulation(engine_backend, residual, tmp_path):
    result = engine_backend.compile(residual.request(tmp_path, probes=0))
    assert result.report["form"]["name"] == "exact"
    assert result.report["session"]["config"] == {"session.disable_quant_qdq": "1"}
    assert result.report["self_check"] is None


def test_a_batch_larger_than_one(engine_backend, make_net, tmp_path):
    net = make_net("residual", batch=3)
    result = engine_backend.compile(net.request(tmp_path))
    session = engine_backend.load(result.files[ENGINE_FILE].parent, result.report)
    batch = np.concatenate([sample.inputs["x"] for sample in net.samples[:3]])
    assert session.run({"x": batch})["logits"].shape == (3, 10)


def test_external_weights_come_along(engine_backend, residual, tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(residual.model.proto)  # saving moves the weights out of the proto it is given
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=64)
    model = load_model(tmp_path / "m.onnx")
    expected = None
    for precision in ("fp32", "int8"):
        request = replace(residual.request(tmp_path / precision, precision=precision), model=model)
        result = engine_backend.compile(request)
        copied = tmp_path / f"{precision}-copy"
        copied.mkdir()
        for name, path in result.files.items():
            (copied / name).write_bytes(path.read_bytes())
        found = outputs(engine_backend.load(copied, result.report), residual.samples[:1])[0]
        expected = found if expected is None else expected
        assert cosine(found, expected) > 0.99
        assert (len(result.files) > 1) == (precision == "fp32")


def test_fp16_is_refused(engine_backend, residual, tmp_path):
    with pytest.raises(PrecisionNotOffered) as caught:
        engine_backend.compile(residual.request(tmp_path, precision="fp16"))
    assert caught.value.code == "BLD101"
    assert "precision: fp32" in caught.value.next


def test_int8_without_scales_is_refused(engine_backend, residual, tmp_path):
    with pytest.raises(ScalesNeeded, match="no scales"):
        engine_backend.compile(replace(residual.request(tmp_path), scales=None))


def test_a_graph_onnxruntime_lacks_an_operator_for(engine_backend, residual, tmp_path):
    proto = onnx.ModelProto()
    proto.CopyFrom(residual.model.proto)
    proto.opset_import.add(domain="acme", version=1)
    proto.graph.node[1].op_type, proto.graph.node[1].domain = "Frobnicate", "acme"
    with pytest.raises(RuntimeRefusedGraph) as caught:
        engine_backend.compile(replace(residual.request(tmp_path, precision="fp32"), model=Model(proto)))
    assert "Frobnicate" in caught.value.why


def test_load_needs_the_report_and_a_whole_file(engine_backend, residual, tmp_path):
    result = engine_backend.compile(residual.request(tmp_path, precision="fp32"))
    folder = result.files[ENGINE_FILE].parent
    with pytest.raises(ReportIncomplete):
        engine_backend.load(folder, {})
    (folder / ENGINE_FILE).write_bytes(result.files[ENGINE_FILE].read_bytes()[:1000])
    with pytest.raises(SessionRefused) as caught:
        engine_backend.load(folder, result.report)
    assert caught.value.code == "ENG301"
    assert "\n" not in caught.value.why
    (folder / ENGINE_FILE).unlink()
    with pytest.raises(SessionRefused):
        engine_backend.load(folder, result.report)


@pytest.mark.parametrize(
    ("feeds", "word"),
    [
        ({}, "'x' is not given"),
        ({"y": np.zeros((1, 3, 32, 32), np.float32)}, "no input 'y'"),
        ({"x": np.zeros((1, 3, 32, 32), np.float64)}, "float64 [1, 3, 32, 32]"),
        ({"x": np.zeros((2, 3, 32, 32), np.float32)}, "float32 [2, 3, 32, 32]"),
        ({"x": np.zeros((3, 32, 32), np.float32)}, "float32 [3, 32, 32]"),
    ],
)
def test_arrays_that_do_not_fit_say_what_came_and_what_is_wanted(engine_backend, residual, tmp_path, feeds, word):
    result = engine_backend.compile(residual.request(tmp_path, precision="fp32"))
    session = engine_backend.load(result.files[ENGINE_FILE].parent, result.report)
    with pytest.raises(WrongFeed) as caught:
        session.run(feeds)
    assert word in caught.value.why
    assert "float32 [1, 3, 32, 32]" in caught.value.next


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5", "٣"])
def test_bad_thread_counts(engine_backend, residual, tmp_path, monkeypatch, value):
    monkeypatch.setenv("TRTFORGE_THREADS", value)
    with pytest.raises(BadThreads) as caught:
        engine_backend.compile(residual.request(tmp_path, precision="fp32"))
    assert repr(value) in caught.value.why


def test_availability_and_tool_versions(engine_backend):
    here = engine_backend.availability()
    assert here.can_compile
    assert here.can_run
    assert here.version
    versions = engine_backend.tool_versions()
    assert versions["cpu"].split() == [host_facts().machine, *host_facts().isa]
    assert all(versions.values())


SCRIPT = """
import sys
from pathlib import Path
import onnx
from trtforge.backends.onnxruntime_.session import open_file
path = Path(sys.argv[1])
text = '<ir_version: 9, opset_import: ["" : 17]> g (float[1] x) => (float[1] y) { y = Relu (x) }'
onnx.save(onnx.parser.parse_model(text), path)
import numpy as np
print(open_file(path, {}).run({"x": np.ones(1, np.float32)})["y"])
"""


def test_onnxruntime_leaves_nothing_in_the_home_folder(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("XDG_", "ORT_"))}
    environment |= {"HOME": str(home), "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path / "m.onnx")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "[1.]", done.stderr
    assert list(home.rglob("*")) == []
