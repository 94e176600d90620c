"""The whole stage in int8: by our kernels, in onnxruntime by Res2Int8, and its random constants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from trtforge.ort import open_session, session_options
from trtforge.plugins.res2.function import CONVOLUTIONS, Quantized, QuantizedConvolution, int8_function
from trtforge.plugins.res2.launch import CHANNELS_IN, launches, workspace_bytes
from trtforge.plugins.res2.pack import from_chw32, packed, to_chw32
from trtforge.surgery.op import DOMAIN, DOMAIN_VERSION

Array = np.ndarray[Any, Any]


class Kernels:
    """The kernels by what runs them. ``run``: takes launches, tensors, output and workspace, as HostKernels does."""

    def __init__(self, run: Callable[..., Array]) -> None:
        self.run = run

    def __call__(self, x: Array, constants: Quantized, **options: Any) -> Array:
        """x int8 [N, IN, H, W] -> y int8 [N, 4 * MID, H, W]. ``options``: of ``run``."""
        batch, channels_in, height, width = x.shape
        mid = constants.convolutions[CONVOLUTIONS.index("a_2a")].weight.shape[0]
        planned = launches(mid, batch, height, width, channels_in=channels_in)
        tensors = {"x": to_chw32(x), **packed(constants.inputs())}
        output, workspace = (batch, mid // 8, height, width, 32), workspace_bytes(mid, batch, height, width)
        return from_chw32(self.run(planned, tensors, (output, np.int8), workspace, **options))


def shapes(mid: int) -> list[tuple[int, int, int, int]]:
    """Of the weights, the stage's input having CHANNELS_IN."""
    inputs_of = {"a_branch1": CHANNELS_IN, "a_2a": CHANNELS_IN, "b_2a": 4 * mid, "c_2a": 4 * mid}
    found = []
    for name in CONVOLUTIONS:
        inputs = inputs_of.get(name, mid)
        size = 3 if name.endswith("2b") else 1
        found.append((4 * mid if name.endswith(("2c", "branch1")) else mid, inputs, size, size))
    return found


def run(function: onnx.FunctionProto, feeds: Sequence[Array]) -> Array:
    """One call of the function in onnxruntime."""
    types = [helper.np_dtype_to_tensor_dtype(each.dtype) for each in feeds]
    inputs = [
        helper.make_tensor_value_info(name, dtype, each.shape)
        for name, dtype, each in zip(function.input, types, feeds, strict=True)
    ]
    output = helper.make_tensor_value_info("y", types[0], [None] * 4)
    node = helper.make_node(function.name, list(function.input), ["y"], domain=DOMAIN)
    graph = helper.make_graph([node], "res2", inputs, [output])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, ir_version=9)
    onnx.checker.check_model(model)
    (made,) = open_session(model, None, session_options(threads=1)).run(
        None, dict(zip(function.input, feeds, strict=True))
    )
    return made


def constants_of(mid: int, seed: int = 0) -> Quantized:
    """Random, with scales that spread the results over all of int8 and some beyond."""
    rng = np.random.default_rng(seed)
    convolutions = []
    for outputs, inputs, size, _ in shapes(mid):
        weight = rng.integers(-127, 128, (outputs, inputs, size, size)).astype(np.int8)
        spread = 64 / (73 * 50 * np.sqrt(inputs * size * size))  # 73 and 50: spread of weights, of activations
        multiplier = (rng.uniform(0.3, 1.5, (outputs, 1, 1)) * spread).astype(np.float32)
        bias = rng.normal(0, 20, (outputs, 1, 1)).astype(np.float32)
        convolutions.append(QuantizedConvolution(weight, multiplier, bias))
    return Quantized(tuple(convolutions), rng.uniform(0.3, 1.2, 3).astype(np.float32))


def images(shape: Sequence[int], seed: int = 0) -> Array:
    return np.random.default_rng(seed).integers(-128, 128, tuple(shape)).astype(np.int8)


def convolved(x: Array, weight: Array) -> Array:
    """Stride 1, padded to the same size, in the operands' own type."""
    size = weight.shape[-1]
    pad = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    height, width = x.shape[2:]
    taps = [
        np.einsum("oi,nihw->nohw", weight[:, :, dy, dx], padded[:, :, dy : dy + height, dx : dx + width])
        for dy in range(size)
        for dx in range(size)
    ]
    return sum(taps[1:], taps[0])


def by_formula(x: Array, constants: Quantized) -> Array:
    """Res2Int8 as its docstring has it, in NumPy."""
    parts = dict(zip(CONVOLUTIONS, constants.convolutions, strict=True))

    def scaled(name: str, source: Array) -> Array:
        sums = convolved(source.astype(np.int32), parts[name].weight.astype(np.int32))
        product: Array = sums.astype(np.float32) * parts[name].multiplier
        assert product.dtype == np.float32
        return product + parts[name].bias

    def clipped(value: Array, low: int) -> Array:
        return np.clip(np.rint(value), low, 127).astype(np.int8)

    source = x
    for block, rescale in zip("abc", constants.residual, strict=True):
        shortcut = clipped(scaled("a_branch1", source), -128) if block == "a" else source
        inner = clipped(scaled(f"{block}_2a", source), 0)
        inner = clipped(scaled(f"{block}_2b", inner), 0)
        source = clipped(scaled(f"{block}_2c", inner) + shortcut.astype(np.float32) * rescale, 0)
    return source


def onnxruntime_is_exact() -> bool:
    """Whether its int8 sums do not saturate on this CPU."""
    x, w = np.full((1, 64, 3, 3), -128, np.int8), np.full((1, 64, 3, 3), 127, np.int8)
    node = helper.make_node("ConvInteger", ["x", "w"], ["y"])
    infos = [helper.make_tensor_value_info(n, TensorProto.INT8, each.shape) for n, each in (("x", x), ("w", w))]
    output = helper.make_tensor_value_info("y", TensorProto.INT32, None)
    graph = helper.make_graph([node], "sum", infos, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (got,) = open_session(model, None, session_options(threads=1)).run(None, {"x": x, "w": w})
    return bool(got.item() == -128 * 127 * 576)


def reference_of() -> Callable[[Array, Quantized], Array]:
    """Res2Int8 in onnxruntime; by its formula where onnxruntime is not exact."""
    if not onnxruntime_is_exact():
        return by_formula
    return lambda x, constants: run(int8_function(), [x, *constants.inputs()])
