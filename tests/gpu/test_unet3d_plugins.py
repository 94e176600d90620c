"""The kernels of the 3D-UNet's plugins on a GPU, bit for bit. Needs an NVIDIA GPU; not yet run on one.

In int8, and where values are only moved, against the ONNX functions in onnxruntime; the float normalization, whose sums
onnxruntime takes in another order, against the same source compiled for the CPU.
`python -m tests.gpu.test_unet3d_plugins` runs a few small cases, which is what compute-sanitizer watches.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.gpu import device
from tests.gpu.device import on_gpu
from tests.plugins import functions
from tests.plugins.on_host import compile_for_host
from trtforge.kernels.launch import Launch
from trtforge.plugins.conv3d_small import function as conv_function
from trtforge.plugins.conv3d_small import launch as conv
from trtforge.plugins.instance_norm_relu import function as norm_function
from trtforge.plugins.instance_norm_relu import launch as norm
from trtforge.plugins.pixel_shuffle_3d import function as shuffle_function
from trtforge.plugins.pixel_shuffle_3d import launch as shuffle

Array = np.ndarray[Any, Any]
EPSILON = 1e-5
SCALES = (0.05, 0.031, 0.042)


PROBLEM = next(filter(None, (device.problem(each.KERNEL_SET, conv.LOWEST_SM) for each in (conv, norm, shuffle))), "")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(bool(PROBLEM), reason=PROBLEM or "-")]


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
    got = on_gpu(norm.KERNEL_SET, launches, tensors, (tensors["x"].shape, np.int8), workspace)
    assert np.array_equal(functions.linear(got, channels), want)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", [(1, 32, 32, 32, 32), (2, 5, 13, 33, 31), (3, 320, 4, 4, 4), (1, 1, 1, 1, 1)])
def test_float_normalization_has_the_bits_of_the_cpu(tmp_path: Path, shape: tuple[int, ...], dtype: str) -> None:
    launches, tensors, output, workspace = norm_float(shape, dtype)
    want = compile_for_host(norm.KERNEL_SET, norm.KERNELS, tmp_path)(launches, tensors, output, workspace)
    got = on_gpu(norm.KERNEL_SET, launches, tensors, output, workspace)
    assert got.tobytes() == want.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_float_normalization_is_the_same_each_time(dtype: str) -> None:
    launches, tensors, output, workspace = norm_float((1, 32, 128, 128, 128), dtype)
    runs = {on_gpu(norm.KERNEL_SET, launches, tensors, output, workspace).tobytes() for _ in range(5)}
    assert len(runs) == 1


def test_float_normalization_is_near_onnxruntime() -> None:
    launches, tensors, output, workspace = norm_float((2, 8, 32, 48, 40), "float32")
    want = functions.evaluated(norm_function.instance_norm_relu(), *tensors.values(), epsilon=EPSILON)
    got = on_gpu(norm.KERNEL_SET, launches, tensors, output, workspace)
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
        got = on_gpu(shuffle.KERNEL_SET, launches, tensors, (want.shape, want.dtype), {})
    else:
        tensors = {name: functions.cdhw32(array) for name, array in tensors.items()}
        shape = (len(x), -(-channels // 32) + -(-behind // 32), *want.shape[2:], 32)
        got = functions.linear(on_gpu(shuffle.KERNEL_SET, launches, tensors, (shape, np.int8), {}), channels + behind)
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
    assert np.array_equal(functions.linear(on_gpu(conv.KERNEL_SET, launches, tensors, output, {}), outputs), want)


def check_last(shape: tuple[int, ...], outputs: int, dtype: str) -> None:
    tensors = {"x": integers(6, *shape), "w": integers(7, outputs, shape[1], 1, 1, 1), **vectors(outputs, 1e-3)}
    attributes = {"pads": [0] * 6, "strides": [1] * 3, "to": {"float32": 1, "float16": 10}[dtype]}
    want = functions.evaluated(conv_function.conv3d_small_int8_to_float(), *tensors.values(), **attributes)
    launches = conv.launches(shape, tensors["w"].shape, dtype, [0] * 6, [1] * 3)
    tensors["x"] = functions.cdhw32(tensors["x"])
    assert on_gpu(conv.KERNEL_SET, launches, tensors, (want.shape, dtype), {}).tobytes() == want.tobytes()


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


# ---- indices of more than 31 bits ----------------------------------------------------------------------------------


def planned(kernels: str, batch: int) -> tuple[Any, ...]:
    """What `on_gpu` takes for a batch of one sample again and again, 64 MiB of int8 on one side at least."""
    wide, spread, size = (batch, 32, 128, 128, 128), (batch, 256, 64, 64, 64), (128, 128, 128)
    if kernels == "normalization":
        tensors = norm_tensors(blocked(batch, 1, size), 32)
        launches = norm.launches(wide, "int8", EPSILON, SCALES[0], SCALES[2])
        return norm.KERNEL_SET, launches, tensors, (tensors["x"].shape, np.int8), norm.workspace_bytes(wide, "int8")
    if kernels == "shuffle":
        launches = shuffle.launches(spread, "int8", 32, *SCALES)
        tensors = {"x": blocked(batch, 8, (64, 64, 64)), "skip": blocked(batch, 1, size)}
        return shuffle.KERNEL_SET, launches, tensors, ((batch, 2, *size, 32), np.int8), {}
    first = kernels == "first convolution"
    w = integers(8, *((32, 1, 3, 3, 3) if first else (3, 32, 1, 1, 1)))
    x = np.repeat(integers(9, 1, 1, *size), batch, 0) if first else blocked(batch, 1, size)
    tensors = {"x": x, "w": w, **vectors(len(w), 1e-3)}
    output: Any = ((batch, 1, *size, 32), np.int8) if first else ((batch, 3, *size), np.float32)
    shape, pads = (batch, 1, *size) if first else wide, [int(first)] * 6
    return conv.KERNEL_SET, conv.launches(shape, w.shape, output[1].__name__, pads, [1] * 3), tensors, output, {}


def blocked(batch: int, blocks: int, size: tuple[int, ...]) -> Array:
    """Samples of equal values in CDHW32."""
    return np.repeat(integers(blocks, 1, blocks, *size, 32), batch, 0)


@pytest.mark.slow
@pytest.mark.parametrize("kernels", ["normalization", "shuffle", "first convolution", "last convolution"])
def test_the_last_samples_of_a_batch_of_2_gib(kernels: str) -> None:
    want, got = on_gpu(*planned(kernels, 1)), on_gpu(*planned(kernels, 33))
    assert len(np.unique(want)) > 40
    assert all(np.array_equal(got[at], want[0]) for at in (0, 16, 31, 32))


@pytest.mark.slow
@pytest.mark.parametrize("tool", device.TOOLS)
def test_compute_sanitizer_finds_nothing(tool: str) -> None:
    device.sanitize("tests.gpu.test_unet3d_plugins", tool)


if __name__ == "__main__":
    if PROBLEM:
        sys.exit(PROBLEM)
    for dtype in ("float32", "float16"):
        launches, tensors, output, workspace = norm_float((2, 3, 13, 30, 31), dtype)
        on_gpu(norm.KERNEL_SET, launches, tensors, output, workspace)
        check_shuffle(integers(0, 2, 24, 3, 5, 7).astype(dtype), integers(1, 2, 3, 6, 10, 14).astype(dtype))
        check_last((2, 64, 3, 5, 7), 3, dtype)
    check_norm_int8((2, 40, 9, 11, 13))
    check_shuffle(integers(0, 2, 256, 3, 5, 7), integers(1, 2, 5, 6, 10, 14))
    for stride in (1, 2):
        check_first((2, 1, 9, 10, 35), 64, stride)
