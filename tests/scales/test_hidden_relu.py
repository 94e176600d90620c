"""ReLUs that zero points stood for: where one is put back, where there is none to put, and how long it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.parser import parse_model

from trtforge.graph.model import Model
from trtforge.ort import open_session, session_options
from trtforge.scales.codecs.extraction import CLIPPED_INPUTS
from trtforge.scales.codecs.qdq_extract import take_apart


def model_of(body: str, opset: int = 17, scale: float = 0.0234) -> Model:
    """Graph from `x` to `out`; ``Q t`` in the body is the pair that reads ``t`` and makes ``d_t``, uint8 from 0 on."""
    lines = []
    for line in body.strip().splitlines():
        what, _, tensor = line.strip().partition(" ")
        if what == "Q":
            lines += [
                f"q_{tensor} = QuantizeLinear({tensor}, s, z)",
                f"d_{tensor} = DequantizeLinear(q_{tensor}, s, z)",
            ]
        else:
            lines.append(line)
    text = "{" + "\n".join(lines) + "}"
    proto = parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> g (float[1, 2, 4, 4] x) => (float[N, C, H, W] out) {text}'
    )
    constants = {
        "s": np.float32(scale),
        "z": np.uint8(0),
        "w": np.array([[1, -1], [-1, 1]], np.float32).reshape(2, 2, 1, 1),
        "zero": np.float32(0),
        "below": np.float32(-1),
        "six": np.float32(6),
    }
    for name, value in constants.items():
        if name in text:
            proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return Model(proto)


def operators(model: Model) -> list[str]:
    return [node.op_type for node in model.proto.graph.node]


@pytest.mark.parametrize(
    ("clip", "opset", "relu"),
    [
        ("Clip(x, zero, six)", 17, []),
        ("Clip(x, zero)", 17, []),
        ("Clip<min = 0.0, max = 6.0>(x)", 10, []),
        ("Clip(x, below, six)", 17, ["Relu"]),
        ("Clip(x, , six)", 17, ["Relu"]),
        ("Clip<max = 6.0>(x)", 10, ["Relu"]),
    ],
)
def test_a_clip_from_zero_needs_no_relu(clip: str, opset: int, relu: list[str]) -> None:
    found = take_apart(model_of(f"c = {clip}\nQ c\nout = MaxPool<kernel_shape = [2, 2]>(d_c)", opset))
    assert operators(found.model) == ["Clip", *relu, "MaxPool"]
    assert len(found.relus) == len(relu)


SIX = 6 / 255


@pytest.mark.parametrize(
    ("body", "opset", "made"),
    [
        ("c = Conv(x, w)\nQ c\nout = Abs(d_c)", 17, ["Conv", "Clip", "Abs"]),
        ("c = Conv(x, w)\nQ c\nout = Abs(d_c)", 10, ["Conv", "Clip", "Abs"]),
        ("c = Relu(x)\nQ c\nout = Abs(d_c)", 17, ["Relu", "Clip", "Abs"]),  # a ReLU has no end
        ("c = Clip(x, zero)\nQ c\nout = Abs(d_c)", 17, ["Clip", "Clip", "Abs"]),
        ("c = Clip(x, zero, six)\nQ c\nout = Abs(d_c)", 17, ["Clip", "Abs"]),
        ("c = Sigmoid(x)\nQ c\nout = Abs(d_c)", 17, ["Sigmoid", "Abs"]),
        (
            "c = Conv(x, w)\nQ c\np = MaxPool<kernel_shape = [2, 2]>(d_c)\nQ p\nout = Abs(d_p)",
            17,
            ["Conv", "Clip", "MaxPool", "Abs"],
        ),
    ],
)
def test_a_range_that_ends_at_a_whole_number_was_a_clip(body: str, opset: int, made: list[str]) -> None:
    """onnxruntime drops ReLU6 too, and only the scale tells: without it a layer in float would go beyond 6."""
    model = model_of(body, opset, SIX)
    found = take_apart(model)
    assert operators(found.model) == made
    x = np.random.default_rng(0).normal(0, 8, (1, 2, 4, 4)).astype(np.float32)
    before, after = (
        open_session(each.proto, None, session_options(threads=1)).run(None, {"x": x})[0]
        for each in (model, found.model)
    )
    np.testing.assert_allclose(after, before, atol=SIX / 2 + 1e-6)
    assert after.max() <= 6


@pytest.mark.parametrize(
    ("operator", "relu"),
    [
        ("Resize(d_c, , sizes)", []),
        ('Resize<mode = "linear">(d_c, , sizes)', []),
        ('Resize<mode = "cubic">(d_c, , sizes)', ["Relu"]),  # its weights are negative in part
        ('Resize<coordinate_transformation_mode = "tf_crop_and_resize">(d_c, , sizes)', ["Relu"]),
        ("Max(d_c, d_c)", []),
        ("Add(d_c, d_c)", []),
        ("Sub(d_c, d_c)", ["Relu"]),
    ],
)
def test_what_cannot_be_negative_gets_no_second_relu(operator: str, relu: list[str]) -> None:
    """A convolution's ReLU was dropped, Resize behind it is quantized too, and Concat joins both."""
    model = model_of(f"c = Conv(x, w)\nQ c\nr = {operator}\nQ r\nout = Concat<axis = 1>(d_r, d_r)")
    if "sizes" in operator:
        model.proto.graph.initializer.append(numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "sizes"))
    found = take_apart(model)
    assert operators(found.model) == ["Conv", "Relu", operator.partition("(")[0].partition("<")[0], *relu, "Concat"]


@pytest.mark.parametrize("operator", ["Add(c, d_c)", "Add(c, c)", "Identity(c)"])
def test_what_is_read_beside_the_pair_may_be_negative(operator: str) -> None:
    found = take_apart(
        model_of(f"c = Conv(x, w)\nQ c\ne = Abs(d_c)\nr = {operator}\nQ r\nout = Concat<axis = 1>(d_r, e)")
    )
    assert operators(found.model) == ["Conv", "Relu", "Abs", operator.partition("(")[0], "Relu", "Concat"]


def test_a_sum_is_within_no_upper_bound() -> None:
    found = take_apart(model_of("c = Conv(x, w)\nQ c\nr = Add(d_c, d_c)\nQ r\nout = Abs(d_r)", scale=SIX))
    assert operators(found.model) == ["Conv", "Clip", "Add", "Clip", "Abs"]


def test_a_float16_scale_does_not_tell_where_its_range_ends() -> None:
    model = model_of("c = Conv(x, w)\nQ c\nout = Abs(d_c)", 21, SIX)
    for tensor in model.proto.graph.initializer:
        if tensor.name in ("s", "w"):
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    assert operators(take_apart(model).model) == ["Conv", "Relu", "Abs"]


def test_inputs_that_are_clipped_are_told_and_left_alone() -> None:
    found = take_apart(model_of("Q x\nc = Conv(d_x, w)\nQ c\nout = Abs(d_c)"))
    assert operators(found.model) == ["Conv", "Relu", "Abs"]
    assert found.clipped_inputs == ("x",) and found.table.notes[CLIPPED_INPUTS] == ["x"]
    assert found.relus == ("c",)


def test_no_note_where_no_input_is_clipped() -> None:
    found = take_apart(model_of("c = Conv(x, w)\nQ c\nout = Abs(d_c)"))
    assert found.clipped_inputs == () and CLIPPED_INPUTS not in found.table.notes


def test_several_relus_around_one_node() -> None:
    """The parts of a Split are clipped; one is read in float too, and both are read by one convolution."""
    body = """
        c = Conv(x, w)
        a, b = Split<axis = 1>(c)
        Q a
        Q b
        j = Concat<axis = 1>(d_a, d_b)
        k = Conv(j, w)
        Q k
        n = Concat<axis = 1>(b, b)
        out = Add(d_k, n)
    """
    model = model_of(body, 13)
    found = take_apart(model)
    assert operators(found.model) == ["Conv", "Split", "Relu", "Relu", "Concat", "Conv", "Relu", "Concat", "Add"]
    assert found.relus == ("a", "b_Relu", "k")
    by_output = {node.output[0]: node for node in found.model.proto.graph.node}
    assert list(by_output["j"].input) == ["a", "b_Relu"] and list(by_output["n"].input) == ["b", "b"]
    assert found.reads == {("j", 0), ("j", 1), ("out", 0)}
    x = np.random.default_rng(0).normal(0, 1, (1, 2, 4, 4)).astype(np.float32)
    before, after = (
        open_session(each.proto, None, session_options(threads=1)).run(None, {"x": x})[0]
        for each in (model, found.model)
    )
    np.testing.assert_allclose(after, before, atol=0.06)


def chain(length: int) -> Model:
    nodes, current = [], "x"
    for number in range(length):
        nodes += [
            helper.make_node("QuantizeLinear", [current, "s", "z"], [f"q{number}"]),
            helper.make_node("DequantizeLinear", [f"q{number}", "s", "z"], [f"d{number}"]),
            helper.make_node("Conv", [f"d{number}", "w"], [f"c{number}"]),
        ]
        current = f"c{number}"
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 1, 4, 4]) for name in ("x", current)]
    values = {"s": np.float32(0.02), "z": np.uint8(0), "w": np.ones((1, 1, 1, 1), np.float32)}
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    return Model(helper.make_model(helper.make_graph(nodes, "g", ends[:1], ends[1:], weights)))


def test_the_time_grows_with_the_graph_and_not_with_its_square() -> None:
    model = chain(1600)
    begin = time.process_time()
    found = take_apart(model)
    assert time.process_time() - begin < 1
    assert len(found.relus) == 1599
    assert operators(found.model)[:4] == ["Conv", "Relu", "Conv", "Relu"]
