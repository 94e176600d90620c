"""What a small 3-D convolution means, as ONNX functions: in float, and in int8 to int8 or to float."""

from __future__ import annotations

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

from trtforge.surgery.op import function_proto

FLOAT = "Conv3dSmall"
INT8 = "Conv3dSmallInt8"
INT8_TO_FLOAT = "Conv3dSmallInt8ToFloat"


def conv3d_small() -> FunctionProto:
    """(x [N, C, D, H, W], w [O, C, kD, kH, kW], b [O]) -> y, ONNX Conv; attributes ``pads`` (6), ``strides`` (3)."""
    nodes = [_convolution("Conv", ["x", "w", "b"], "y")]
    return function_proto(FLOAT, ["x", "w", "b"], ["y"], nodes, attributes=["pads", "strides"], doc="A Conv.")


def conv3d_small_int8() -> FunctionProto:
    """(x int8 [N, C, D, H, W], w int8 [O, C, kD, kH, kW], multiplier float32 [O], offset float32 [O]) -> y int8.

        y = clip(rint(acc * multiplier[o] + offset[o]), -128, 127)

    acc is the exact integer convolution; a product and a sum, each rounded to float32; half to even. Zero points are
    0: multiplier = input_scale * w_scale[o] / output_scale, offset = b[o] / output_scale. Attributes: ``pads``,
    ``strides``.
    """
    nodes = [
        *_finished("real"),
        helper.make_node("Constant", [], ["least"], value_float=-128.0),
        helper.make_node("Constant", [], ["most"], value_float=127.0),
        helper.make_node("Round", ["real"], ["rounded"]),
        helper.make_node("Clip", ["rounded", "least", "most"], ["clipped"]),
        helper.make_node("Cast", ["clipped"], ["y"], to=TensorProto.INT8),
    ]
    doc = "A Conv of quantized values to quantized values."
    return function_proto(INT8, INPUTS, ["y"], nodes, attributes=["pads", "strides"], doc=doc)


def conv3d_small_int8_to_float() -> FunctionProto:
    """As `conv3d_small_int8`, with y = acc * multiplier[o] + offset[o] in float32 or, rounded from it, float16.

    Zero points are 0: multiplier = input_scale * w_scale[o], offset = b[o]. Attributes: ``pads``, ``strides``, and
    ``to``, the type of y as ONNX numbers it (1 float32, 10 float16).
    """
    cast = helper.make_node("Cast", ["real"], ["y"])
    cast.attribute.append(_reference("to", AttributeProto.INT))
    attributes = ["pads", "strides", "to"]
    doc = "A Conv of quantized values to real ones."
    return function_proto(INT8_TO_FLOAT, INPUTS, ["y"], [*_finished("real"), cast], attributes=attributes, doc=doc)


INPUTS = ["x", "w", "multiplier", "offset"]


def _convolution(operator: str, inputs: list[str], output: str) -> NodeProto:
    node = helper.make_node(operator, inputs, [output])
    node.attribute.extend(_reference(name, AttributeProto.INTS) for name in ("pads", "strides"))
    return node


def _reference(name: str, kind: AttributeProto.AttributeType) -> AttributeProto:
    """An attribute of a body's node that has the value of the function's own of the same name."""
    return AttributeProto(name=name, ref_attr_name=name, type=kind)


def _finished(output: str) -> list[NodeProto]:
    """acc * multiplier + offset, in float32; vectors [O] as [O, 1, 1, 1], against [N, O, D, H, W]."""
    return [
        _convolution("ConvInteger", ["x", "w"], "acc"),
        helper.make_node("Cast", ["acc"], ["acc_float"], to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["axes"], value_ints=[1, 2, 3]),
        helper.make_node("Unsqueeze", ["multiplier", "axes"], ["multipliers"]),
        helper.make_node("Unsqueeze", ["offset", "axes"], ["offsets"]),
        helper.make_node("Mul", ["acc_float", "multipliers"], ["product"]),
        helper.make_node("Add", ["product", "offsets"], [output]),
    ]
