"""The rule on graphs written as text, the lowering, and the TensorRT classes' description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins import rewriting as tools
from trtforge.graph.model import Model
from trtforge.kernels.plugin import Tensor
from trtforge.plugins.conv3d_small import function, launch
from trtforge.plugins.conv3d_small.plugin import KINDS
from trtforge.plugins.conv3d_small.rewrite import OP
from trtforge.surgery.choose import choose
from trtforge.surgery.op import Creator, Situation

Array = np.ndarray[Any, Any]
FIRST = "[conv] r = Conv <pads = [1, 1, 1, 1, 1, 1]> (a, w, b) [after] y = Neg (r)"
LAST = "[conv] y = Conv (a, w, b)"
TO_INT8, TO_FLOAT = KINDS


def graph(inside: str, weight: Any = (32, 1, 3, 3, 3), outputs: str = "", opset: int = 17, ir: int = 8) -> Model:
    """x [2, C, 4, 5, 6], negated before; y its last tensor."""
    head = f"net (float[2, {weight[1]}, 4, 5, 6] x) => (float[a, b, c, d, e] y{outputs})"
    rng = np.random.default_rng(1)
    values = {"w": rng.normal(size=weight), "b": rng.normal(size=weight[0])}
    weights = {name: each.astype(np.float32) for name, each in values.items()}
    return tools.parsed(f"{head} {{ [before] a = Neg (x) {inside} }}", weights, opset, ir)


def last(**other: Any) -> Model:
    return graph(LAST, **{"weight": (3, 32, 1, 1, 1)} | other)


@pytest.mark.parametrize("bias", [", b)", ")"])
@pytest.mark.parametrize("strides", ["", ", strides = [2, 2, 2]"])
def test_the_first(bias: str, strides: str) -> None:
    model = graph(FIRST.replace(", b)", bias).replace("1]>", f"1]{strides}>"))
    after = tools.replaced(model, OP)
    assert [node.op_type for node in after.proto.graph.node] == ["Neg", "Conv3dSmall", "Neg"]
    match = tools.only_match(OP, model)
    assert (match.at, match.inputs, match.outputs) == ("conv", ("a", "w", "b" if "b" in bias else ""), ("r",))
    assert (match.inner, match.ranges) == ((), ("a", "r"))
    assert match.attributes == {"pads": [1] * 6, "strides": [2] * 3 if strides else [1] * 3}


@pytest.mark.parametrize("text", [LAST, LAST.replace(", b", "") + " z = Neg (y)"])
def test_the_last(text: str) -> None:
    """Its result may have readers too: it is a float tensor of its old name."""
    model = last() if text == LAST else graph(text, (8, 64, 1, 1, 1), ", float[f, g, h, i, j] z")
    after = tools.replaced(model, OP)
    assert tools.calls(after) == ["Conv3dSmall"]
    assert tools.only_match(OP, model).ranges == ("a",)


@pytest.mark.parametrize("opset", [13, 17, 19, 22])
def test_opsets(opset: int) -> None:
    for model in (graph(FIRST, opset=opset, ir=10), last(opset=opset, ir=10)):
        after = tools.replaced(model, OP)
        assert [entry.version for entry in after.proto.functions[0].opset_import] == [opset]


def test_weights_that_others_read_stay() -> None:
    inside = FIRST + "[twin] q = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, w, b) [o] z = Neg (w)"
    model = graph(inside, outputs=", float[f, g, h, i, j] q, float[32, 1, 3, 3, 3] z")
    after = tools.replaced(model, OP)
    assert tools.calls(after) == ["Conv3dSmall"] * 2
    assert {tensor.name for tensor in after.proto.graph.initializer} == {"w", "b"}


def test_zeros_for_biases_have_names_of_their_own() -> None:
    inside = "[w_bias] w_bias = Conv <pads = [1, 1, 1, 1, 1, 1]> (a, w) y = Conv <pads = [1, 1, 1, 1, 1, 1]> (x, w)"
    after = tools.replaced(graph(inside, outputs=", float[f, g, h, i, j] w_bias"), OP)
    assert {tensor.name for tensor in after.proto.graph.initializer} == {"w", "w_bias_1", "w_bias_2"}


ONE, THIN, FLAT = (
    (32, 1, 3, 3, 3),
    (3, 32, 1, 1, 1),
    "the first convolution's kernel is for 1 channel, 3x3x3, padded by 1",
)
PADS = "pads = [1, 1, 1, 1, 1, 1]"
POINT = "the last convolution's kernel is for 1x1x1, without pads, with stride 1"
NEAR = {
    "computed bias": ("c = Neg (b)" + FIRST.replace("w, b", "w, c"), ONE, "its bias 'c' is computed in the graph"),
    "dilation": (FIRST.replace(PADS, f"{PADS}, dilations = [1, 1, 2]"), ONE, "it has groups or dilations"),
    "groups": (
        "m = Concat <axis = 1> (a, a)" + FIRST.replace("(a", "(m").replace(PADS, f"{PADS}, group = 2"),
        ONE,
        "it has groups or dilations",
    ),
    "padding by rule": (
        FIRST.replace(PADS, 'auto_pad = "SAME_UPPER"'),
        ONE,
        "its padding is SAME_UPPER; write it as `pads`",
    ),
    "5x5x5": (FIRST, (32, 1, 5, 5, 5), FLAT),
    "no padding": (FIRST.replace(PADS, "group = 1"), ONE, FLAT),
    "stride 3": (
        FIRST.replace(PADS, f"{PADS}, strides = [1, 2, 2]"),
        ONE,
        "the first convolution's kernel is for stride 1 or 2, not [1, 2, 2]",
    ),
    "few outputs": (FIRST, (24, 1, 3, 3, 3), "the first convolution's kernel makes groups of 32 channels, not 24"),
    "last 3x3x3": (LAST.replace("Conv", f"Conv <{PADS}>"), (3, 32, 3, 3, 3), POINT),
    "last strided": (LAST.replace("Conv", "Conv <strides = [1, 1, 2]>"), THIN, POINT),
    "last of 24": (LAST, (3, 24, 1, 1, 1), "the last convolution's kernel takes groups of 32 channels, not 24"),
    "last of many": (LAST, (9, 32, 1, 1, 1), "the last convolution's kernel makes up to 8 channels, not 9"),
}


@pytest.mark.parametrize("name", NEAR)
def test_nearly(name: str) -> None:
    inside, weight, why = NEAR[name]
    assert tools.near(OP, graph(inside, weight)) == [why]


def test_an_old_opset_is_named() -> None:
    why = "the graph has opset 12, and its function needs 13: put `upgrade-opset` before it"
    assert tools.near(OP, graph(FIRST, opset=12)) == [why]


def test_something_else() -> None:
    inside = LAST.replace("y", "r") + "y = Neg (r)"
    assert tools.near(OP, graph(inside, (32, 32, 1, 1, 1))) == []  # in the middle
    computed = "v = Neg (w)" + FIRST.replace("(a, w", "(a, v")
    assert tools.near(OP, graph(computed)) == []
    text = "net (float[1, 1, 4, 5] x) => (float[a, b, c, d] y) { y = Conv <pads = [1, 1, 1, 1]> (x, w) }"
    flat = tools.parsed(text, {"w": np.ones((32, 1, 3, 3), np.float32)})
    assert tools.near(OP, flat) == []


# ---- the lowering --------------------------------------------------------------------------------------------------

REFUSED = [
    (
        {"backend": "tensorrt", "tensorrt": "8.6.2", "creators": frozenset()},
        "TensorRT 8.6.2 takes no plugins in Python: 10 is the first to",
    ),
    ({"precision": "fp32"}, "its kernels compute in int8, and the recipe's precision is fp32"),
    ({"sm": "7.5"}, "its kernels need SM 8.0 or later, and the target has 7.5"),
    ({"sm": None}, "its kernels need SM 8.0 or later, and the target has no GPU"),
    ({"sm": "12.0"}, ""),
    ({"ranges": {"a": 1.0}}, "calibration has no range for the tensor 'r' inside it"),
    ({"ranges": {"a": 1.0, "r": 1.0}}, ""),
    ({}, ""),
]


@pytest.mark.parametrize(("situation", "why"), REFUSED)
def test_when_ours_is_refused(situation: dict[str, object], why: str) -> None:
    assert tools.refusal(OP, graph(FIRST), **situation) == why
    where = Situation(**{**tools.AMPERE, "precision": "int8", **situation})
    (choice,) = choose(graph(FIRST), [OP], {OP.name: ("trtforge", "plain")}, where).choices
    assert choice.refused == ((("trtforge", why),) if why else ())


def test_the_last_needs_no_range_of_its_result() -> None:
    assert tools.refusal(OP, last(), ranges={"a": 1.0}) == ""
    assert tools.refusal(OP, last(), ranges={}) == "calibration has no range for the tensor 'a' inside it"


def quantized_weights(model: Model) -> dict[str, Array]:
    """The model's weights as what INT8 makes of them, float32, so that only activations are rounded."""
    from onnx import numpy_helper

    from trtforge.scales.codecs.weights import channel_scales, quantize

    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}
    scales = channel_scales(values["w"], 0)
    steps = quantize(values["w"], scales, 0).astype(np.float32)
    return values | {"w": steps * scales.reshape(-1, 1, 1, 1, 1)}


@pytest.mark.parametrize("strides", ["", ", strides = [2, 2, 2]"])
@pytest.mark.parametrize("bias", [", b)", ")"])
def test_the_first_in_int8_is_within_half_a_step(strides: str, bias: str) -> None:
    inside = FIRST.replace(", b)", bias).replace("1]>", f"1]{strides}>")
    model = graph(inside)
    ranges = {"a": 12.7, "r": 254.0}  # a step of 2
    after, made = tools.lowered(OP, model, ranges=ranges)
    kinds = ["Neg", "QuantizeLinear", "Conv3dSmallInt8", "DequantizeLinear", "Neg"]
    assert [node.op_type for node in after.proto.graph.node] == kinds
    assert made.plugin.creator == Creator("Conv3dSmallInt8", "1", "trtforge")
    assert "w" not in {tensor.name for tensor in after.proto.graph.initializer}
    x = (np.random.default_rng(0).integers(-127, 128, (2, 1, 4, 5, 6)) * np.float32(0.1)).astype(np.float32)
    head = "net (float[2, 1, 4, 5, 6] x) => (float[a, b, c, d, e] y)"
    exact = tools.parsed(f"{head} {{ a = Neg (x) {inside} }}", quantized_weights(model))
    (want,), (got,) = (tools.run(each, {"x": x}).values() for each in (exact, after))
    assert 60 < np.abs(want).max() < 254
    assert 0.9 < np.abs(got - want).max() <= 1 + 1e-4


def test_the_last_in_int8_is_exact_but_for_float32() -> None:
    model = last()
    after, made = tools.lowered(OP, model, ranges={"a": 12.7})
    assert [node.op_type for node in after.proto.graph.node] == ["Neg", "QuantizeLinear", "Conv3dSmallInt8ToFloat"]
    assert made.plugin.creator == Creator("Conv3dSmallInt8ToFloat", "1", "trtforge")
    x = (np.random.default_rng(0).integers(-127, 128, (2, 32, 4, 5, 6)) * np.float32(0.1)).astype(np.float32)
    head = "net (float[2, 32, 4, 5, 6] x) => (float[a, b, c, d, e] y)"
    exact = tools.parsed(f"{head} {{ a = Neg (x) {LAST} }}", quantized_weights(model))
    (want,), (got,) = (tools.run(each, {"x": x}).values() for each in (exact, after))
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()


# ---- plugin.py -----------------------------------------------------------------------------------------------------

spans = st.lists(st.integers(1, 9), min_size=3, max_size=3)


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(KINDS),
    st.integers(1, 3),
    st.integers(1, 4),
    spans,
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
    st.lists(st.integers(0, 2), min_size=6, max_size=6),
    st.lists(st.integers(1, 3), min_size=3, max_size=3),
)
def test_shapes_are_onnx_s(
    kind: Any, batch: int, c: int, size: list[int], kernel: list[int], pads: list[int], strides: list[int]
) -> None:
    size = [max(length, window) for length, window in zip(size, kernel, strict=True)]
    shapes = [[batch, c, *size], [5, c, *kernel], [5], [5]]
    fields: dict[str, Any] = {"pads": pads, "strides": strides} | ({"to": 1} if kind is TO_FLOAT else {})
    meaning = function.conv3d_small_int8() if kind is TO_INT8 else function.conv3d_small_int8_to_float()
    types = list(zip(("int8", "int8", "float32", "float32"), shapes, strict=True))
    assert kind.output_shapes(shapes, fields) == [tools.onnx_shape(meaning, types, fields)]


def test_the_class_makes_float32_only() -> None:
    shapes = [[1, 32, 4, 4, 4], [3, 32, 1, 1, 1], [3], [3]]
    with pytest.raises(ValueError, match="makes float32, ONNX type 1; its node says 10"):
        TO_FLOAT.output_shapes(shapes, {"pads": [0] * 6, "strides": [1] * 3, "to": 10})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_formats(kind: Any) -> None:
    constants = [("int8", "linear"), ("float32", "linear"), ("float32", "linear")]
    ends = (("int8", "linear"), ("int8", "cdhw32")) if kind is TO_INT8 else (("int8", "cdhw32"), ("float32", "linear"))
    wanted = [ends[0], *constants, ends[1]]
    for place, format_ in enumerate(wanted):
        before = [Tensor(*each) for each in wanted[:place]]
        for dtype in ("float32", "float16", "int8", "int32"):
            for layout in ("linear", "cdhw32", "chw32"):
                assert kind.accepts(place, [*before, Tensor(dtype, layout)]) == ((dtype, layout) == format_)


@pytest.mark.parametrize("stride", [1, 2])
def test_launches_are_those_of_the_shape(stride: int) -> None:
    vector = Tensor("float32", "linear", (64,))
    x, w = Tensor("int8", "linear", (2, 1, 9, 10, 35)), Tensor("int8", "linear", (64, 1, 3, 3, 3))
    fields: dict[str, Any] = {"pads": [1] * 6, "strides": [stride] * 3}
    shape = tuple(TO_INT8.output_shapes([x.shape, w.shape], fields)[0])
    assert TO_INT8.output_types(["int8", "int8", "float32", "float32"]) == ("int8",)
    made = TO_INT8.launches([x, w, vector, vector], [Tensor("int8", "cdhw32", shape)], fields)
    assert made == launch.launches(x.shape, w.shape, "int8", *fields.values())
    assert made[0].kernel == f"first_stride{stride}_int8_cdhw32"
    assert set(TO_INT8.tensors) == {name for name in made[0].arguments if isinstance(name, str)}

    x, w = Tensor("int8", "cdhw32", (2, 64, 3, 5, 7)), Tensor("int8", "linear", (3, 64, 1, 1, 1))
    fields = {"pads": [0] * 6, "strides": [1] * 3, "to": 1}
    assert TO_FLOAT.output_types(["int8", "int8", "float32", "float32"]) == ("float32",)
    shape = tuple(TO_FLOAT.output_shapes([x.shape, w.shape], fields)[0])
    made = TO_FLOAT.launches([x, w, vector, vector], [Tensor("float32", "linear", shape)], fields)
    assert made == launch.launches(x.shape, w.shape, "float32", [0] * 6, [1] * 3)
    assert made[0].kernel == "last_cdhw32_float32"
