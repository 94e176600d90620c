"""Are these scales of this model?"""

from __future__ import annotations

import pytest
from onnx.parser import parse_model

from trtforge.errors.scales import ScalesNotOfModel
from trtforge.graph.model import Model
from trtforge.scales.identity import check_names, shown_version

GRAPH = """<ir_version: 8, opset_import: ["" : 17]> g (float[1,4] x) => (float[1,4] y) {
    a = Relu(x)
    b = Abs(a)
    y = Neg(b)
}"""
MODEL = Model(parse_model(GRAPH))


@pytest.mark.parametrize("names", [("p", "q"), ("x", "q", "r"), (), ("(Unnamed Layer* 3) [Scale]_output",)])
def test_scales_of_another_model_are_refused(names: tuple[str, ...]) -> None:
    with pytest.raises(ScalesNotOfModel, match="not of this model") as caught:
        check_names(names, MODEL, where="net.cache")
    assert caught.value.where == "net.cache"


def test_half_of_the_names_is_enough_and_the_rest_is_told() -> None:
    found = check_names(["x", "a", "q", "r", "(Unnamed Layer* 3) [Scale]_output"], MODEL)
    assert found.known == ("x", "a") and found.share == 0.5
    strangers, internal = found.findings()
    assert strangers.startswith("2 of 4 scales name no tensor of the model") and "q, r" in strangers
    assert internal.startswith("1 scales are of tensors that TensorRT added")


@pytest.mark.parametrize(
    ("number", "version"), [(8602, "8.6.2"), (7203, "7.2.3"), (100300, "10.3.0"), (101601, "10.16.1")]
)
def test_versions_are_read_back(number: int, version: str) -> None:
    assert shown_version(number) == version
