"""The kernels of the 3D-UNet's plugins on a GPU, bit for bit. Needs an NVIDIA GPU; not yet run on one.

In int8, and where values are only moved, against the ONNX functions in onnxruntime; the float normalization, whose sums
onnxruntime takes in another order, against the same source compiled for the CPU.
`python -m tests.gpu.test_unet3d_plugins` runs a few small cases, which is what compute-sanitizer watches.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.plugins import functions
from tests.plugins.on_host import compile_for_host
from trtforge.backends.tensorrt_rtx_.environment import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.gpu import GpuMemory
from trtforge.kernels.cubins import KernelSet
from trtforge.kernels.launch import Launch
from trtforge.kernels.tensorrt import Loaded
from trtforge.plugins.conv3d_small import function as conv_function
from trtforge.plugins.conv3d_small import launch as conv
from trtforge.plugins.instance_norm_relu import function as norm_function
from trtforge.plugins.instance_norm_relu import launch as norm
from trtforge.plugins.pixel_shuffle_3d import function as shuffle_function
from trtforge.plugins.pixel_shuffle_3d import launch as shuffle

ROOT = Path(__file__).parents[2]
Array = np.ndarray[Any, Any]
Tensors = Mapping[str, Array]
EPSILON = 1e-5
SCALES = (0.05, 0.031, 0.042)


def problem() -> str:
    if why := driver_problem():
        return why
    sm = compute_capability() or "0.0"
    old = float(sm) < float(conv.LOWEST_SM)
    return f"the kernels need SM {conv.LOWEST_SM} or later; this GPU is {sm}" if old else ""


pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(problem()), reason=problem() or "-")]


def on_gpu(
    kernels: KernelSet,
    launches: Sequence[Launch],
    tensors: Tensors,
    output: tuple[Sequence[int], Any],
    **workspace: int,
) -> Array:
    """What the launches write to `y`, of ``output``'s shape and dtype."""
    core = pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    device = core.Device(0)
    device.set_current()
    stream = device.create_stream()
    sm = compute_capability()
    assert sm is not None
    made = np.frombuffer(b"\x7d" * (int(np.prod(output[0])) * np.dtype(output[1]).itemsize), output[1]).copy()
    with GpuMemory(core, device, stream) as memory:
        addresses = {name: memory.put(np.ascontiguousarray(array)) for name, array in tensors.items()}
        addresses |= {"y": memory.put(made), **{name: memory.take(size) for name, size in workspace.items()}}
        addresses.setdefault("skip", 0)
        Loaded(kernels.compile([sm]), device).run(launches, addresses, int(stream.handle))
        memory.get(addresses["y"], made)
    return made.reshape(output[0])


def integers(seed: int, *shape: int) -> Array:
    return np.random.default_rng(seed).integers(-128, 128, shape).astype(np.int8)


# ---- InstanceNormRelu ----------------------------------------------------------------------------------------------


def norm_tensors(x: Array, channels: int) -> dict[str, Array]:
    rng = np.random.default_rng(channels)
    scale, bias = rng.normal(1, 0.5, (2, channels)).astype(np.float32)
    return {"x": x, "scale": scale, "bias": bias}


def norm_float(shape: tuple[int, ...], dtype: str) -> tuple[tuple[Launch, ...], dict[str, Array], Any, dict[str, int]]:
    x = np.random.default_rng(0).normal(3, 2, shape).astype(dtype)
    launches, workspace = norm.launches(shape, dtype, EPSILON), norm.workspace_bytes(shape, dtype)
    return launches, norm_tensors(x, shape[1]), (shape, dtype), workspace


def check_norm_int8(shape: tuple[int, ...]) -> None:
    x, channels = integers(1, *shape), shape[1]
    tensors, (taken, _, given) = norm_tensors(x, channels), SCALES
    attributes = {"epsilon": EPSILON, "input_scale": taken, "output_scale": given}
    want = functions.evaluated(norm_function.instance_norm_relu_int8(), *tensors.values(), **attributes)
    tensors["x"] = functions.cdhw32(x, garbage=True)
    launches = norm.launches(shape, "int8", EPSILON, taken, given)
    workspace = norm.workspace_bytes(shape, "int8")
    got = on_gpu(norm.KERNEL_SET, launches, tensors, (tensors["x"].shape, np.int8), **workspace)
    assert np.array_equal(functions.linear(got, channels), want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1, 32, 32, 32, 32), (2, 5, 13, 33, 31), (3, 320, 4, 4, 4), (1, 1, 1, 1, 1)])
def test_float_normalization_has_the_bits_of_the_cpu(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    launches, tensors, output, workspace = norm_float(shape, dtype)
    host = compile_for_host(norm.KERNEL_SET, norm.KERNELS, tmp_path)
    want = host(launches, tensors, output, workspace)
    got = on_gpu(norm.KERNEL_SET, launches, tensors, output, **workspace)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_normalization_is_the_same_each_time(dtype: str) -> None:
    launches, tensors, output, workspace = norm_float((1, 32, 128, 128, 128), dtype)
    runs = {on_gpu(norm.KERNEL_SET, launches, tensors, output, **workspace).tobytes() for _ in range(5)}
    assert len(runs) == 1


def test_float_normalization_is_near_onnxruntime() -> None:
    launches, tensors, output, workspace = norm_float((2, 8, 32, 48, 40), "float32")
    want = functions.evaluated(norm_function.instance_norm_relu(), *tensors.values(), epsilon=EPSILON)
    got = on_gpu(norm.KERNEL_SET, launches, tensors, output, **workspace)
    assert np.abs(got - want).max() <= 1e-5


@pytest.mark.parametrize(
    "shape", [(1, 32, 64, 128, 128), (2, 64, 40, 33, 31), (1, 320, 4, 4, 4), (3, 40, 5, 7, 9), (1, 1, 1, 1, 1)]
)
def test_int8_normalization(shape: tuple[int, ...]) -> None:
    check_norm_int8(shape)


# ---- PixelShuffle3d ------------------------------------------------------------------------------------------------


def check_shuffle(x: Array, skip: Array | None, scales: tuple[float, float, float] = SCALES) -> None:
    int8, behind, channels = x.dtype == np.int8, 0 if skip is None else skip.shape[1], x.shape[1] // 8
    named = dict(zip(("input_scale", "skip_scale", "output_scale"), scales, strict=True)) if int8 else {}
    launches = shuffle.launches(x.shape, x.dtype.name, behind, *scales)
    suffix = "_int8" if int8 else ""
    if skip is None:
        named.pop("skip_scale", None)
        want = functions.evaluated(getattr(shuffle_function, f"pixel_shuffle_3d{suffix}")(), x, **named)
    else:
        want = functions.evaluated(getattr(shuffle_function, f"pixel_shuffle_3d_concat{suffix}")(), x, skip, **named)
    tensors = {"x": x} if skip is None else {"x": x, "skip": skip}
    if not int8:
        got = on_gpu(shuffle.KERNEL_SET, launches, tensors, (want.shape, want.dtype))
    else:
        tensors = {name: functions.cdhw32(array) for name, array in tensors.items()}
        shape = (len(x), -(-channels // 32) + -(-behind // 32), *want.shape[2:], 32)
        got = functions.linear(on_gpu(shuffle.KERNEL_SET, launches, tensors, (shape, np.int8)), channels + behind)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
@pytest.mark.parametrize(
    ("channels", "behind", "size", "batch"),
    [
        (32, 32, (32, 32, 64), 1),
        (320, 320, (4, 4, 4), 2),
        (64, 0, (8, 16, 16), 3),
        (32, 5, (3, 5, 7), 2),
        (7, 0, (1, 1, 1), 1),
    ],
)
def test_the_shuffle(dtype: str, channels: int, behind: int, size: tuple[int, ...], batch: int) -> None:
    x = integers(2, batch, 8 * channels, *size).astype(dtype)
    skip = integers(3, batch, behind, *(2 * each for each in size)).astype(dtype) if behind else None
    check_shuffle(x, skip)
    check_shuffle(x, skip, (0.1, 0.1, 0.1))


# ---- Conv3dSmall ---------------------------------------------------------------------------------------------------


def vectors(outputs: int, scale: float) -> dict[str, Array]:
    rng = np.random.default_rng(outputs)
    multiplier, offset = rng.uniform(0.5, 1.5, outputs) * scale, rng.normal(0, 20, outputs)
    return {"multiplier": multiplier.astype(np.float32), "offset": offset.astype(np.float32)}


def check_first(shape: tuple[int, ...], outputs: int, stride: int) -> None:
    tensors = {"x": integers(4, *shape), "w": integers(5, outputs, 1, 3, 3, 3), **vectors(outputs, 1 / 600)}
    attributes = {"pads": [1] * 6, "strides": [stride] * 3}
    want = functions.evaluated(conv_function.conv3d_small_int8(), *tensors.values(), **attributes)
    launches = conv.launches(shape, tensors["w"].shape, "int8", [1] * 6, [stride] * 3)
    output = ((shape[0], outputs // 32, *want.shape[2:], 32), np.int8)
    assert np.array_equal(functions.linear(on_gpu(conv.KERNEL_SET, launches, tensors, output), outputs), want)


def check_last(shape: tuple[int, ...], outputs: int, dtype: str) -> None:
    tensors = {"x": integers(6, *shape), "w": integers(7, outputs, shape[1], 1, 1, 1), **vectors(outputs, 1e-3)}
    attributes = {"pads": [0] * 6, "strides": [1] * 3, "to": {"float32": 1, "float16": 10}[dtype]}
    want = functions.evaluated(conv_function.conv3d_small_int8_to_float(), *tensors.values(), **attributes)
    launches = conv.launches(shape, tensors["w"].shape, dtype, [0] * 6, [1] * 3)
    tensors["x"] = functions.cdhw32(tensors["x"])
    assert on_gpu(conv.KERNEL_SET, launches, tensors, (want.shape, dtype)).tobytes() == want.tobytes()


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("shape", "outputs"), [((1, 1, 64, 64, 64), 32), ((2, 1, 9, 17, 35), 96), ((3, 1, 1, 1, 1), 32)]
)
def test_the_first_convolution(shape: tuple[int, ...], outputs: int, stride: int) -> None:
    check_first(shape, outputs, stride)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "outputs"), [((1, 32, 64, 64, 64), 3), ((2, 96, 5, 7, 9), 8), ((3, 64, 1, 1, 1), 1)])
def test_the_last_convolution(shape: tuple[int, ...], outputs: int, dtype: str) -> None:
    check_last(shape, outputs, dtype)


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "initcheck", "synccheck"])
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not on PATH")
    module = "tests.gpu.test_unet3d_plugins"
    command = [sanitizer, "--tool", tool, "--error-exitcode", "1", sys.executable, "-m", module]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


if __name__ == "__main__":
    if why := problem():
        sys.exit(why)
    for dtype in ("float32", "float16"):
        launches, tensors, output, workspace = norm_float((2, 3, 13, 30, 31), dtype)
        on_gpu(norm.KERNEL_SET, launches, tensors, output, **workspace)
        check_shuffle(integers(0, 2, 24, 3, 5, 7).astype(dtype), integers(1, 2, 3, 6, 10, 14).astype(dtype))
        check_last((2, 64, 3, 5, 7), 3, dtype)
    check_norm_int8((2, 40, 9, 11, 13))
    check_shuffle(integers(0, 2, 256, 3, 5, 7), integers(1, 2, 5, 6, 10, 14))
    for stride in (1, 2):
        check_first((2, 1, 9, 10, 35), 64, stride)
