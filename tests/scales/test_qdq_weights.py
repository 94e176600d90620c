"""Weights and biases of a quantized model, in the float type of their scale."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper
from onnx.parser import parse_model

from trtforge.errors.calibration import QdqNotPlain
from trtforge.graph.model import Model
from trtforge.ort import open_session, session_options
from trtforge.scales.codecs.qdq import extract

BIASED = """<ir_version: 9, opset_import: ["" : 19]> g (TYPE[1,2] x) => (TYPE[1,2] out) {
    q = QuantizeLinear(x, s, z)
    d = DequantizeLinear(q, s, z)
    b = DequantizeLinear(b_q, b_s)
    out = Add(d, b)
}"""


def biased(type_: str, bias: list[int], scale: float) -> Model:
    dtype = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16, "float": np.float32}[type_]
    proto = parse_model(BIASED.replace("TYPE", type_))
    values = {"s": np.asarray(0.1, dtype), "z": np.int8(0), "b_q": np.array(bias, np.int32)}
    for name, value in {**values, "b_s": np.asarray(scale, dtype)}.items():
        proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return Model(proto)


@pytest.mark.parametrize("type_", ["float16", "bfloat16", "float"])
def test_integers_of_a_bias_may_be_beyond_its_float_type(type_: str) -> None:
    model = biased(type_, [70000, -70000], 1e-4)
    plain, _ = extract(model)
    (bias,) = plain.proto.graph.initializer
    scale = numpy_helper.to_array(model.proto.graph.initializer[-1])
    values = numpy_helper.to_array(bias)
    assert values.dtype == scale.dtype
    wide = np.array([70000, -70000], np.float32) * scale.astype(np.float32)
    np.testing.assert_array_equal(values, wide.astype(scale.dtype))
    if type_ == "float16":
        x = np.array([[1, 1]], np.float16)
        before, after = (
            open_session(each.proto, each.folder, session_options(threads=1)).run(None, {"x": x})[0]
            for each in (model, plain)
        )
        np.testing.assert_allclose(after, before, rtol=0.02)


@pytest.mark.parametrize(("type_", "scale"), [("float16", 1.0), ("float", np.nan)])
def test_values_beyond_the_float_type_are_refused(type_: str, scale: float) -> None:
    with pytest.raises(QdqNotPlain) as caught:
        extract(biased(type_, [70000, 1], scale))
    largest, kind = ("70000", "float16") if type_ == "float16" else ("nan", "float32")
    assert caught.value.why == f"it dequantizes to numbers up to {largest}, and {kind} does not hold them"
    assert caught.value.where == "b"
