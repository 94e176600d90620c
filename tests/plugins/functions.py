"""A plugin's functions run by onnxruntime, and the layout of its kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import FunctionProto, TensorProto, helper

from trtforge.surgery.op import DOMAIN, DOMAIN_VERSION, call

Array = np.ndarray[Any, Any]


def evaluated(function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any) -> Array:
    """One function of ours in onnxruntime, as a model that holds nothing else."""
    model = model_of(function, *inputs, dynamic=dynamic, **attributes)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (result,) = session.run(None, dict(zip(function.input, inputs, strict=True)))
    return np.asarray(result)


def model_of(function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any) -> onnx.ModelProto:
    """A model of one call. ``dynamic``: the batch is not known when it is made. Checked, with full shape inference."""

    def shape(array: Array) -> list[int | str]:
        return ["N", *array.shape[1:]] if dynamic and array.ndim > 2 else [*array.shape]

    taken = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), shape(array))
        for name, array in zip(function.input, inputs, strict=True)
    ]
    given = helper.make_tensor_value_info("y", TensorProto.UNDEFINED, None)
    graph = helper.make_graph([call(function.name, function.input, ["y"], "call", **attributes)], "g", taken, [given])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=10)
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    onnx.checker.check_model(inferred)
    return inferred


def inferred_shape(
    function: FunctionProto, *inputs: Array, dynamic: bool = False, **attributes: Any
) -> list[int | str]:
    """The sizes that ONNX infers for a function's result."""
    sizes = model_of(function, *inputs, dynamic=dynamic, **attributes).graph.output[0].type.tensor_type.shape.dim
    return [size.dim_param or size.dim_value for size in sizes]


def cdhw32(array: Array, garbage: bool = False) -> Array:
    """int8 [N, C, D, H, W] -> [N, ceil(C / 32), D, H, W, 32]; channels that fill up get zeros, or anything."""
    n, c, *size = array.shape
    blocks = -(-c // 32)
    padded = np.zeros((n, blocks * 32, *size), np.int8)
    if garbage:
        padded[...] = np.random.default_rng(77).integers(-128, 128, padded.shape)
    padded[:, :c] = array
    return np.ascontiguousarray(np.moveaxis(padded.reshape(n, blocks, 32, *size), 2, -1))


def linear(array: Array, channels: int) -> Array:
    """The inverse; channels that fill up must be zero."""
    n, blocks, *size, _ = array.shape
    whole = np.moveaxis(array, -1, 2).reshape(n, blocks * 32, *size)
    assert not whole[:, channels:].any(), "channels that fill up are not zero"
    return whole[:, :channels]
