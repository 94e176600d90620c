"""Q/DQ forms that have no counterpart in a scale table, each with its reason."""

from __future__ import annotations

import numpy as np
import pytest

from tests.scales.test_qdq_extract import CONV, SCALE, conv
from trtforge.errors.calibration import QdqNotPlain
from trtforge.graph.model import Model
from trtforge.scales.codecs.qdq_extract import extract


@pytest.mark.parametrize(
    ("body", "constants", "said"),
    [
        (CONV.replace("d = DequantizeLinear(q, s, z)", "d = Cast<to=1>(q)"), {}, "not only by DequantizeLinear"),
        (CONV.replace("(q, s, z)", "(q, t, z)"), {"t": np.float32(1)}, "not that of the QuantizeLinear"),
        (CONV, {"s": np.full(2, SCALE), "z": np.zeros(2, np.int8)}, "per tensor"),
        (CONV, {"s": np.float32(0)}, "scale of 'x' is 0"),
        (CONV, {"s": np.float32(np.nan)}, "scale of 'x' is nan"),
        (CONV.replace("q = Quant", "s = Abs(t) q = Quant"), {"s": None, "t": np.float32(1)}, "computed in the graph"),
        (
            CONV.replace("q = Quant", "s = DequantizeLinear(t, u) q = Quant"),
            {"s": None, "t": np.uint8(9), "u": SCALE},
            "quantized itself",
        ),
        (CONV.replace("x) =>", "x, float s) =>"), {"s": None}, "given by whoever runs the graph"),
        (
            CONV.replace("q = Quant", "o = trt.TRT_FP8QuantizeLinear(x, s) q = Quant").replace("17]", '17, "trt" : 1]'),
            {},
            "modelopt's own operator, for other types",
        ),
        (
            CONV.replace("q = QuantizeLinear(x, s, z)", "q = Cast<to=3>(x)"),
            {},
            "neither quantized in the graph nor a constant",
        ),
    ],
)
def test_forms_without_counterpart_are_refused(body: str, constants: dict[str, np.ndarray | None], said: str) -> None:
    given_ = {"s": SCALE, "z": np.int8(0), **constants}
    model = conv(body, **{name: value for name, value in given_.items() if value is not None})
    with pytest.raises(QdqNotPlain) as caught:
        extract(model)
    assert said in caught.value.why
    assert caught.value.where


def test_sixteen_bit_and_float_models_are_refused() -> None:
    proto = conv(s=SCALE, z=np.int16(0)).proto
    proto.opset_import[0].version = 21
    with pytest.raises(QdqNotPlain) as caught:
        extract(Model(proto))
    assert "int16" in caught.value.why
    with pytest.raises(QdqNotPlain, match="no Q/DQ nodes"):
        extract(conv(CONV.partition("q =")[0] + " out = Conv(x, w) }"))
