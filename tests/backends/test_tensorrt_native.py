"""The native backend around its compiler's process: what goes in, what comes out, and what is refused.

TensorRT itself cannot be here. Its process is a stand-in that speaks the protocol; tests/native holds the real
process's code to NVIDIA's bindings.
"""

from __future__ import annotations

import json
import struct
import textwrap
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from trtforge.backends.base import CompileRequest
from trtforge.backends.nvidia import process
from trtforge.backends.nvidia.features import documented
from trtforge.backends.tensorrt_ import environment
from trtforge.backends.tensorrt_.backend import NativeTensorRT, build_options, known_features
from trtforge.backends.tensorrt_.calibrate import calibrate
from trtforge.backends.tensorrt_.lower import lower
from trtforge.backends.tensorrt_.session import loaded
from trtforge.digest import sha256_bytes
from trtforge.errors.backend import CompilerRefused, NeedsDevice, PlanNotAsAsked
from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import CannotDeserialize
from trtforge.errors.native import (
    DlaNotHere,
    EngineNotAsAsked,
    NativeCalibrationFailed,
    NotOffered,
    TimingCacheMiss,
)
from trtforge.recipe.models import Builder, Dla, InputSpec, OutputSpec, Quantize, SizeRange
from trtforge.scales.codecs.trt_cache import CalibrationCache

PREAMBLE = """
import json, os, sys
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def emit(**event): print(json.dumps(event), file=events)
def tensor(mode, dtype="FLOAT", format="linear", shape=(1, 3, 16, 16)):
    return {"mode": mode, "dtype": dtype, "format": format, "shape": shape, "location": "device"}
Path(os.environ["SEEN"]).write_text(json.dumps(job))
"""
DONE = """
Path(job["plan"]).write_bytes(PLAN)
options = job["options"]
Path(options["inspect"]).write_text('{"Layers": []}')
engine = {"layers": 3, "profiles": 1, "hardware_compatibility": "none", "device_memory": 64,
          "tensors": {"x": tensor("input", **X), "logits": tensor("output")}, "devices": {"dla": 1, "gpu": 2}}
if options["timing_cache"]: Path(options["timing_cache"]).write_bytes(b"times")
emit(event="done", version=VERSION, parse_seconds=0.1, build_seconds=0.2, inputs=[], outputs=[], engine=engine,
     placement=[{"name": "conv", "kind": "CONVOLUTION", "dla": True}, {"name": "top", "kind": "TOPK", "dla": False}],
     calibration={"from": "cache"})
"""


def plan(version: str) -> bytes:
    return b"ftrt" + struct.pack("<I", 0) + bytes(16) + bytes(int(part) for part in version.split(".")) + bytes(100)


@pytest.fixture
def device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A machine that has TensorRT, as far as this process can see: ``device("10.3.0.26", body)``."""

    def device(version: str = "10.3.0.26", body: str = DONE, x: dict[str, Any] | None = None, header: str = "") -> Any:
        monkeypatch.setattr(environment, "problem", lambda: ("", ""))
        monkeypatch.setattr(environment, "version", lambda: version)
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        monkeypatch.setenv("SEEN", str(tmp_path / "seen.json"))
        monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(process, "_CHILD", "stand_in")
        facts = f"PLAN = {plan(header or version)!r}\nVERSION = {version!r}\nX = {x or {}!r}\n"
        (tmp_path / "stand_in.py").write_text(PREAMBLE + facts + textwrap.dedent(body))
        return lambda: json.loads((tmp_path / "seen.json").read_text())

    return device


class Test_options:
    def of(self, request: CompileRequest, folder: Path, release: str = "10.3.0") -> Any:
        known = documented(release)
        return build_options(request, lower(request, known, release), known, folder)

    def test_of_a_dla(self, asked: Any, device: Any, tmp_path: Path) -> None:
        device()
        said = Dla(core=1, sram="512KiB", local_dram="2GiB", gpu_fallback=False, standalone=True)
        shape = asked("a30").engine.inputs["x"].shape
        inputs = {"x": InputSpec(shape=shape, dtype="int8", format="dla_hwc4")}
        outputs = {"y": OutputSpec(dtype="int8", format="chw32")}
        request = asked("orin-agx-64gb/dla", dla=said, inputs=inputs, outputs=outputs, quantize=Quantize(skip=("c",)))
        options = self.of(request, tmp_path)
        assert (options.dla.core, options.dla.sram, options.dla.local_dram) == (1, 512 << 10, 2 << 30)
        assert options.dla.global_dram is None and options.dla.standalone and not options.dla.gpu_fallback
        assert (options.inputs["x"].dtype, options.inputs["x"].format) == ("int8", "dla_hwc4")
        assert options.outputs["y"].format == "chw32" and options.outputs["logits"].format == "linear"
        assert options.float_layers == ("c",)
        cache = CalibrationCache.load(Path(options.calibration["cache"]))
        assert options.calibration["algorithm"] == cache.algorithm == "EntropyCalibration2"

    def test_a_dla_has_its_defaults(self, asked: Any, device: Any, tmp_path: Path) -> None:
        device()
        dla = self.of(asked("orin-agx-64gb/dla"), tmp_path).dla
        assert (dla.core, dla.sram, dla.gpu_fallback) == (0, 1 << 20, True)

    def test_of_the_builder(self, asked: Any, device: Any, tmp_path: Path) -> None:
        device()
        said = Builder(optimization_level=5, direct_io=True, version_compatible=True, timing_cache=False)
        options = self.of(asked("a30", builder=said), tmp_path)
        assert options.optimization_level == 5 and options.direct_io and options.version_compatible
        assert options.timing_cache is None and options.dla is None
        assert not self.of(asked("a30"), tmp_path).timing_locked
        assert self.of(replace(asked("a30"), timing=tmp_path / "pinned"), tmp_path).timing_locked
        without = self.of(replace(asked("a30", builder=said), timing=tmp_path / "pinned"), tmp_path)
        assert without.timing_cache is None and not without.timing_locked

    def test_they_travel_as_json(self, asked: Any, device: Any, tmp_path: Path) -> None:
        device()
        from trtforge.backends.nvidia.options import Options

        shape = asked("a30").engine.inputs["x"].shape
        ranged = InputSpec(shape=shape, range=SizeRange(min=shape, max=(8, *shape[1:])))
        options = self.of(asked("a30", inputs={"x": ranged}, quantize=Quantize(skip=("c",))), tmp_path)
        assert options.inputs["x"].shapes == (shape, shape, (8, *shape[1:]))
        assert Options.from_json(json.loads(json.dumps(options.to_json()))) == options


class Test_compile:
    def test_what_comes_out(self, asked: Any, device: Any, tmp_path: Path) -> None:
        seen = device("10.3.0.26")
        result = NativeTensorRT().compile(asked("orin-agx-64gb/dla"))
        assert seen()["module"] == "tensorrt" and seen()["options"]["stock_plugins"] is True
        assert sorted(result.files) == ["layers.json", "model.plan", "timing.cache"]
        report = result.report
        assert report["compiler"] == "TensorRT 10.3.0.26" and report["not_on_dla"] == ["top"]
        assert report["summary"].endswith(
            "1 loadables on the DLA, 2 layers on the GPU, 1 of 2 layers cannot be on the DLA"
        )
        assert report["outside"]["x"] == "float32"
        assert report["timing_cache"] == {
            "target": "orin-agx-64gb/dla",
            "tensorrt": "10.3.0.26",
            "sha256": sha256_bytes(b"times"),
        }
        assert [spec.name for spec in result.inputs] == ["x"]

    def test_times_are_kept_from_build_to_build(self, asked: Any, device: Any, tmp_path: Path) -> None:
        """By target; each engine has those of its own build. A build that is pinned reads its file and leaves both."""
        more = DONE.replace('write_bytes(b"times")', 'open("ab").write(b"+times")')
        device(body=more)
        for count in (1, 2):
            made = NativeTensorRT().compile(asked("a30")).files["timing.cache"]
            assert made.read_bytes() == b"+times" * count
            made.unlink()
        (shared,) = (tmp_path / "cache" / "timing").glob("*.cache")
        assert shared.name == "a30-tensorrt-10.3.0.26.cache"
        (tmp_path / "pinned").write_bytes(b"pinned")
        made = NativeTensorRT().compile(replace(asked("a30"), timing=tmp_path / "pinned")).files["timing.cache"]
        assert made.read_bytes() == b"pinned+times", "the stand-in adds its own"
        assert (tmp_path / "pinned").read_bytes() == b"pinned" and shared.read_bytes() == b"+times" * 2

    @pytest.mark.parametrize(
        "said",
        [
            'emit(event="failed", stage="timing", message="measured kernels that are not in the timing cache")',
            'emit(event="log", severity="ERROR", message="Internal Error (Assertion !errorOnMiss failed. )")\n'
            'emit(event="failed", stage="build", message="")',
        ],
    )
    def test_a_kernel_that_the_pinned_times_lack(self, asked: Any, device: Any, tmp_path: Path, said: str) -> None:
        device(body=said)
        (tmp_path / "pinned").write_bytes(b"pinned")
        with pytest.raises(TimingCacheMiss) as caught:
            NativeTensorRT().compile(replace(asked("a30"), timing=tmp_path / "pinned"))
        assert "not in the timing cache" in caught.value.why and "without --locked" in caught.value.next

    def test_an_int8_input_brings_its_scale(self, asked: Any, device: Any) -> None:
        device(x={"dtype": "INT8", "format": "chw4"})
        shape = asked("a30").engine.inputs["x"].shape
        request = asked("a30", inputs={"x": InputSpec(shape=shape, dtype="int8", format="chw4")})
        report = NativeTensorRT().compile(request).report
        assert report["scales"] == {"x": pytest.approx(request.scales.ranges["x"].amax / 127)}

    @pytest.mark.parametrize(
        ("x", "why"),
        [
            ({"dtype": "HALF"}, "'x' is float16, asked for was float32"),
            ({"format": "chw4"}, "'x' lies as chw4, asked for was linear"),
        ],
    )
    def test_an_engine_that_differs_is_not_taken(self, asked: Any, device: Any, x: Any, why: str) -> None:
        device(x=x)
        with pytest.raises(EngineNotAsAsked) as caught:
            NativeTensorRT().compile(asked("a30"))
        assert caught.value.why == why

    def test_nor_one_without_the_compatibility(self, asked: Any, device: Any) -> None:
        device()
        with pytest.raises(EngineNotAsAsked, match="differs from the recipe") as caught:
            NativeTensorRT().compile(asked("a30", builder=Builder(hardware_compatibility="ampere_plus")))
        assert caught.value.why == "its hardware compatibility is none, asked for was ampere_plus"

    def test_nor_a_plan_of_another_version(self, asked: Any, device: Any) -> None:
        device("10.3.0.26", header="10.4.0.1")
        with pytest.raises(PlanNotAsAsked, match="not the one asked for"):
            NativeTensorRT().compile(asked("a30"))

    def test_a_tensorrt_without_a_dla(self, asked: Any, device: Any) -> None:
        device("10.13.0.35")
        with pytest.raises(DlaNotHere) as caught:
            NativeTensorRT().compile(asked("orin-agx-64gb/dla"))
        assert "10.7 was the last" in caught.value.why and "orin-agx-64gb/gpu" in caught.value.next

    def test_a_loadable_is_no_plan(self, asked: Any, device: Any) -> None:
        body = """
        Path(job["plan"]).write_bytes(b"a loadable")
        emit(event="done", version=VERSION, parse_seconds=0, build_seconds=0, placement=[], calibration=None,
             inputs=[{"name": "x", "shape": [1, 3, 32, 32], "dtype": "INT8"}],
             outputs=[{"name": "y", "shape": [1, 8, 32, 32], "dtype": "HALF"}])
        """
        device(body=body)
        shape = asked("a30").engine.inputs["x"].shape
        request = asked(
            "orin-agx-64gb/dla",
            dla=Dla(standalone=True, gpu_fallback=False),
            inputs={"x": InputSpec(shape=shape, dtype="int8", format="dla_hwc4")},
            builder=Builder(timing_cache=False),
        )
        result = NativeTensorRT().compile(request)
        assert list(result.files) == ["model.plan"]
        assert [(spec.name, spec.dtype) for spec in (*result.inputs, *result.outputs)] == [
            ("x", "int8"),
            ("y", "float16"),
        ]
        with pytest.raises(CannotDeserialize, match="does not load"):
            loaded(SimpleNamespace(), None, Path("model.plan"), result.report)

    def test_indices_that_tensorrt_8_narrows_are_no_difference(self, asked: Any, device: Any) -> None:
        device("8.6.2.3", x={"dtype": "INT32"})
        shape = asked("a30").engine.inputs["x"].shape
        NativeTensorRT().compile(asked("a30", inputs={"x": InputSpec(shape=shape, dtype="int64")}))

    @pytest.mark.parametrize(
        ("package", "release"), [("8.6.1.post1", "8.6.1"), ("10.3.0.26", "10.3.0.26"), ("11.4.1", "11.4.1")]
    )
    def test_versions_are_numbers(self, monkeypatch: pytest.MonkeyPatch, package: str, release: str) -> None:
        monkeypatch.setattr(environment, "installed", lambda: True)
        monkeypatch.setattr(environment.metadata, "version", lambda name: package)
        assert environment.version() == release

    def test_what_the_process_refuses(self, asked: Any, device: Any) -> None:
        device(body='emit(event="failed", stage="options", message="DLA core 1 is not here")')
        with pytest.raises(NotOffered) as caught:
            NativeTensorRT().compile(asked("a30"))
        assert caught.value.why == "DLA core 1 is not here"
        device(body='emit(event="failed", stage="build", message="")')
        with pytest.raises(CompilerRefused, match="TensorRT could not compile the graph"):
            NativeTensorRT().compile(asked("a30"))

    def test_without_tensorrt_the_device_is_named(self, asked: Any) -> None:
        with pytest.raises(NeedsDevice) as caught:
            NativeTensorRT().compile(asked("orin-agx-64gb/dla"))
        assert "here TensorRT's Python module is not installed" in caught.value.why

    def test_a_version_that_cannot_be_read(self) -> None:
        with pytest.raises(NotOffered, match="does not know TensorRT installed, version unknown"):
            known_features("installed, version unknown")

    def test_one_that_is_too_old(self) -> None:
        """JetPack 5 has 8.5.2: kits for it are for trtexec."""
        with pytest.raises(NotOffered, match=r"TensorRT 8\.5\.2\.2 is too old") as caught:
            known_features("8.5.2.2")
        assert "trtexec" in caught.value.next
        assert known_features("8.6.2.3").calibrators


class Samples:
    """Three samples; ``bad``: the second cannot be made."""

    name = "three"

    def __init__(self, request: CompileRequest, bad: bool = False) -> None:
        self.shape, self.bad = (1, *request.engine.inputs["x"].shape[1:]), bad

    def __len__(self) -> int:
        return 3

    def __iter__(self) -> Iterator[Any]:
        from trtforge.samples.base import Sample

        for index in range(3):
            if self.bad and index == 1:
                raise TrtforgeError("the photograph is torn")
            yield Sample(f"s{index}", "d", {"x": np.full(self.shape, index, np.float32)})

    def identities(self) -> list[tuple[str, str]]:
        return [(f"s{index}", "d") for index in range(3)]

    def describe(self) -> dict[str, Any]:
        return {}


FED = """
from trtforge.backends.nvidia.samples import receive
count = 0
try:
    for batch in receive(int(sys.argv[3])):
        count += 1
except EOFError as error:
    emit(event="failed", stage="calibrate", message=f"batch {count + 1}: {error}")
    sys.exit(1)
emit(event="done", version=VERSION, parse_seconds=0, build_seconds=0, inputs=[], outputs=[],
     calibration={"from": "samples", "batches": count - TAKES_LESS,
                  "cache": "TRT-100300-MinMaxCalibration\\nx: 3c010a14\\n"})
"""


class Test_calibration:
    """By TensorRT itself: samples go through a pipe to its process."""

    def test_every_sample_arrives(self, asked: Any, device: Any) -> None:
        device(body="TAKES_LESS = 0\n" + FED)
        request = asked("a30")
        cache = calibrate(request, Samples(request), documented("10.3"))
        assert cache.algorithm == "MinMaxCalibration" and list(cache.scales) == ["x"]

    def test_one_that_cannot_be_made_is_told_in_its_own_words(self, asked: Any, device: Any) -> None:
        device(body="TAKES_LESS = 0\n" + FED)
        request = asked("a30")
        with pytest.raises(TrtforgeError, match="the photograph is torn"):
            calibrate(request, Samples(request, bad=True), documented("10.3"))

    def test_fewer_than_there_are(self, asked: Any, device: Any) -> None:
        device(body="TAKES_LESS = 1\n" + FED)
        request = asked("a30")
        with pytest.raises(NativeCalibrationFailed) as caught:
            calibrate(request, Samples(request), documented("10.3"))
        assert caught.value.why == "it took 2 of 3"

    def test_a_failure_there(self, asked: Any, device: Any) -> None:
        device(body='emit(event="failed", stage="calibrate", message="batch 2: NaN")')
        request = asked("a30")
        with pytest.raises(NativeCalibrationFailed) as caught:
            calibrate(request, Samples(request), documented("10.3"))
        assert "batch 2: NaN" in caught.value.why

    def test_tensorrt_11_has_none(self, asked: Any, device: Any) -> None:
        device("11.4.1.9")
        request = asked("a30")
        with pytest.raises(NotOffered, match="does not calibrate"):
            calibrate(request, Samples(request), documented("11.4"))
