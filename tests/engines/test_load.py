from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge.backends.base import Availability
from trtforge.engines import load as module
from trtforge.engines.load import open_engine
from trtforge.engines.machine import Machine, compute_capability, this_machine
from trtforge.engines.manifest import BuiltFor, Manifest
from trtforge.engines.store import EngineVersion, Store
from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import (
    BackendUnavailable,
    EngineFileChanged,
    EngineFileMissing,
    ForeignGpu,
    ForeignTensorRT,
    HeaderContradictsManifest,
    ManifestChanged,
    NotAPlan,
    PlanSizeMismatch,
    WrappedPlan,
    WrongCpu,
)

Publish = Callable[..., EngineVersion]
WORKS = Availability(can_compile=True, can_run=True, version="1.7.1.116")
A100 = {"platform": "tensorrt_plan", "backend": "tensorrt_rtx", "target": BuiltFor("a100-sxm-80gb", sm="8.0")}


def machine(
    sm: str | None = "8.0", isa: tuple[str, ...] = ("avx2", "avx512_vnni"), **backends: Availability
) -> Machine:
    known = {"onnxruntime": WORKS, "tensorrt_rtx": WORKS, "tensorrt": replace(WORKS, version="10.3.0.26")}
    return Machine(known | backends, sm, frozenset(isa))


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def native_plan(version: tuple[int, int, int, int] = (10, 3, 0, 26)) -> bytes:
    return b"ftrt" + bytes(20) + bytes(version) + bytes(100)


def test_a_sound_engine_opens(store: Store, publish: Publish) -> None:
    version = publish(store, target=BuiltFor("host", isa=("avx2",)))
    assert open_engine(version.path, here=machine()) == version


def test_a_sound_plan_opens(store: Store, publish: Publish, rtx_plan: Callable[..., bytes]) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    assert open_engine(version.path, here=machine()) == version
    assert open_engine(version.path) == version  # inspecting needs no GPU


def test_a_flipped_bit_is_refused_before_any_parser(
    store: Store, publish: Publish, rtx_plan: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    content = bytearray(version.engine_file.read_bytes())
    content[-1] ^= 1
    version.engine_file.write_bytes(content)
    monkeypatch.setattr(module, "read_header", lambda path: pytest.fail("the header was read"))
    with pytest.raises(EngineFileChanged) as caught:
        open_engine(version.path, here=machine())
    assert "sha256" in caught.value.why and str(version.engine_file) == caught.value.where


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 199), bit=st.integers(0, 7))
def test_any_flipped_bit_is_found(tmp_path_factory: pytest.TempPathFactory, place: int, bit: int) -> None:
    from trtforge.engines.manifest import ModelOrigin

    folder = tmp_path_factory.mktemp("flip")
    built = folder / "built"
    built.write_bytes(bytes(range(200)))
    manifest = Manifest(
        engine="net",
        key_inputs={},
        target=BuiltFor("host"),
        backend="onnxruntime",
        platform="onnxruntime_onnx",
        tools={},
        model=ModelOrigin("m", "a" * 64),
        recipe={},
        inputs=(),
        outputs=(),
    )
    version = Store(folder).publish("net", {"model.onnx": built}, manifest)
    content = bytearray(built.read_bytes())
    content[place] ^= 1 << bit
    version.engine_file.write_bytes(content)
    with pytest.raises(EngineFileChanged):
        open_engine(version.path)


def test_sizes_that_differ(store: Store, publish: Publish) -> None:
    version = publish(store, content=b"engine")
    for content in (b"engin", b"engine!"):
        version.engine_file.write_bytes(content)
        with pytest.raises(EngineFileChanged, match=f"6 bytes were published, {len(content)} are here"):
            open_engine(version.path)


def test_a_missing_file(store: Store, publish: Publish) -> None:
    version = publish(store)
    version.engine_file.unlink()
    with pytest.raises(EngineFileMissing, match=r"model\.onnx"):
        open_engine(version.path)
    version.engine_file.mkdir()
    with pytest.raises(EngineFileMissing):
        open_engine(version.path)


def test_an_edited_manifest(store: Store, publish: Publish, rtx_plan: Callable[..., bytes]) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    path = version.path / "manifest.json"
    value = json.loads(path.read_text())
    value["target"]["sm"] = "8.6"
    path.write_text(json.dumps(value))
    with pytest.raises(ManifestChanged):
        open_engine(version.path, here=machine("8.6"))


# Another machine


def test_another_gpu(store: Store, publish: Publish, rtx_plan: Callable[..., bytes]) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    with pytest.raises(ForeignGpu) as caught:
        open_engine(version.path, here=machine("8.6"))
    assert "8.0" in caught.value.why and "8.6" in caught.value.why and caught.value.next


def test_another_gpu_than_a_native_plan_which_does_not_say(store: Store, publish: Publish) -> None:
    version = publish(
        store, content=native_plan(), platform="tensorrt_plan", backend="tensorrt", target=BuiltFor("a30", sm="8.0")
    )
    assert open_engine(version.path, here=machine("8.0")).version == 1
    with pytest.raises(ForeignGpu, match=r"built for a30 \(SM 8.0\); here is SM 8.7"):
        open_engine(version.path, here=machine("8.7"))


@pytest.mark.parametrize("other", ["1.8.0.10", "1.7.1.117"])
def test_another_tensorrt_rtx(store: Store, publish: Publish, rtx_plan: Callable[..., bytes], other: str) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    # Said also where no GPU is: the library's version is the first thing to put right.
    gone = Availability(can_compile=True, can_run=False, version=other, why="no GPU", next="find one")
    with pytest.raises(ForeignTensorRT) as caught:
        open_engine(version.path, here=machine(None, tensorrt_rtx=gone))
    assert "1.7.1.116" in caught.value.why and other in caught.value.why


def test_another_tensorrt(store: Store, publish: Publish) -> None:
    version = publish(
        store, content=native_plan(), platform="tensorrt_plan", backend="tensorrt", target=BuiltFor("a30", sm="8.0")
    )
    with pytest.raises(ForeignTensorRT, match=r"10\.7"):
        open_engine(version.path, here=machine(tensorrt=replace(WORKS, version="10.7.0.23")))


def test_no_gpu(store: Store, publish: Publish, rtx_plan: Callable[..., bytes]) -> None:
    version = publish(store, content=rtx_plan(), **A100)
    gone = Availability(True, False, "1.7.1.116", why="the driver is not there", next="install the driver")
    with pytest.raises(BackendUnavailable) as caught:
        open_engine(version.path, here=machine(None, tensorrt_rtx=gone))
    assert "a100-sxm-80gb" in caught.value.why and "the driver is not there" in caught.value.why
    assert caught.value.next == "install the driver"


def test_no_such_backend(store: Store, publish: Publish) -> None:
    version = publish(store)
    with pytest.raises(BackendUnavailable) as caught:
        open_engine(version.path, here=Machine({}, None, frozenset()))
    assert caught.value.next == "trtforge doctor"


def test_another_cpu(store: Store, publish: Publish) -> None:
    version = publish(store, target=BuiltFor("host", isa=("avx2", "avx512_vnni")))
    with pytest.raises(WrongCpu) as caught:
        open_engine(version.path, here=machine(isa=("avx2",)))
    assert "avx512_vnni" in caught.value.why and "avx2," not in caught.value.why


# Plans that were wrong when they were published


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda plan: b"\x08\x07onnx" + bytes(200), NotAPlan),
        (lambda plan: plan()[:-1], PlanSizeMismatch),
        (lambda plan: (8).to_bytes(4, "little") + b'{"a": 1}' + plan(), WrappedPlan),
        (lambda plan: plan(mask=0b100), HeaderContradictsManifest),
        (lambda plan: native_plan(), HeaderContradictsManifest),
    ],
    ids=["a model", "cut", "a prefix", "another SM", "another kind"],
)
def test_a_published_file_that_is_no_such_plan(
    store: Store,
    publish: Publish,
    rtx_plan: Callable[..., bytes],
    make: Callable[[Any], bytes],
    expected: type[TrtforgeError],
) -> None:
    version = publish(store, content=make(rtx_plan), **A100)
    with pytest.raises(expected) as caught:
        open_engine(version.path)
    assert caught.value.why and caught.value.next


@pytest.mark.rtx
def test_a_real_plan_on_this_machine(store: Store, publish: Publish, tmp_path: Path) -> None:
    """Compiled for SM 8.0 here: sound to inspect, refused on SM 8.6, and on a machine with no GPU said so."""
    from trtforge.backends.nvidia.process import run
    from trtforge.backends.registry import get
    from trtforge.backends.tensorrt_rtx_ import environment
    from trtforge.backends.tensorrt_rtx_.job import job
    from trtforge.progress import QUIET

    if missing := environment.missing():
        pytest.skip(f"TensorRT-RTX is not installed: {', '.join(missing)}")
    model = onnx.parser.parse_model(
        """<ir_version: 8, opset_import: ["": 17]>
        net (float[1, 8] x) => (float[1, 8] y) { y = Abs(x) }"""
    )
    onnx.save(model, tmp_path / "net.onnx")
    run(job(tmp_path / "net.onnx", tmp_path / "net.plan", ("SM80",), 1 << 30, "t"), timeout=300, progress=QUIET)
    version = publish(store, content=(tmp_path / "net.plan").read_bytes(), **A100)
    assert open_engine(version.path) == version
    installed = replace(WORKS, version=environment.versions()["tensorrt-rtx-cu12"])
    assert open_engine(version.path, here=machine("8.0", tensorrt_rtx=installed)) == version
    with pytest.raises(ForeignGpu):
        open_engine(version.path, here=machine("8.6", tensorrt_rtx=installed))
    here = this_machine([get("tensorrt_rtx")])
    if here.sm is None:
        with pytest.raises(BackendUnavailable):
            open_engine(version.path, here=here)


# This machine


class Fake:
    name = "fake"
    platform = "fake"

    def availability(self) -> Availability:
        return WORKS


def test_this_machine_is_looked_at() -> None:
    here = this_machine([Fake()])  # type: ignore[list-item]
    assert here.backends == {"fake": WORKS}
    assert here.sm == compute_capability()
    assert here.isa


def test_no_driver_means_no_compute_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert compute_capability() is None


class Driver:
    """Stands for libcuda.so.1: answers the calls that are made, and fails the one named."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing

    def __getattr__(self, name: str) -> Callable[..., int]:
        def call(*arguments: Any) -> int:
            if name == self.failing:
                return 100  # CUDA_ERROR_NO_DEVICE
            if name == "cuDeviceGetAttribute":
                out, attribute, _device = arguments
                out._obj.value = {75: 8, 76: 7}[attribute]
            return 0

        return call


@pytest.mark.parametrize(("failing", "expected"), [("", "8.7"), ("cuInit", None), ("cuDeviceGet", None)])
def test_compute_capability_is_the_drivers_answer(
    monkeypatch: pytest.MonkeyPatch, failing: str, expected: str | None
) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: Driver(failing))
    assert compute_capability() == expected
