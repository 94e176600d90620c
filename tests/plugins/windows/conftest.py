"""The window kernels compiled for this CPU, and a stand-in for cuda-core that runs them.

The stand-in's classes are held against the real ones: a method that cuda.core does not have, or an argument that it
does not take, fails. A launch packs its arguments with cuda-core's own code and calls the kernel with the array of
pointers that cuLaunchKernel would get. Nothing in a stream happens before someone waits for it, so a result that is
read too early is wrong. Memory comes filled with NaN, between guards that are looked at when it is given back.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import weakref
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.plugins import on_host
from trtforge.backends.base import TensorSpec
from trtforge.runtime.windows import cuda
from trtforge.runtime.windows.cubins import KERNELS, WINDOWS

GUARD = 64
NONSENSE = 0xFF  # NaN as float16 and float32, 255 as a label

Array = np.ndarray[Any, Any]


class Kernels:
    """Kernels by name. ``host``: HostKernels of the folder above, and ``schedule`` chooses one for a launch."""

    def __init__(self, host: Any, schedule: Callable[[object], Any]) -> None:
        self._host, self._schedule = host, schedule

    def launch(self, name: str, grid: Sequence[int], block: Sequence[int], parameters: int) -> None:
        """``parameters``: address of an array of addresses of the arguments, as cuLaunchKernel takes them."""
        self._host.launch(name, grid, block, parameters, self._schedule((name, *grid, *block)))

    def __call__(self, name: str, threads: tuple[int, int, int], *arguments: Any) -> None:
        """Arguments: arrays, and NumPy scalars of the kernel's types. ``threads``: along D, H and W."""
        values = [np.uint64(each.ctypes.data) if isinstance(each, np.ndarray) else each for each in arguments]
        boxes = [np.array([value]) for value in values]
        pointers = (ctypes.c_void_p * len(boxes))(*(box.ctypes.data for box in boxes))
        self.launch(name, *cuda.launch_shape(threads), ctypes.addressof(pointers))


@pytest.fixture(scope="session")
def kernels(host_kernels: Callable[..., Any]) -> Kernels:
    return Kernels(host_kernels(WINDOWS, KERNELS), on_host.another)


def checked(real: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, refusing what the real one would not take."""
    signature = inspect.signature(real)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        signature.bind(*args, **kwargs)
        return function(*args, **kwargs)

    return call


def like(real: type) -> Callable[[type], type]:
    """A class whose public members are all members of the real one, called as it is."""

    def check(fake: type) -> type:
        for name, member in list(vars(fake).items()):
            if name.startswith("_"):
                continue
            assert hasattr(real, name), f"{real} has no {name}"
            if isinstance(member, staticmethod):
                setattr(fake, name, staticmethod(checked(getattr(real, name), member.__func__)))
            elif inspect.isfunction(member):
                setattr(fake, name, checked(getattr(real, name), member))
        return fake

    return check


class Memory:
    """Bytes between guards."""

    def __init__(self, size: int) -> None:
        self.whole = np.full(size + 2 * GUARD + 256, NONSENSE, np.uint8)
        start = GUARD + -(self.whole.ctypes.data + GUARD) % 256
        self.bytes = self.whole[start : start + size]
        self.pointer, self.size = self.bytes.ctypes.data, size

    def check(self) -> None:
        start = self.pointer - self.whole.ctypes.data
        assert (self.whole[:start] == NONSENSE).all(), "a kernel wrote in front of an array"
        assert (self.whole[start + self.size :] == NONSENSE).all(), "a kernel wrote behind an array"


class FakeGpu:
    """What the parts of the stand-in share. ``calls``: what went into streams, in order, by name."""

    def __init__(self, kernels: Kernels, *, integrated: bool = False, capability: tuple[int, int] = (8, 0)) -> None:
        self.kernels, self.integrated, self.capability = kernels, integrated, capability
        self.calls: list[str] = []
        self.copied: list[int] = []  # bytes over the bus
        self.most = 0  # bytes allocated at one moment
        self.live: dict[int, Memory] = {}
        self.streams: dict[int, Any] = {}
        self.is_current = False
        self.core = self._core()

    def do(self, handle: int, name: str, work: Callable[[], None]) -> None:
        self.calls.append(name)
        self.streams[handle]._put(work)

    def finish(self) -> None:
        for stream in self.streams.values():
            stream.sync()
        assert not self.live, "memory was not given back"

    def _core(self) -> SimpleNamespace:
        real = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
        from cuda.core._device import DeviceProperties
        from cuda.core._kernel_arg_handler import ParamHolder
        from cuda.core._utils.cuda_utils import ComputeCapability
        from cuda.core.graph import Graph as RealGraph
        from cuda.core.graph import GraphBuilder as RealBuilder

        gpu = self

        @like(real.Buffer)
        class Buffer:
            def __init__(self, pointer: int, size: int, owner: Any) -> None:
                self.handle, self.size, self._owner = pointer, size, owner

            @staticmethod
            def from_handle(ptr, size, mr=None, owner=None, *, stream=None):
                assert owner is not None and owner.flags.c_contiguous
                return Buffer(ptr, size, owner)

            def _view(self) -> Array:
                return np.ctypeslib.as_array((ctypes.c_uint8 * self.size).from_address(self.handle))

            def copy_from(self, src, *, stream, options=None):
                assert src.size == self.size
                gpu.copied.append(self.size)
                alive = weakref.ref(src)

                def copy() -> None:
                    source = alive()
                    assert source is not None, "what is copied is gone"
                    np.copyto(self._view(), source._view())

                gpu.do(stream.handle, "copy in", copy)

            def copy_to(self, dst=None, *, stream, options=None):
                assert dst.size == self.size
                gpu.copied.append(self.size)
                gpu.do(stream.handle, "copy out", lambda: np.copyto(dst._view(), self._view()))

            def close(self, stream=None):
                def give_back() -> None:
                    memory = gpu.live.pop(self.handle)
                    memory.check()
                    memory.bytes[:] = NONSENSE

                gpu.do(stream.handle, "free", give_back)

        def allocate(size: int) -> Buffer:
            assert gpu.is_current and size > 0
            memory = Memory(size)
            gpu.live[memory.pointer] = memory
            gpu.most = max(gpu.most, sum(each.size for each in gpu.live.values()))
            return Buffer(memory.pointer, size, memory)

        @like(real.LegacyPinnedMemoryResource)
        class LegacyPinnedMemoryResource:
            def allocate(self, size, *, stream=None):
                gpu.calls.append("pin")
                return allocate(size)

        @like(real.Event)
        class Event:
            def __init__(self, stream: Any) -> None:
                self._stream, self._after = stream, len(stream._work)

            def sync(self):
                self._stream._run(self._after)

        @like(real.Stream)
        class Stream:
            def __init__(self) -> None:
                self.handle = 1000 + len(gpu.streams)
                gpu.streams[self.handle] = self
                self._work: list[Callable[[], None]] = []
                self._done = 0
                self._captured: list[Callable[[], None]] | None = None

            def _put(self, work: Callable[[], None]) -> None:
                (self._work if self._captured is None else self._captured).append(work)

            def _run(self, until: int) -> None:
                assert self._captured is None, "waiting ends a capture"
                while self._done < until:
                    self._work[self._done]()
                    self._done += 1

            def sync(self):
                self._run(len(self._work))

            def record(self, event=None, options=None):
                assert isinstance(options, real.EventOptions)
                return Event(self)

            def create_graph_builder(self):
                return GraphBuilder(self)

        @like(RealBuilder)
        class GraphBuilder:
            def __init__(self, stream: Stream) -> None:
                self._stream = stream

            def begin_building(self, mode="relaxed"):
                assert mode in ("global", "thread_local", "relaxed")
                gpu.calls.append("capture")
                self._stream._captured = []
                return self

            def end_building(self):
                self._work, self._stream._captured = self._stream._captured, None
                return self

            def complete(self, options=None):
                return Graph(self._work)

        @like(RealGraph)
        class Graph:
            def __init__(self, work: list[Callable[[], None]]) -> None:
                self._work = work

            def launch(self, stream):
                gpu.calls.append("replay")
                for work in self._work:
                    stream._put(work)

        @like(real.Kernel)
        class Kernel:
            def __init__(self, name: str) -> None:
                self._name = name

        @like(real.ObjectCode)
        class ObjectCode:
            def __init__(self, names: set[str]) -> None:
                self._names = names

            @staticmethod
            def from_cubin(module, *, name="", symbol_mapping=None):
                return ObjectCode({name for name in KERNELS if b".text." + name.encode() + b"\0" in module})

            def get_kernel(self, name):
                assert name in self._names, f"the cubin has no {name!r}"
                return Kernel(name)

        @like(real.Device)
        class Device:
            def __init__(self, device_id=None) -> None:
                assert device_id == 0
                facts = {"integrated": gpu.integrated, "can_map_host_memory": True, "unified_addressing": True}
                assert all(hasattr(DeviceProperties, name) for name in facts)
                self.properties = SimpleNamespace(**facts)
                self.compute_capability = ComputeCapability(*gpu.capability)

            def set_current(self, ctx=None):
                gpu.is_current = True

            def create_stream(self, obj=None, options=None):
                assert gpu.is_current
                return Stream()

            def allocate(self, size, *, stream):
                return allocate(size)

        def launch(stream, config, kernel, *kernel_args):
            assert isinstance(config, real.LaunchConfig) and config.cluster is None
            x, y, z = config.block
            assert x * y * z <= cuda.THREADS
            holder = ParamHolder(kernel_args)

            def work(keep: Any = (holder, kernel_args)) -> None:
                gpu.kernels.launch(kernel._name, config.grid, config.block, holder.ptr)

            gpu.do(stream.handle, kernel._name, work)

        return SimpleNamespace(
            Buffer=Buffer,
            Device=Device,
            EventOptions=real.EventOptions,
            LaunchConfig=real.LaunchConfig,
            LegacyPinnedMemoryResource=LegacyPinnedMemoryResource,
            ObjectCode=ObjectCode,
            launch=checked(real.launch, launch),
        )


class NumpySession:
    """A DeviceSession whose engine is a function of windows [N, 1, D, H, W]; its memory is the stand-in's."""

    def __init__(self, gpu: FakeGpu, taken: TensorSpec, given: TensorSpec, engine: Callable[[Array], Array]) -> None:
        self.gpu, self.inputs, self.outputs, self.engine = gpu, (taken,), (given,), engine
        self.layout, self.can_capture = "linear", True
        self._bound: dict[str, int] = {}

    def run(self, inputs: Any) -> Any:
        raise AssertionError("the GPU loop does not run the session on the CPU's arrays")

    def bind(self, name: str, pointer: int) -> None:
        self._bound[name] = pointer

    def capturable(self, stream_handle: int) -> bool:
        return self.can_capture

    def enqueue(self, stream_handle: int) -> None:
        taken, given = self.inputs[0], self.outputs[0]
        extra = (32,) if self.layout == "cdhw32" else ()
        pointers = self._bound[taken.name], self._bound[given.name]

        def work() -> None:
            windows = self._array(pointers[0], (*taken.shape, *extra), taken.dtype)
            if extra:
                assert not windows[..., 1:].any(), "channels that the volume does not have are zero"
                windows = windows[..., 0]
            self._array(pointers[1], given.shape, given.dtype)[...] = self.engine(windows)

        self.gpu.do(stream_handle, "engine", work)

    @staticmethod
    def _array(pointer: int, shape: Any, dtype: str) -> Array:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype).reshape(shape)


@pytest.fixture
def gpu_of(kernels: Kernels, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FakeGpu]]:
    """Makes a stand-in GPU that `run_on_gpu` finds; memory is looked at in the end."""
    made: list[FakeGpu] = []

    def make(**facts: Any) -> FakeGpu:
        gpu = FakeGpu(kernels, **facts)
        monkeypatch.setattr(cuda, "cuda_core", lambda: gpu.core)
        made.append(gpu)
        return gpu

    yield make
    for gpu in made:
        gpu.finish()


@pytest.fixture(scope="session")
def session_on() -> type[NumpySession]:
    return NumpySession


@pytest.fixture(scope="session")
def cubin() -> bytes:
    """What the stand-in takes for a cubin: the names of all kernels, as ELF has them."""
    return b"".join(b".text." + name.encode() + b"\0" for name in KERNELS)


@pytest.fixture(scope="session")
def gpu_class() -> type[FakeGpu]:
    return FakeGpu
