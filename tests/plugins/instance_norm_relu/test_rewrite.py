"""The rule on graphs written as text, its lowerings, and the TensorRT classes' description."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.plugins import rewriting as tools
from trtforge.graph.model import Model
from trtforge.kernels.plugin import Tensor
from trtforge.plugins.instance_norm_relu import function, launch
from trtforge.plugins.instance_norm_relu.plugin import KINDS
from trtforge.plugins.instance_norm_relu.rewrite import OP
from trtforge.surgery.choose import choose
from trtforge.surgery.op import Creator, Situation

INSIDE = """
    [norm] n = InstanceNormalization <epsilon = 0.01> (a, scale, bias)
    [relu] r = Relu (n)
"""
FLOAT, INT8 = KINDS
SCALES = {"epsilon": 1e-5, "input_scale": 0.1, "output_scale": 0.2}


def graph(
    inside: str = INSIDE, sizes: str = "4, 5, 6", channels: int = 3, outputs: str = "", opset: int = 17, ir: int = 8
) -> Model:
    """Negated before and after; ``outputs``: more of the graph's."""
    shape = f"float[2, {channels}, {sizes}]"
    text = f"net ({shape} x) => ({shape} y{outputs}) {{\n [before] a = Neg (x) {inside} [after] y = Neg (r)\n}}"
    rng = np.random.default_rng(channels)
    weights = {name: rng.normal(1, 0.5, channels).astype(np.float32) for name in ("scale", "bias")}
    return tools.parsed(text, weights, opset, ir)


@pytest.mark.parametrize("sizes", ["7", "5, 6", "4, 5, 6"])
@pytest.mark.parametrize("epsilon", ["", "<epsilon = 0.01>"])
def test_one_call_computes_the_same(sizes: str, epsilon: str) -> None:
    model = graph(INSIDE.replace("<epsilon = 0.01>", epsilon), sizes)
    after = tools.replaced(model, OP)
    assert [node.op_type for node in after.proto.graph.node] == ["Neg", "InstanceNormRelu", "Neg"]
    match = tools.only_match(OP, model)
    assert (match.at, match.inputs, match.outputs, match.inner) == ("norm", ("a", "scale", "bias"), ("r",), ("n",))
    assert match.ranges == ("a", "r")
    assert match.attributes == {"epsilon": pytest.approx(0.01 if epsilon else 1e-5)}


@pytest.mark.parametrize("opset", [15, 18, 19, 22])
def test_opsets(opset: int) -> None:
    after = tools.replaced(graph(opset=opset, ir=10), OP)
    assert [entry.version for entry in after.proto.functions[0].opset_import] == [opset]


LEAKY = INSIDE.replace("Relu", "LeakyRelu <alpha = 0.1>")
NEAR = {
    "another activation": (LEAKY, "", "the activation behind it is LeakyRelu, and the plugin computes Relu"),
    "computed scale": (
        "[double] s = Add (scale, scale)" + INSIDE.replace("(a, scale", "(a, s"),
        "",
        "its scale 's' is computed in the graph",
    ),
    "computed bias": (
        "[double] b = Add (bias, bias)" + INSIDE.replace("bias)", "b)"),
        "",
        "its bias 'b' is computed in the graph",
    ),
    "second consumer": (
        INSIDE + "[side] z = Neg (n)",
        ", float[2, 3, 4, 5, 6] z",
        "the tensor 'n' inside it has a second consumer 'side'",
    ),
    "second relu": (INSIDE + "[twin] z = Relu (n)", ", float[2, 3, 4, 5, 6] z", "second consumer 'twin'"),
    "output inside": (INSIDE, ", float[2, 3, 4, 5, 6] n", "the tensor 'n' inside it is an output of the graph"),
}


@pytest.mark.parametrize("name", NEAR)
def test_nearly(name: str) -> None:
    inside, outputs, why = NEAR[name]
    (found,) = tools.near(OP, graph(inside, outputs=outputs))
    assert found.endswith(why) if name == "second relu" else found == why


def test_an_old_opset_is_named() -> None:
    why = "the graph has opset 12, and its function needs 15: put `upgrade-opset` before it"
    assert tools.near(OP, graph(opset=12)) == [why]


@pytest.mark.parametrize("other", ["Sigmoid", "Identity"])
def test_something_else(other: str) -> None:
    assert tools.near(OP, graph(INSIDE.replace("Relu", other))) == []


def test_weights_that_others_read_stay() -> None:
    inside = INSIDE + "[norm2] m = InstanceNormalization (r, scale, bias) [relu2] q = Relu (m) [o] z = Add (bias, bias)"
    model = graph(inside, outputs=", float[3] z, float[2, 3, 4, 5, 6] q")
    after = tools.replaced(model, OP)
    assert tools.calls(after) == ["InstanceNormRelu"] * 2
    assert [tensor.name for tensor in after.proto.graph.initializer] == ["scale", "bias"]


RANGES = {"a": 12.7, "r": 6.35}
REFUSED = [
    ({"backend": "onnxruntime"}, "onnxruntime runs the graph as it is, without TensorRT plugins"),
    ({"sm": "7.5"}, "its kernels need SM 8.0 or later, and the target has 7.5"),
    ({"sm": None}, "its kernels need SM 8.0 or later, and the target has no GPU"),
    ({"ranges": {"a": 1.0}}, "calibration has no range for the tensor 'r' inside it"),
    ({"ranges": {}}, "calibration has no range for the tensor 'a' inside it, and 1 more"),
    ({"ranges": RANGES}, ""),
    ({"ranges": None}, ""),
    ({"precision": "fp32"}, ""),
    ({"precision": "fp16"}, ""),
]


@pytest.mark.parametrize(("situation", "why"), REFUSED)
def test_when_ours_is_refused(situation: dict[str, object], why: str) -> None:
    assert tools.refusal(OP, graph(channels=32), **situation) == why


def test_what_the_kernels_cannot_do_stays_plain() -> None:
    odd = "the INT8 kernel takes channels in groups of 32, and here are 40"
    assert tools.refusal(OP, graph(channels=40)) == odd
    assert tools.refusal(OP, graph(channels=40), precision="fp32") == ""
    flat = "the kernel is for volumes, tensors of rank 5; 'a' has rank 4"
    assert tools.refusal(OP, graph(channels=32, sizes="4, 4")) == flat
    sharp = INSIDE.replace("0.01", "0.0")
    divides = "the INT8 kernel divides by sqrt(variance + epsilon), and epsilon is 0"
    assert tools.refusal(OP, graph(sharp, channels=32)) == divides
    where = Situation(precision="int8", ranges=RANGES, **tools.AMPERE)
    (choice,) = choose(graph(channels=40), [OP], {OP.name: ("trtforge", "plain")}, where).choices
    assert (choice.lowering_name, choice.refused) == ("plain", (("trtforge", odd),))


def test_int8_is_within_half_a_step() -> None:
    """Of values that are multiples of the input's scale: what is lost is the rounding of the result."""
    model = graph(channels=32)
    after, made = tools.lowered(OP, model, ranges=RANGES)
    kinds = ["Neg", "QuantizeLinear", "InstanceNormReluInt8", "DequantizeLinear", "Neg"]
    assert [node.op_type for node in after.proto.graph.node] == kinds
    assert made.plugin.creator == Creator("InstanceNormReluInt8", "1", "trtforge")
    x = (np.random.default_rng(0).integers(-127, 128, (2, 32, 4, 5, 6)) * np.float32(0.1)).astype(np.float32)
    (want,), (got,) = (tools.run(each, {"x": x}).values() for each in (model, after))
    assert -6.35 < want.min() < -3  # nothing is clipped, and steps are used
    assert np.abs(got - want).max() <= 0.5 * 0.05 + 1e-4
    assert np.abs(got - want).max() > 0.4 * 0.05


def test_fp32_is_the_function() -> None:
    model = graph(channels=5)
    after, made = tools.lowered(OP, model, precision="fp32")
    assert tools.calls(after) == ["InstanceNormRelu"]
    assert made.plugin.creator == Creator("InstanceNormRelu", "1", "trtforge")
    tools.assert_same(model, after)


@pytest.mark.parametrize(("versions", "used"), [("1 2", "2"), ("2 3", "3"), ("1 3", "3")])
def test_the_stock_plugin_gets_the_weights(versions: str, used: str) -> None:
    creators = frozenset(Creator("InstanceNormalization_TRT", version) for version in versions.split())
    creators |= {Creator("InstanceNormalization_TRT", "3", "elsewhere")}  # of another namespace: not NVIDIA's own
    model = graph()
    where = {"backend": "tensorrt", "tensorrt": "8.6", "creators": creators}
    assert tools.refusal(OP, model, "stock", **where) == ""
    after, made = tools.lowered(OP, model, "stock", **where)
    (node,) = (each for each in after.proto.graph.node if each.op_type == "InstanceNormalization_TRT")
    fields = {one.name: one for one in node.attribute}
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}
    assert (list(node.input), list(node.output)) == (["a"], ["r"])
    assert fields["scales"].floats == pytest.approx(weights["scale"])
    assert fields["bias"].floats == pytest.approx(weights["bias"])
    assert (fields["relu"].i, fields["alpha"].f, fields["epsilon"].f) == (1, 0.0, pytest.approx(0.01))
    assert fields["plugin_version"].s == used.encode()
    assert made.plugin.creator == Creator("InstanceNormalization_TRT", used)


def test_ranks_of_the_stock_plugin() -> None:
    where = {"backend": "tensorrt", "creators": frozenset({Creator("InstanceNormalization_TRT", "3")})}
    assert tools.refusal(OP, graph(sizes="4, 5"), "stock", **where) == ""
    why = "NVIDIA's plugin takes tensors of rank 4 or 5; 'a' has rank 3"
    assert tools.refusal(OP, graph(sizes="7"), "stock", **where) == why


def test_without_the_stock_plugin() -> None:
    old = frozenset({Creator("InstanceNormalization_TRT", "1")})
    why = "TensorRT 8.2 has no InstanceNormalization_TRT of version 3 or 2: it has version 1 (its registry was asked)"
    assert tools.refusal(OP, graph(), "stock", backend="tensorrt", tensorrt="8.2", creators=old) == why


# ---- plugin.py -----------------------------------------------------------------------------------------------------


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 9), min_size=3, max_size=5), st.sampled_from(KINDS))
def test_shapes_are_onnx_s(shape: list[int], kind: object) -> None:
    int8 = kind is INT8
    meaning = function.instance_norm_relu_int8() if int8 else function.instance_norm_relu()
    vectors = [("float32", shape[1:2])] * 2
    types = [("int8" if int8 else "float32", shape), *vectors]
    fields = {name: SCALES[name] for name in kind.fields}
    assert kind.output_shapes([shape, *(each for _, each in vectors)], fields) == [
        tools.onnx_shape(meaning, types, fields)
    ]


def accepted(kind: object, *formats: tuple[str, str]) -> list[bool]:
    """For x, scale, bias, y; a format a position, each seen with those before it, as TensorRT asks."""
    tensors = [Tensor(*each) for each in formats]
    return [kind.accepts(position, tensors[: position + 1]) for position in range(len(tensors))]


def test_formats() -> None:
    vector = ("float32", "linear")
    for dtype in ("float32", "float16"):
        assert accepted(FLOAT, (dtype, "linear"), vector, vector, (dtype, "linear")) == [True] * 4
    other = ("float16", "linear")
    assert accepted(FLOAT, vector, other, other, other) == [True, False, False, False]
    wide, flat = ("float32", "cdhw32"), ("int8", "linear")
    assert accepted(FLOAT, wide, wide, wide, wide) == [False] * 4
    assert accepted(FLOAT, flat, vector, vector, flat) == [False, True, True, False]
    assert accepted(INT8, ("int8", "cdhw32"), vector, vector, ("int8", "cdhw32")) == [True] * 4
    assert accepted(INT8, flat, flat, flat, flat) == [False] * 4
    assert accepted(INT8, vector, wide, wide, vector) == [False] * 4


@pytest.mark.parametrize(("kind", "dtype"), [(FLOAT, "float32"), (FLOAT, "float16"), (INT8, "int8")])
def test_launches_are_those_of_the_shape(kind: object, dtype: str) -> None:
    shape, fields = (2, 64, 40, 33, 31), {name: SCALES[name] for name in kind.fields}
    x, vector = Tensor(dtype, "cdhw32" if dtype == "int8" else "linear", shape), Tensor("float32", "linear", (64,))
    made = kind.launches([x, vector, vector], [x], fields)
    assert made == launch.launches(shape, dtype, *fields.values())
    assert {each.kernel for each in made} <= set(launch.KERNELS)
    pieces = kind.workspace([x, vector, vector], [x], fields)
    assert pieces == launch.workspace_bytes(shape, dtype)
    assert kind.output_types([dtype, "float32", "float32"]) == (dtype,)
    where = kind.addresses([1, 2, 3, 4], 1 << 20, pieces)
    assert set(where) >= {name for each in made for name in each.arguments if isinstance(name, str)}
    assert where["coefficients"] - where["partial"] >= pieces["partial"]
