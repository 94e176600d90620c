"""Q and DQ nodes around an INT8 plugin: the graph outside stays float, as the rest of the Q/DQ graph expects it."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, helper

from trtforge.scales.table import TensorRange
from trtforge.surgery.op import Names, Situation


def scale_of(tensor: str, situation: Situation) -> float:
    """amax / 127 of a tensor as float32, 1 where calibration saw zeros only; the scale its Q/DQ pairs have."""
    assert situation.ranges is not None  # lowerings refuse before
    amax = situation.ranges[tensor]
    return float(TensorRange(-amax, amax, 0).usable_scale)


def quantize(tensor: str, scale: float, result: str, names: Names) -> NodeProto:
    """``result``, int8, from a float tensor. Scale and zero point are of rank 0."""
    return helper.make_node("QuantizeLinear", [tensor, *_parameters(result, scale, names)], [result], name=result)


def dequantize(tensor: str, scale: float, result: str, names: Names) -> NodeProto:
    """``result``, float32, from an int8 tensor."""
    parameters = _parameters(tensor, scale, names)
    return helper.make_node("DequantizeLinear", [tensor, *parameters], [result], name=f"{tensor}_dequantize")


def _parameters(stem: str, scale: float, names: Names) -> list[str]:
    return [
        names.weight(f"{stem}_scale", np.asarray(scale, np.float32)),
        names.weight(f"{stem}_zero_point", np.asarray(0, np.int8)),
    ]
