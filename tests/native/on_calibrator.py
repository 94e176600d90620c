"""The calibrators: NVIDIA's classes, extended by ours, called from C++ as TensorRT calls them."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.native.cpp import Calibrator
from tests.native.network import PLAN, make, run, trt
from trtforge.backends.nvidia.build import Failed
from trtforge.backends.nvidia.calibrator import from_samples
from trtforge.backends.nvidia.options import Options
from trtforge.backends.nvidia.samples import receive, send


class HostMemory:
    """Memory of the CPU where a calibrator wants the device's."""

    def __init__(self) -> None:
        self.there: dict[int, np.ndarray[Any, Any]] = {}
        self.freed: list[int] = []

    def allocate(self, size: int) -> int:
        made = np.zeros(size, np.uint8)
        self.there[made.ctypes.data] = made
        return int(made.ctypes.data)

    def copy_in(self, address: int, array: np.ndarray[Any, Any]) -> None:
        self.there[address][: array.nbytes] = np.frombuffer(array.tobytes(), np.uint8)

    def free(self, address: int) -> None:
        self.freed.append(address)


def batches(*arrays: Any) -> Any:
    return iter([{"x": np.asarray(array, np.float32)} for array in arrays])


@pytest.mark.parametrize("algorithm", ["MinMaxCalibration", "EntropyCalibration2"])
def test_a_fed_calibrator(algorithm: str) -> None:
    memory = HostMemory()
    fed = from_samples(trt, algorithm, batches([1, 2], [3, 4]), memory, {})
    called = Calibrator(trt, fed)
    named = {"MinMaxCalibration": "MINMAX_CALIBRATION", "EntropyCalibration2": "ENTROPY_CALIBRATION_2"}[algorithm]
    assert called.algorithm() == int(getattr(trt.CalibrationAlgoType, named))
    assert called.batch_size() == 1
    (first,) = called.batch(["x"]) or ()
    assert memory.there[first].view(np.float32).tolist() == [1, 2]
    assert called.batch(["x"]) == [first], "one buffer, used again"
    assert memory.there[first].view(np.float32).tolist() == [3, 4]
    assert called.batch(["x"]) is None and fed.problem is None and fed.given == 2
    assert called.read_cache() is None, "what an earlier run left is not taken for this one's"
    called.write_cache(b"TRT-1-X\n")
    assert fed.written == b"TRT-1-X\n"
    fed.close()
    fed.close()
    assert memory.freed == [first]


@pytest.mark.parametrize(
    ("samples", "why"),
    [
        (lambda: batches([1, 2], [1, 2, 3]), "in the first batch it was"),
        (lambda: batches([1, np.nan]), "NaN or Inf"),
        (lambda: iter([{"z": np.zeros(1, np.float32)}]), "asks for the input 'x'; the sample has z"),
        (lambda: iter(lambda: 1 / 0, None), "division by zero"),
    ],
)
def test_a_bad_batch_is_an_error_and_not_the_end(samples: Any, why: str) -> None:
    memory = HostMemory()
    fed = from_samples(trt, "MinMaxCalibration", samples(), memory, {})
    called = Calibrator(trt, fed)
    while called.batch(["x"]) is not None:
        pass
    assert why in str(fed.problem)
    assert called.batch(["x"]) is None
    fed.close()
    assert sorted(memory.freed) == sorted(memory.there)


@pytest.mark.parametrize("broken", ["", "sample", "none"])
def test_a_build_that_calibrates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: str) -> None:
    """Samples come through a pipe; the builder is a stand-in that calls the calibrator as TensorRT's would."""
    memory = HostMemory()
    monkeypatch.setattr("trtforge.backends.nvidia.memory.DeviceMemory", lambda: memory)

    def calibrate(builder: Any, network: Any, config: Any) -> bytes | None:
        called = Calibrator(trt, config.int8_calibrator)
        while called.batch(["x"]) is not None:
            pass
        if broken != "none":
            called.write_cache(b"TRT-1-MinMaxCalibration\nx: 3c010a14\n")
        return PLAN

    reader, writer = os.pipe()
    stream = io.BytesIO()
    send(stream, [(f"s{i}", {"x": np.full((1, 2), i, np.float32)}) for i in range(3)])
    data = stream.getvalue()
    os.write(writer, data[: len(data) - 30] if broken == "sample" else data)
    os.close(writer)
    module = make(**{"Builder.build_serialized_network": calibrate})
    options = Options(1, "int8", calibration={"samples": "", "algorithm": "MinMaxCalibration"})
    if broken:
        said = {"sample": "broke off", "none": "without giving its cache"}[broken]
        with pytest.raises(Failed, match=said):
            run(module, tmp_path, options, reader)
    else:
        facts = run(module, tmp_path, options, reader)
        assert facts["calibration"]["batches"] == 3 and "x: 3c010a14" in facts["calibration"]["cache"]
    assert sorted(memory.freed) == sorted(memory.there)


def test_samples_keep_their_bytes() -> None:
    reader, writer = os.pipe()
    sent = [("a", {"x": np.arange(6, dtype=np.int8).reshape(2, 3), "m": np.array(1.5)}), ("b", {"x": np.zeros((0, 2))})]
    with os.fdopen(writer, "wb") as stream:
        assert send(stream, sent) == 2
    for (_, wanted), got in zip(sent, receive(reader), strict=True):
        assert list(got) == list(wanted)
        assert all(np.array_equal(got[name], wanted[name]) and got[name].dtype == wanted[name].dtype for name in wanted)


def test_a_cache_that_tensorrt_does_not_take_ends_the_build(tmp_path: Path) -> None:
    """It asks for samples then, and would go on without ranges."""
    cache = tmp_path / "c.cache"
    cache.write_bytes(b"TRT-1-MinMaxCalibration\n")

    def ask(builder: Any, network: Any, config: Any) -> bytes:
        assert Calibrator(trt, config.int8_calibrator).batch(["x"]) is None
        return PLAN

    module = make(**{"Builder.build_serialized_network": ask})
    with pytest.raises(Failed, match="did not take the calibration cache") as caught:
        run(
            module,
            tmp_path,
            Options(1 << 20, "int8", calibration={"cache": str(cache), "algorithm": "MinMaxCalibration"}),
        )
    assert caught.value.stage == "calibrate"


def test_indices_become_as_wide_as_the_networks() -> None:
    """TensorRT 8 has no int64; eight bytes an index would be read as two."""
    memory = HostMemory()
    fed = from_samples(trt, "MinMaxCalibration", iter([{"x": np.array([1, 2])}]), memory, {"x": np.int32})
    (address,) = Calibrator(trt, fed).batch(["x"]) or ()
    assert memory.there[address].view(np.int32).tolist() == [1, 2]
    wrong = from_samples(trt, "MinMaxCalibration", iter([{"x": np.array([1.5])}]), memory, {"x": np.int32})
    assert Calibrator(trt, wrong).batch(["x"]) is None and isinstance(wrong.problem, TypeError)


def test_a_build_that_fails_is_not_the_samples_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtforge.backends.nvidia.memory.DeviceMemory", HostMemory)
    reader, writer = os.pipe()
    os.close(writer)
    module = make(**{"Builder.build_serialized_network": lambda *_: None})
    options = Options(1, "int8", calibration={"samples": "", "algorithm": "MinMaxCalibration"})
    with pytest.raises(Failed) as caught:
        run(module, tmp_path, options, reader)
    assert caught.value.stage == "build"
