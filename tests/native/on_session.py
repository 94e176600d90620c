"""A session over the real cuda-core and a stand-in for the driver; the engine is a function of arrays.

TensorRT's objects are a fake of the bindings that this process was started for, so every call fits their signatures.
"""

from __future__ import annotations

import ctypes
import os
import threading
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.native.bindings import enter
from tests.native.fake import Module, Object
from trtforge.backends.nvidia.formats import packed, packed_shape, unpacked
from trtforge.backends.nvidia.log import last_words_logger
from trtforge.backends.tensorrt_.session import loaded
from trtforge.errors.engine import CannotDeserialize, ExecutionFailed, WrongFeed

trt = enter()
SOC = "TRTFORGE_TEST_SOC" in os.environ
Work = ctypes.CFUNCTYPE(None)
driver = ctypes.CDLL("libcuda.so.1")
driver.test_enqueue.argtypes = [ctypes.c_void_p, Work]


class Engine:
    """y = 2 x, x [N, 3, 4, 5]; ``dtype`` and ``format`` of both. Keeps what it was asked, by the fake's recorder."""

    def __init__(self, dtype: str = "FLOAT", format: str = "LINEAR", batch: int = 2, **answers: Any) -> None:
        self.dtype, self.format, self.open = dtype, format, batch < 0
        self.shape = (batch, 3, 4, 5)
        self.bound: dict[str, int] = {}
        self.kept: list[Any] = []
        self.module = Module(trt)
        self.module.recorder.answers = {
            "ICudaEngine.num_io_tensors": 2,
            "ICudaEngine.get_tensor_name": lambda engine, index: "xy"[index],
            "ICudaEngine.get_tensor_dtype": lambda engine, name: getattr(trt.DataType, dtype),
            "ICudaEngine.get_tensor_format": lambda engine, name: getattr(trt.TensorFormat, format),
            "ICudaEngine.get_tensor_shape": lambda engine, name: trt.Dims(self.shape),
            "ICudaEngine.get_tensor_mode": lambda engine, name: (
                trt.TensorIOMode.INPUT if name == "x" else trt.TensorIOMode.OUTPUT
            ),
            "IExecutionContext.set_input_shape": self.set_shape,
            "IExecutionContext.get_tensor_shape": lambda context, name: trt.Dims(self.shape),
            "IExecutionContext.set_tensor_address": self.bind,
            "IExecutionContext.execute_async_v3": self.execute,
        } | answers

    def set_shape(self, context: Any, name: str, shape: Any) -> bool:
        self.shape = tuple(shape)
        return self.shape[0] <= 4

    def bind(self, context: Any, name: str, pointer: int) -> bool:
        self.bound[name] = pointer
        return True

    def execute(self, context: Any, handle: int) -> bool:
        numpy, shape = np.dtype(trt.nptype(getattr(trt.DataType, self.dtype))), self.shape
        room = packed_shape(shape, self.format.lower(), numpy.itemsize)
        x, y = (at(self.bound[name], room, numpy) for name in "xy")

        def work() -> None:
            y[...] = packed((unpacked(x, self.format.lower(), shape) * 2).astype(numpy), self.format.lower())

        self.kept.append(Work(work))
        driver.test_enqueue(handle, self.kept[-1])
        return True

    def load(self, folder: Path, **report: Any) -> Any:
        plan = folder / "model.plan"
        plan.write_bytes(b"ftrt")
        return loaded(self.module, last_words_logger(trt), plan, {"scales": {}, "outside": {}} | report)


def at(pointer: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)


X = np.linspace(-3, 3, 2 * 3 * 4 * 5, dtype=np.float32).reshape(2, 3, 4, 5)


def test_floats(tmp_path: Path) -> None:
    engine = Engine()
    session = engine.load(tmp_path)
    for _ in range(3):  # ordinary, captured, replayed
        assert np.array_equal(session.run({"x": X})["y"], 2 * X)
    assert len(engine.kept) == 2, "the third run is the CUDA graph's alone"
    copied = 0 if SOC else 3 * X.nbytes
    assert session.traffic == {"host_to_device": copied, "device_to_host": copied, "executions": 2}
    session.close()


def test_memory_that_was_bound_is_used_until_run_takes_its_own(tmp_path: Path) -> None:
    engine = Engine()
    session = engine.load(tmp_path)
    wanted = session.run({"x": X})["y"]
    x, y = X + 1, np.zeros_like(X)
    session.bind("x", x.ctypes.data)
    session.bind("y", y.ctypes.data)
    session.enqueue(int(session._stream.handle))
    session._stream.sync()
    assert np.array_equal(y, 2 * (X + 1))
    y[...] = 0
    assert np.array_equal(session.run({"x": X})["y"], wanted)
    assert not y.any()


def test_another_thread_runs_it(tmp_path: Path) -> None:
    """CUDA's current device is a thread's own."""
    session, got = Engine().load(tmp_path), []
    thread = threading.Thread(target=lambda: got.append(session.run({"x": X})["y"]))
    thread.start()
    thread.join()
    assert np.array_equal(got[0], 2 * X)


def test_its_memory_goes_with_the_last_reference(tmp_path: Path) -> None:
    session = Engine().load(tmp_path)
    session.run({"x": X})
    gone = weakref.ref(session)
    del session
    assert gone() is None


def test_an_engine_that_no_graph_can_hold_runs_on(tmp_path: Path) -> None:
    engine = Engine()
    answer = engine.module.recorder.answers["IExecutionContext.execute_async_v3"]
    status = ctypes.c_int()

    def outside_a_capture(context: Any, handle: int) -> bool:
        driver.cuStreamIsCapturing(ctypes.c_void_p(handle), ctypes.byref(status))
        return False if status.value else answer(context, handle)

    engine.module.recorder.answers["IExecutionContext.execute_async_v3"] = outside_a_capture
    session = engine.load(tmp_path)
    for _ in range(4):
        assert np.array_equal(session.run({"x": X})["y"], 2 * X)
    assert session.traffic["executions"] == 4


def test_no_room_for_a_larger_batch_leaves_a_sound_session(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Engine(batch=-1).load(tmp_path)
    small = np.ones((1, 3, 4, 5), np.float32)
    session.run({"x": small})
    with monkeypatch.context() as full:

        def no_room(size: int) -> int:
            raise ExecutionFailed("no memory")

        full.setattr(session._memory, "take_shared", no_room)
        with pytest.raises(ExecutionFailed):
            session.run({"x": np.ones((4, 3, 4, 5), np.float32)})
    for batch in (1, 4, 2):
        x = np.full((batch, 3, 4, 5), batch, np.float32)
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)


@pytest.mark.parametrize(("dtype", "format"), [("HALF", "LINEAR"), ("HALF", "HWC8"), ("HALF", "DLA_LINEAR")])
def test_halves_are_floats_outside(tmp_path: Path, dtype: str, format: str) -> None:
    session = Engine(dtype, format).load(tmp_path, outside={"x": "float32", "y": "float32"})
    assert [spec.dtype for spec in (*session.inputs, *session.outputs)] == ["float32"] * 2
    got = session.run({"x": X})["y"]
    assert got.dtype == np.float32 and np.array_equal(got, (X.astype(np.float16) * 2).astype(np.float32))


@pytest.mark.parametrize("format", ["LINEAR", "CHW4", "CHW32", "DLA_HWC4"])
def test_int8_by_scales(tmp_path: Path, format: str) -> None:
    scales = {"x": 0.05, "y": 0.05}
    session = Engine("INT8", format).load(tmp_path, outside={"x": "float32", "y": "float32"}, scales=scales)
    wanted = np.clip(np.rint(X / np.float32(0.05)), -128, 127).astype(np.int8) * np.int8(2)
    assert np.array_equal(session.run({"x": X})["y"], wanted.astype(np.float32) * np.float32(0.05))
    with pytest.raises(CannotDeserialize, match="no scale for it"):
        Engine("INT8", format).load(tmp_path, outside={"x": "float32"})
    session = Engine("INT8", format).load(tmp_path)
    whole = np.arange(120, dtype=np.int8).reshape(X.shape) // 2
    assert np.array_equal(session.run({"x": whole})["y"], whole * np.int8(2))


def test_open_sizes(tmp_path: Path) -> None:
    engine = Engine(batch=-1)
    session = engine.load(tmp_path)
    assert session.inputs[0].shape == (None, 3, 4, 5)
    for batch in (1, 4, 2, 2, 2):
        x = np.full((batch, 3, 4, 5), batch, np.float32)
        assert np.array_equal(session.run({"x": x})["y"], 2 * x)
    assert engine.module.recorder.of("IExecutionContext.set_input_shape") == [
        ("x", (1, 3, 4, 5)),
        ("x", (4, 3, 4, 5)),
        ("x", (2, 3, 4, 5)),
    ]
    with pytest.raises(ExecutionFailed, match=r"does not take 'x' as \[5, 3, 4, 5\]"):
        session.run({"x": np.zeros((5, 3, 4, 5), np.float32)})


def test_outputs_whose_size_depends_on_data(tmp_path: Path) -> None:
    allocators: list[Any] = []

    def execute(context: Any, handle: int) -> bool:
        (allocator,) = allocators
        pointer = allocator.reallocate_output("y", 0, 12, 256)

        def work() -> None:
            at(pointer, (3,), np.dtype(np.float32))[...] = [1, 2, 3]

        engine.kept.append(Work(work))
        driver.test_enqueue(handle, engine.kept[-1])
        allocator.notify_shape("y", trt.Dims((3,)))
        return True

    engine = Engine(
        **{
            "ICudaEngine.get_tensor_shape": lambda engine, name: trt.Dims((2, 3, 4, 5) if name == "x" else (-1,)),
            "IExecutionContext.get_tensor_shape": lambda context, name: trt.Dims((-1,)),
            "IExecutionContext.set_output_allocator": lambda context, name, made: bool(allocators.append(made) or True),
            "IExecutionContext.execute_async_v3": execute,
        }
    )
    session = engine.load(tmp_path)
    for _ in range(2):
        assert session.run({"x": X})["y"].tolist() == [1, 2, 3]
    (allocator,) = allocators
    assert isinstance(allocator, trt.IOutputAllocator)
    first = allocator.pointer
    larger = allocator.reallocate_output("y", first, 4096, 256)
    held = session._memory._buffers  # of x and y: the outgrown one is gone, and its address may be given again
    assert len(held) == 2 and larger in held


def test_an_allocator_that_was_refused_is_offered_again(tmp_path: Path) -> None:
    """A session that went on without one would read the output from nowhere."""
    engine = Engine(
        **{
            "ICudaEngine.get_tensor_shape": lambda engine, name: trt.Dims((2, 3, 4, 5) if name == "x" else (-1,)),
            "IExecutionContext.get_tensor_shape": lambda context, name: trt.Dims((-1,)),
            "IExecutionContext.set_output_allocator": False,
        }
    )
    session = engine.load(tmp_path)
    for _ in range(2):
        with pytest.raises(ExecutionFailed, match="did not take an allocator for 'y'"):
            session.run({"x": X})


def test_an_empty_output_has_an_address(tmp_path: Path) -> None:
    """A detector that finds nothing; TensorRT takes no null pointer for it."""
    from trtforge.backends.nvidia.allocator import output_allocator

    taken: list[int] = []
    allocator = output_allocator(trt, lambda size: taken.append(size) or 4096, lambda pointer: None)
    assert allocator.reallocate_output("y", 0, 0, 256) == 4096 and taken == [1]


def test_an_allocation_that_failed_once_is_forgotten() -> None:
    """Else a later failure of another kind would be told as one of memory."""
    from trtforge.backends.nvidia.allocator import output_allocator

    answers = iter([MemoryError("full"), 4096])

    def take(size: int) -> int:
        if isinstance(answer := next(answers), Exception):
            raise answer
        return answer

    allocator = output_allocator(trt, take, lambda pointer: None)
    assert allocator.reallocate_output("y", 0, 64, 256) == 0 and isinstance(allocator.problem, MemoryError)
    assert allocator.reallocate_output("y", 0, 64, 256) == 4096 and allocator.problem is None


def test_a_dla_engine(tmp_path: Path) -> None:
    """On its core; an address goes before another comes; no CUDA graph."""
    engine = Engine(**{"Runtime.num_DLA_cores": 2})
    session = engine.load(tmp_path, dla={"core": 1, "standalone": False})
    for _ in range(3):
        session.run({"x": X})
    assert engine.module.recorder.of("Runtime.DLA_core=") == [(1,)]
    addresses = [
        value for name, value in engine.module.recorder.of("IExecutionContext.set_tensor_address") if name == "x"
    ]
    assert addresses[::2] == [0] * (len(addresses) // 2) and all(addresses[1::2])
    assert len(engine.kept) == 3
    with pytest.raises(CannotDeserialize) as caught:
        Engine(**{"Runtime.num_DLA_cores": 1}).load(tmp_path, dla={"core": 1, "standalone": False})
    assert "DLA core 1, and this machine has 1" in caught.value.why
    with pytest.raises(CannotDeserialize, match="does not load") as caught:
        engine.load(tmp_path, dla={"core": 0, "standalone": True})
    assert "cuDLA" in caught.value.why


def test_what_tensorrt_refuses_is_told(tmp_path: Path) -> None:
    with pytest.raises(CannotDeserialize):
        Engine(**{"Runtime.deserialize_cuda_engine": None}).load(tmp_path)
    with pytest.raises(CannotDeserialize, match="cannot be loaded") as caught:
        Engine(**{"ICudaEngine.create_execution_context": None}).load(tmp_path)
    assert "no execution context" in caught.value.why
    with pytest.raises(CannotDeserialize) as caught:
        Engine(**{"ICudaEngine.get_tensor_location": trt.TensorLocation.HOST}).load(tmp_path)
    assert "'x' is sizes, which the engine wants in the CPU's memory" in caught.value.why
    with pytest.raises(ExecutionFailed, match="it did not run"):
        Engine(**{"IExecutionContext.execute_async_v3": False}).load(tmp_path).run({"x": X})
    with pytest.raises(ExecutionFailed, match="did not take an address for 'x'"):
        Engine(**{"IExecutionContext.set_tensor_address": False}).load(tmp_path).run({"x": X})
    with pytest.raises(WrongFeed):
        Engine().load(tmp_path).run({"x": X.astype(np.float64)})


def test_a_plan_that_brings_a_part_of_tensorrt(tmp_path: Path) -> None:
    engine = Engine()
    engine.load(tmp_path, version_compatible=True)
    assert engine.module.recorder.of("Runtime.engine_host_code_allowed=") == [(True,)]


def test_every_object_of_tensorrt_here_is_the_fakes(tmp_path: Path) -> None:
    session = Engine().load(tmp_path)
    assert isinstance(session._engine, Object) and isinstance(session._context, Object)
