"""What InstanceNormalization and Relu mean together, as ONNX functions: in float, and on int8 values to the bit."""

from __future__ import annotations

from typing import Any

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from trtforge.surgery.op import function_proto

FLOAT = "InstanceNormRelu"
INT8 = "InstanceNormReluInt8"


def instance_norm_relu() -> FunctionProto:
    """(x [N, C, *spatial], scale [C], bias [C]) -> y of x's shape and type; attribute ``epsilon``. Rank 3 or more."""
    normalize = helper.make_node("InstanceNormalization", ["x", "scale", "bias"], ["normalized"])
    normalize.attribute.append(_reference("epsilon", "epsilon"))
    nodes = [normalize, helper.make_node("Relu", ["normalized"], ["y"])]
    doc = "Every channel of every sample to mean 0 and variance 1, times scale, plus bias; negative values to 0."
    return function_proto(FLOAT, ["x", "scale", "bias"], ["y"], nodes, attributes=["epsilon"], doc=doc)


def instance_norm_relu_int8() -> FunctionProto:
    """(x int8 [N, C, *spatial], scale float32 [C], bias float32 [C]) -> y int8 of x's shape. Rank 3 or more.

    Attributes: ``epsilon`` (> 0), ``input_scale`` and ``output_scale`` (> 0; a value is scale times integer, the zero
    point is 0). Sums of x and of x * x are exact integers in float64 (below 2^53: up to 2^39 voxels a channel). From
    them, in float64, in this order:

        mean = sum / n            variance = max(squares / n - mean * mean, 0)
        deviation = sqrt((input_scale * input_scale) * variance + epsilon)
        gain = (scale * input_scale) / (deviation * output_scale)
        offset = bias / output_scale - mean * gain

    Both are rounded to float32; then in float32, a product and a sum: y = min(rint(max(x * gain + offset, 0)), 127),
    half to even.
    """
    nodes = [
        *_constant("epsilon", "eps"),
        *_constant("input_scale", "from"),
        *_constant("output_scale", "to"),
        *_numbers(),
        # [N, C, voxels], whatever the rank
        _node("Reshape", ["x", "flat_shape"], "flat"),
        _node("Cast", ["flat"], "q", to=TensorProto.FLOAT),
        _node("Cast", ["flat"], "value", to=TensorProto.DOUBLE),
        _node("Shape", ["flat"], "voxels", start=2, end=3),
        _node("Cast", ["voxels"], "n", to=TensorProto.DOUBLE),
        _node("Mul", ["value", "value"], "square"),
        _node("ReduceSum", ["value", "last"], "sum"),
        _node("ReduceSum", ["square", "last"], "squares"),
        _node("Div", ["sum", "n"], "mean"),
        _node("Div", ["squares", "n"], "mean_square"),
        _node("Mul", ["mean", "mean"], "square_mean"),
        _node("Sub", ["mean_square", "square_mean"], "difference"),
        _node("Max", ["difference", "zero"], "variance"),
        _node("Mul", ["from", "from"], "from_squared"),
        _node("Mul", ["from_squared", "variance"], "of_values"),
        _node("Add", ["of_values", "eps"], "stabilized"),
        _node("Sqrt", ["stabilized"], "deviation"),
        *_column("scale"),
        *_column("bias"),
        _node("Mul", ["scale_column", "from"], "scaled"),
        _node("Mul", ["deviation", "to"], "steps"),
        _node("Div", ["scaled", "steps"], "gain_double"),
        _node("Div", ["bias_column", "to"], "bias_steps"),
        _node("Mul", ["mean", "gain_double"], "mean_steps"),
        _node("Sub", ["bias_steps", "mean_steps"], "offset_double"),
        _node("Cast", ["gain_double"], "gain", to=TensorProto.FLOAT),
        _node("Cast", ["offset_double"], "offset", to=TensorProto.FLOAT),
        _node("Mul", ["q", "gain"], "product"),
        _node("Add", ["product", "offset"], "moved"),
        _node("Relu", ["moved"], "positive"),
        _node("Round", ["positive"], "rounded"),
        _node("Min", ["rounded", "most"], "clipped"),
        _node("Cast", ["clipped"], "narrow", to=TensorProto.INT8),
        _node("Shape", ["x"], "shape"),
        _node("Reshape", ["narrow", "shape"], "y"),
    ]
    attributes = ["epsilon", "input_scale", "output_scale"]
    doc = "InstanceNormRelu of dequantized values, quantized again."
    return function_proto(INT8, ["x", "scale", "bias"], ["y"], nodes, attributes=attributes, doc=doc)


def _node(operator: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    return helper.make_node(operator, inputs, [output], **attributes)


def _reference(name: str, attribute: str) -> AttributeProto:
    """An attribute of a body's node that has the value of the function's own."""
    return AttributeProto(name=name, ref_attr_name=attribute, type=AttributeProto.FLOAT)


def _constant(attribute: str, name: str) -> list[NodeProto]:
    """A float attribute of the function as a float64 scalar."""
    node = helper.make_node("Constant", [], [f"{name}_float"])
    node.attribute.append(_reference("value_float", attribute))
    return [node, _node("Cast", [f"{name}_float"], name, to=TensorProto.DOUBLE)]


def _numbers() -> list[NodeProto]:
    """What the body counts with: [0, 0, -1] for Reshape, axes, and two bounds."""
    flat_shape = helper.make_node("Constant", [], ["flat_shape"], value_ints=[0, 0, -1])
    last = helper.make_node("Constant", [], ["last"], value_ints=[2])
    column = helper.make_node("Constant", [], ["column"], value_ints=[1])
    most = helper.make_node("Constant", [], ["most"], value_float=127.0)
    zero = helper.make_node("Constant", [], ["zero"], value=helper.make_tensor("zero", TensorProto.DOUBLE, [], [0.0]))
    return [flat_shape, last, column, most, zero]


def _column(vector: str) -> list[NodeProto]:
    """A float32 vector [C] as float64 [C, 1], against [N, C, voxels]."""
    wide = _node("Cast", [vector], f"{vector}_double", to=TensorProto.DOUBLE)
    return [wide, _node("Unsqueeze", [f"{vector}_double", "column"], f"{vector}_column")]
