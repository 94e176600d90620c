"""What the 3-D pixel shuffle means, as ONNX functions: alone or with a skip tensor behind it, in float and in int8."""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from trtforge.plugins.pixel_shuffle_3d.deconvolution import TRANSPOSE
from trtforge.surgery.op import function_proto

FLOAT = "PixelShuffle3d"
FLOAT_CONCAT = "PixelShuffle3dConcat"
INT8 = "PixelShuffle3dInt8"
INT8_CONCAT = "PixelShuffle3dConcatInt8"


def pixel_shuffle_3d() -> FunctionProto:
    """x [N, 8K, D, H, W] -> y [N, K, 2D, 2H, 2W], y[n, k, 2d+t, 2h+r, 2w+s] = x[n, 8k + 4t + 2r + s, d, h, w].

    Any type that ONNX can move; every size may be unknown until it runs.
    """
    doc = "Channels spread into cubes of 2x2x2 voxels."
    return function_proto(FLOAT, ["x"], ["y"], _shuffle("x", "y"), doc=doc)


def pixel_shuffle_3d_concat() -> FunctionProto:
    """(x [N, 8K, D, H, W], skip [N, C, 2D, 2H, 2W]) -> y [N, K + C, 2D, 2H, 2W]: the shuffled x, then skip."""
    nodes = [*_shuffle("x", "shuffled"), _concat("shuffled", "skip")]
    doc = "Channels spread into cubes of 2x2x2 voxels; a second tensor's channels behind them."
    return function_proto(FLOAT_CONCAT, ["x", "skip"], ["y"], nodes, doc=doc)


def pixel_shuffle_3d_int8() -> FunctionProto:
    """`pixel_shuffle_3d` of int8, in steps of the output: clip(rint(x * R), -128, 127), half to even.

    Attributes: ``input_scale``, ``output_scale`` (> 0). R = input_scale / output_scale and the product are float32. Of
    equal scales R is 1, and nothing changes.
    """
    nodes = [*_steps("output_scale"), *_rescale("x", "input_scale", "moved"), *_shuffle("moved", "y")]
    attributes = ["input_scale", "output_scale"]
    return function_proto(INT8, ["x"], ["y"], nodes, attributes=attributes, doc="PixelShuffle3d of quantized values.")


def pixel_shuffle_3d_concat_int8() -> FunctionProto:
    """`pixel_shuffle_3d_concat` of int8: both inputs in steps of the output, as `pixel_shuffle_3d_int8` has it.

    Attributes: ``input_scale`` of x, ``skip_scale``, ``output_scale``.
    """
    nodes = [
        *_steps("output_scale"),
        *_rescale("x", "input_scale", "moved"),
        *_rescale("skip", "skip_scale", "moved_skip"),
        *_shuffle("moved", "shuffled"),
        _concat("shuffled", "moved_skip"),
    ]
    attributes = ["input_scale", "skip_scale", "output_scale"]
    doc = "PixelShuffle3dConcat of quantized values, brought to one scale."
    return function_proto(INT8_CONCAT, ["x", "skip"], ["y"], nodes, attributes=attributes, doc=doc)


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _shuffle(source: str, result: str) -> list[NodeProto]:
    """[N, 8K, D, H, W] to [N, K, 2, 2, 2, D, H, W], turned, to [N, K, 2D, 2H, 2W]; sizes are read while it runs."""
    return [
        _node("Shape", [source], "size", start=2),
        _node("Constant", [], "cubes", value_ints=[0, -1, 2, 2, 2]),
        _node("Constant", [], "channels", value_ints=[0, -1]),
        _node("Constant", [], "two", value_ints=[2]),
        _node("Concat", ["cubes", "size"], "split_shape", axis=0),
        _node("Mul", ["size", "two"], "doubled"),
        _node("Concat", ["channels", "doubled"], "joined_shape", axis=0),
        _node("Reshape", [source, "split_shape"], "split"),
        _node("Transpose", ["split"], "turned", perm=TRANSPOSE),
        _node("Reshape", ["turned", "joined_shape"], result),
    ]


def _concat(first: str, second: str) -> NodeProto:
    return _node("Concat", [first, second], "y", axis=1)


def _attribute(name: str) -> NodeProto:
    """A float attribute of the function as a tensor of its name."""
    node = helper.make_node("Constant", [], [name])
    node.attribute.append(AttributeProto(name="value_float", ref_attr_name=name, type=AttributeProto.FLOAT))
    return node


def _steps(output_scale: str) -> list[NodeProto]:
    least = helper.make_node("Constant", [], ["least"], value_float=-128.0)
    most = helper.make_node("Constant", [], ["most"], value_float=127.0)
    return [_attribute(output_scale), least, most]


def _rescale(source: str, scale: str, result: str) -> list[NodeProto]:
    return [
        _attribute(scale),
        _node("Div", [scale, "output_scale"], f"{source}_ratio"),
        _node("Cast", [source], f"{source}_float", to=TensorProto.FLOAT),
        _node("Mul", [f"{source}_float", f"{source}_ratio"], f"{source}_scaled"),
        _node("Round", [f"{source}_scaled"], f"{source}_rounded"),
        _node("Clip", [f"{source}_rounded", "least", "most"], f"{source}_clipped"),
        _node("Cast", [f"{source}_clipped"], result, to=TensorProto.INT8),
    ]
