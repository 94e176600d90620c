"""The whole device loop, on the stand-in for cuda-core, against the accumulator of the CPU: label for label."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trtforge import gpu as gpu_module
from trtforge.backends.base import TensorSpec
from trtforge.backends.nvidia.session import Border
from trtforge.errors.engine import ExecutionFailed, ForeignGpu, WrongFeed
from trtforge.errors.environment import MissingPackage
from trtforge.errors.windows import NotVoxelwise, ScoresNotFinite
from trtforge.recipe.models import Windows
from trtforge.runtime.windows import choose, cuda
from trtforge.runtime.windows.accumulate import NumpyAccumulator
from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.cuda_memory import device_memory, ring_size
from trtforge.runtime.windows.loop import Window
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid

Array = np.ndarray[Any, Any]
SHAPE, WINDOW = (10, 13, 9), (4, 6, 5)


class Network:
    """Scores that differ from voxel to voxel of a window and from class to class, computed window by window."""

    def __init__(self, channels: int, window: tuple[int, ...], dtype: str = "float32", seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.gain = rng.normal(size=(channels, 1, 1, 1)).astype(np.float32)
        self.bias = rng.normal(size=(channels, *window)).astype(np.float32)
        self.dtype = dtype

    def __call__(self, windows: Array) -> Array:
        return (windows.astype(np.float32) * self.gain + self.bias).astype(self.dtype)


def on_cpu(network: Network, volume: Array, grid: WindowGrid, weights: WindowWeights) -> Array:
    labels = np.empty(grid.shape, np.uint8)
    sums = NumpyAccumulator(Blocks.of(grid), weights, len(network.gain), labels=labels)
    for index in grid:
        sums.push(index, network(volume[grid.slices(index)][None, None])[0].astype(np.float32))
    return labels


def volume_of(shape: tuple[int, ...], dtype: str = "float32", seed: int = 1) -> Array:
    rng = np.random.default_rng(seed)
    return rng.integers(-127, 128, shape).astype("int8") if dtype == "int8" else rng.normal(size=shape).astype(dtype)


class Case:
    """One run on the stand-in, and what the CPU makes of the same."""

    def __init__(
        self,
        gpu: Any,
        session_on: Any,
        *,
        shape: Any = SHAPE,
        window: Any = WINDOW,
        overlap: float = 0.5,
        mode: Any = "mlperf",
        channels: int = 3,
        batch: int = 1,
        taken: str = "float32",
        given: str = "float32",
        volume: str | None = None,
    ) -> None:
        self.grid = WindowGrid.of(shape, window, overlap)
        self.weights = WindowWeights.of(mode, window)
        self.volume = volume_of(shape, volume or taken)
        self.network = Network(channels, window, given)
        self.session = session_on(
            gpu,
            TensorSpec("image", (batch, 1, *window), taken),
            TensorSpec("scores", (batch, channels, *window), given),
            self.network,
        )

    def run(self, cubins: Any, **options: Any) -> Array:
        self.session.layout = options.get("layout", "linear")
        return cuda.run_on_gpu(self.session, self.volume, self.grid, self.weights, cubins, **options)

    def expected(self, volume: Array | None = None) -> Array:
        return on_cpu(self.network, self.volume if volume is None else volume, self.grid, self.weights)


@pytest.mark.parametrize("mode", ["mlperf", "monai", "constant"])
@pytest.mark.parametrize("overlap", [0.25, 0.5, 0.75])
@pytest.mark.parametrize(
    ("shape", "window"),
    [
        ((10, 13, 9), (4, 6, 5)),  # the last window is shifted in along every axis
        ((4, 6, 31), (4, 6, 5)),  # a ring along W
        ((9, 30, 7), (4, 5, 6)),  # along H
        ((16, 8, 8), (4, 4, 4)),  # all windows at multiples
        ((5, 5, 5), (5, 5, 5)),  # one window
    ],
)
def test_labels_are_those_of_the_cpu(gpu_of, session_on, cubin, shape, window, overlap: float, mode: str) -> None:
    case = Case(gpu_of(), session_on, shape=shape, window=window, overlap=overlap, mode=mode, batch=3)
    got = case.run({"8.0": cubin})
    assert got.dtype == np.uint8
    assert np.array_equal(got, case.expected())
    assert len(np.unique(got)) == 3


@pytest.mark.parametrize("integrated", [False, True])
@pytest.mark.parametrize("given", ["float16", "float32"])
@pytest.mark.parametrize("channels", range(1, 7))
def test_any_number_of_classes(gpu_of, session_on, cubin, channels: int, given: str, integrated: bool) -> None:
    case = Case(gpu_of(integrated=integrated), session_on, channels=channels, given=given, taken="float16", batch=2)
    assert np.array_equal(case.run({"8.0": cubin}), case.expected())


@pytest.mark.parametrize("layout", ["linear", "cdhw32"])
def test_an_engine_that_is_int8_inside_and_floats_outside(gpu_of, session_on, cubin, layout: str) -> None:
    """As native TensorRT's sessions are: what is bound is not what `run` takes. The loop chooses by what is inside."""
    scale = np.float32(0.031)
    case = Case(gpu_of(), session_on, taken="int8", volume="float32", batch=2)
    case.network.gain *= np.float32(0.05)
    session, plain = case.session, TensorSpec("image", (2, 1, *WINDOW), "float32")
    session.layout = layout
    inside = {"image": Border("image", True, plain.shape, np.dtype("int8"), np.dtype("float32"), layout, float(scale))}
    given = np.dtype(session.outputs[0].dtype)
    inside["scores"] = Border("scores", False, session.outputs[0].shape, given, given, "linear", None)
    taken = session.inputs
    session.inputs, session.borders = (plain,), inside
    options = Windows(overlap=0.5, weights="mlperf")
    loop = choose.Loop(options, case.weights, {"8.0": cubin})
    assert loop.on_gpu(session, probabilities=False)
    # The stand-in's engine reads what is bound, by its own specification.
    session.enqueue = functools.partial(enqueue_as, session, taken)
    got = loop.run(session, case.volume, plain.shape).labels
    fed = np.clip(np.rint(case.volume / scale), -127, 127).astype(np.int8)
    assert np.array_equal(got, case.expected(fed))
    session.borders = inside | {"image": dataclasses.replace(inside["image"], format="chw4")}
    assert not loop.on_gpu(session, probabilities=False)


def enqueue_as(session: Any, inputs: Any, handle: int) -> None:
    outside, session.inputs = session.inputs, inputs
    try:
        type(session).enqueue(session, handle)
    finally:
        session.inputs = outside


@pytest.mark.parametrize("layout", ["linear", "cdhw32"])
@pytest.mark.parametrize("volume", ["int8", "float32", "float64"])
def test_an_int8_engine_is_fed_from_either_volume(gpu_of, session_on, cubin, volume: str, layout: str) -> None:
    scale = np.float32(0.031)
    case = Case(gpu_of(), session_on, taken="int8", volume=volume, batch=2)
    case.network.gain *= np.float32(0.05)
    got = case.run({"8.0": cubin}, layout=layout, scale=None if volume == "int8" else float(scale))
    fed = case.volume
    if volume != "int8":
        fed = np.clip(np.rint(fed.astype(np.float32) / scale), -127, 127).astype(np.int8)
    assert np.array_equal(got, case.expected(fed))


@settings(max_examples=50, deadline=None)
@given(data=st.data())
def test_any_grid(kernels, gpu_class, session_on, cubin, data: st.DataObject) -> None:
    window = tuple(data.draw(st.integers(1, 7)) for _ in range(3))
    shape = tuple(length + data.draw(st.integers(0, 6)) for length in window)
    gpu = gpu_class(kernels, integrated=data.draw(st.booleans()))
    case = Case(
        gpu,
        session_on,
        shape=shape,
        window=window,
        overlap=data.draw(st.sampled_from([0.0, 0.25, 0.5, 0.6, 0.75, 0.9])),
        mode=data.draw(st.sampled_from(["mlperf", "monai", "constant"])),
        channels=data.draw(st.integers(1, 6)),
        batch=data.draw(st.integers(1, 5)),
        taken=data.draw(st.sampled_from(["float16", "float32"])),
        given=data.draw(st.sampled_from(["float16", "float32"])),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuda, "cuda_core", lambda: gpu.core)
        got = case.run({"8.0": cubin}, graph=data.draw(st.booleans()))
    gpu.finish()
    assert np.array_equal(got, case.expected())


# -- the order of things -------------------------------------------------------------------------------------------


def names(calls: list[str]) -> list[str]:
    return [call.partition("_")[0] for call in calls]


def test_one_copy_in_then_batches_then_one_copy_out(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of()
    case = Case(gpu, session_on, shape=(4, 4, 10), window=(4, 4, 4), batch=2)  # windows at 0, 2, 4, 6
    case.run({"8.0": cubin})
    batch = ["slice"] * 2 + ["engine"] + ["accumulate"] * 2
    assert names(gpu.calls) == ["copy in"] * 3 + batch * 2 + ["copy out"] * 2 + ["free"] * 7
    voxels = 4 * 4 * 10
    weights, met_nan = 3 * 4 * 4, 4
    assert gpu.copied == [voxels * 4, weights, met_nan, met_nan, voxels]


def test_a_batch_that_is_not_full_is_filled_up_and_not_added_up(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of()
    case = Case(gpu, session_on, shape=(4, 4, 8), window=(4, 4, 4), batch=4)  # windows at 0, 2, 4
    assert np.array_equal(case.run({"8.0": cubin}), case.expected())
    assert names(gpu.calls).count("slice") == 4
    assert names(gpu.calls).count("accumulate") == 3


def test_on_an_soc_nothing_crosses_a_bus(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of(integrated=True, capability=(8, 7))
    case = Case(gpu, session_on)
    assert np.array_equal(case.run({"8.7": cubin}), case.expected())
    assert gpu.copied == []
    assert gpu.calls.count("pin") == 4  # volume, weights, labels, and whether there was NaN


def test_the_engine_is_captured_after_one_ordinary_run(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of()
    case = Case(gpu, session_on, shape=(4, 4, 12), window=(4, 4, 4))  # five windows
    assert np.array_equal(case.run({"8.0": cubin}, graph=True), case.expected())
    engine = [call for call in gpu.calls if call in ("engine", "capture", "replay")]
    assert engine == ["engine", "capture", "engine", *["replay"] * 4]


def test_a_session_that_cannot_be_captured_is_not(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of()
    case = Case(gpu, session_on)
    case.session.can_capture = False
    assert np.array_equal(case.run({"8.0": cubin}, graph=True), case.expected())
    assert "capture" not in gpu.calls


def test_progress_is_what_the_gpu_has_done(gpu_of, session_on, cubin) -> None:
    gpu, told = gpu_of(), []

    class Task:
        def advance(self, steps: int = 1) -> None:
            (stream,) = gpu.streams.values()
            told.append((steps, stream._done, len(stream._work)))

        def __enter__(self) -> Task:
            return self

        def __exit__(self, *_: object) -> None: ...

    class Progress:
        def task(self, label: str, total: int | None) -> Task:
            told.append((label, total))
            return Task()

    case = Case(gpu, session_on, shape=(4, 4, 20), window=(4, 4, 4), batch=2)  # nine windows: the last batch has one
    case.run({"8.0": cubin}, progress=Progress())
    copies, batch, engine = 3, 5, 3
    done = [copies + batch * turn + engine for turn in range(5)]
    given = [copies + batch * turn for turn in (3, 4)] + [copies + batch * 5 - 1] * 3  # at most two batches ahead
    assert told == [("windows", 9), *zip([2, 2, 2, 2, 1], done, given, strict=True)]


def test_memory_is_given_back_when_the_session_fails(gpu_of, session_on, cubin) -> None:
    gpu = gpu_of()  # which looks at it in the end
    case = Case(gpu, session_on)

    def broken(handle: int) -> None:
        raise ExecutionFailed("the engine did not run")

    case.session.enqueue = broken
    with pytest.raises(ExecutionFailed):
        case.run({"8.0": cubin})


# -- refusals ------------------------------------------------------------------------------------------------------


def test_nan_is_refused(gpu_of, session_on, cubin) -> None:
    case = Case(gpu_of(), session_on)
    case.network.bias[1, 0, 0, 0] = np.nan
    with pytest.raises(ScoresNotFinite):
        case.run({"8.0": cubin})


def test_a_foreign_cubin_is_refused(gpu_of, session_on, cubin) -> None:
    case = Case(gpu_of(capability=(8, 7)), session_on)
    with pytest.raises(ForeignGpu, match="kernels kept with the engine") as caught:
        case.run({"8.0": cubin, "9.0": cubin})
    assert caught.value.why == "the GPU is SM 8.7; kernels are here for 8.0, 9.0"


@pytest.mark.parametrize(
    ("facts", "options", "why"),
    [
        ({"taken": "int8", "volume": "float32"}, {}, "takes int8 in the layout linear, the volume is float32 without"),
        ({"taken": "float32", "volume": "int8"}, {}, "takes float32 in the layout linear, the volume is int8"),
        ({"taken": "float16"}, {"layout": "cdhw32"}, "takes float16 in the layout cdhw32"),
        ({"given": "float64"}, {}, "gives float64 scores"),
    ],
)
def test_what_no_kernel_fits_is_refused_before_the_gpu_is_touched(
    gpu_of, session_on, cubin, facts: dict[str, str], options: dict[str, str], why: str
) -> None:
    gpu = gpu_of()
    with pytest.raises(WrongFeed) as caught:
        Case(gpu, session_on, **facts).run({"8.0": cubin}, **options)
    assert why in caught.value.why
    assert not gpu.is_current


def test_an_output_of_another_size_is_refused(gpu_of, session_on, cubin) -> None:
    case = Case(gpu_of(), session_on)
    case.session.outputs = (TensorSpec("scores", (1, 3, 2, 2, 2), "float32"),)
    with pytest.raises(NotVoxelwise):
        case.run({"8.0": cubin})


def test_cuda_errors_are_told_as_such(gpu_of, session_on, cubin, monkeypatch: pytest.MonkeyPatch) -> None:
    from cuda.core._utils.cuda_utils import CUDAError

    gpu = gpu_of()

    def full(self: Any, size: int, *, stream: Any) -> Any:
        raise CUDAError("CUDA_ERROR_OUT_OF_MEMORY: no room")

    monkeypatch.setattr(gpu.core.Device, "allocate", full)
    with pytest.raises(ExecutionFailed) as caught:
        Case(gpu, session_on).run({"8.0": cubin})
    assert caught.value.why == "CUDA_ERROR_OUT_OF_MEMORY: no room"


def test_without_cuda_core_the_command_is_told(session_on, kernels, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> Any:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(gpu_module, "import_module", missing)
    with pytest.raises(MissingPackage) as caught:
        cuda.cuda_core()
    assert caught.value.next == gpu_module.INSTALL


# -- what stands still ---------------------------------------------------------------------------------------------


def test_every_name_of_cuda_core_exists() -> None:
    """Those that the stand-in might have and the module not."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    source = inspect.getsource(cuda) + inspect.getsource(gpu_module)
    found = set(re.findall(r"\b(?:_|self\._)?core\.([A-Za-z]\w+)", source))
    assert {"Device", "ObjectCode", "LaunchConfig", "launch", "LegacyPinnedMemoryResource"} <= found
    for name in found:
        assert hasattr(core, name), name
    assert issubclass(gpu_module.cuda_error(), Exception)


@pytest.mark.parametrize(("taken", "layout"), [("float32", "linear"), ("int8", "linear"), ("int8", "cdhw32")])
def test_memory_is_predicted_as_it_is_taken(gpu_of, session_on, cubin, taken: str, layout: Any) -> None:
    gpu = gpu_of()
    case = Case(gpu, session_on, taken=taken, batch=2, given="float16")
    case.run({"8.0": cubin}, layout=layout)
    window = Window("image", "scores", 2, WINDOW, 3)
    told = device_memory(case.grid, window, volume=taken, taken=taken, given="float16", layout=layout)
    assert gpu.most == sum(told.values()) + 4 * sum(WINDOW) + 4  # weights, and whether there was NaN


def test_the_accumulator_is_a_window_deep() -> None:
    """The largest volume of KiTS19: 384 windows or more along H and W, so the ring lies along H."""
    grid = WindowGrid.of((320, 448, 448), (128, 128, 128), 0.5)
    assert ring_size(grid) == (320, 128, 448)
    told = device_memory(grid, Window("i", "o", 1, (128, 128, 128), 3), volume="int8", taken="int8", given="float16")
    assert told["accumulator"] == 2 * 320 * 128 * 448 * 4
    assert told["volume"] == told["labels"] == 64_225_280


@pytest.mark.parametrize("width", [*range(1, 70), 96, 128, 160, 192, 200, 224, 256, 320])
def test_a_launch_covers_every_thread_and_wastes_less_than_half(width: int) -> None:
    (x, y, z), (across, rows, one) = cuda.launch_shape((7, 50, width))
    assert (z, one) == (7, 1)
    assert across * rows == cuda.THREADS
    assert x * across >= width > (x - 1) * across
    assert y * rows >= 50 > (y - 1) * rows
    assert x * across < 2 * width
