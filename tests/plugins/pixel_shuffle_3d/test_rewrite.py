"""The pass on transposed convolutions, the rule on what it makes, the lowerings, the TensorRT classes' description."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from tests.plugins import rewriting as tools
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.graph.shapes import infer_shapes
from trtforge.kernels.plugin import Tensor
from trtforge.plugins.pixel_shuffle_3d import function, launch
from trtforge.plugins.pixel_shuffle_3d.plugin import KINDS
from trtforge.plugins.pixel_shuffle_3d.rewrite import OP
from trtforge.surgery.choose import choose
from trtforge.surgery.op import Creator, Situation

Array = np.ndarray[Any, Any]
SCALES = {"input_scale": 0.1, "skip_scale": 0.2, "output_scale": 0.3}


# ---- the pass ------------------------------------------------------------------------------------------------------


def transposed(bias: bool = True, opset: int = 17, size: Any = (2, 3, 4), **attributes: Any) -> Model:
    """Two of them, of one weight, with a node of other use of it; D, H and W differ."""
    rng = np.random.default_rng(0)
    attributes = {"strides": [2, 2, 2]} | attributes
    kernel = attributes.pop("kernel", [2, 2, 2])
    groups = attributes.get("group", 1)
    weights = {"w": rng.normal(size=(4, 6 // groups, *kernel)), "b": rng.normal(size=6)}
    operands = ["w", "b"] if bias else ["w"]
    nodes = [
        helper.make_node("ConvTranspose", ["x", *operands], ["y"], "up", **attributes),
        helper.make_node("ConvTranspose", ["x", *operands], ["z"], **attributes),
        helper.make_node("ReduceMax", ["w"], ["most"], keepdims=0),
    ]
    shape = [2, 4, *size]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("y", "z", "most")]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        outputs,
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return infer_shapes(Model(proto))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("opset", [12, 17])
@pytest.mark.parametrize("padding", [{}, {"auto_pad": "VALID"}, {"pads": [0] * 6, "output_padding": [0] * 3}])
def test_the_pass_keeps_values_and_names(bias: bool, opset: int, padding: dict[str, Any]) -> None:
    model = transposed(bias, opset, **padding)
    after, (report,) = run(model, [OP.before])
    assert report.reason == "rewrote 2 transposed convolutions as convolution and shuffle"
    shuffled = ["Conv", "Reshape", "Transpose", "Reshape"]
    assert [node.op_type for node in after.proto.graph.node] == [*shuffled, *shuffled, "ReduceMax"]
    names = [node.name for node in after.proto.graph.node if node.name]
    assert len(set(names)) == len(names)
    tools.assert_same(model, after)
    assert "w" in {tensor.name for tensor in after.proto.graph.initializer}
    again, (report,) = run(after, [OP.before])
    assert (report.modified, report.reason) == (False, "the graph has no ConvTranspose nodes")
    assert again.proto.SerializeToString() == after.proto.SerializeToString()


def test_the_pass_keeps_a_batch_that_is_open() -> None:
    model = transposed()
    model.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    for output in model.proto.graph.output[:2]:
        output.type.tensor_type.shape.dim[0].dim_param = "n"
    after, _ = run(model, [OP.before])
    for batch in (1, 3):
        given = {"x": np.random.default_rng(batch).normal(size=(batch, 4, 2, 3, 4)).astype(np.float32)}
        want, got = tools.run(model, given), tools.run(after, given)
        assert np.allclose(want["y"], got["y"], atol=1e-5)
        assert got["y"].shape == (batch, 6, 4, 6, 8)


def test_the_pass_knows_constant_nodes() -> None:
    model = transposed()
    graph = model.proto.graph
    for tensor in graph.initializer:
        graph.node.insert(0, helper.make_node("Constant", [], [tensor.name], value=tensor))
    graph.ClearField("initializer")
    after, (report,) = run(model, [OP.before])
    assert report.modified
    tools.assert_same(model, after)


LEFT = [
    ({"kernel": [3, 3, 3]}, "'z': it is not 2x2x2 with stride 2, so its outputs overlap or leave gaps"),
    ({"strides": [2, 2, 1]}, "'z': it is not 2x2x2 with stride 2, so its outputs overlap or leave gaps"),
    ({"group": 2}, "'z': it has groups or dilations"),
    ({"dilations": [1, 1, 2]}, "'z': it has groups or dilations"),
    ({"pads": [0, 0, 1, 0, 0, 0]}, "'z': it is padded, so the cubes of its voxels are cut"),
    ({"output_padding": [0, 0, 1]}, "'z': it is padded, so the cubes of its voxels are cut"),
    ({"output_shape": [4, 6, 8]}, "'z': it is padded, so the cubes of its voxels are cut"),
    ({"auto_pad": "SAME_UPPER"}, "'z': it is padded, so the cubes of its voxels are cut"),
    ({"size": (2, "h", 4)}, "'z': the size of 'x' is not known: fix the input shape, run infer-shapes before"),
]


@pytest.mark.parametrize(("attributes", "why"), LEFT)
def test_the_pass_leaves_others(attributes: dict[str, Any], why: str) -> None:
    model = transposed(**attributes)
    after, (report,) = run(model, [OP.before])
    assert (report.modified, report.reason) == (False, why)
    assert after.proto.graph.node == model.proto.graph.node


def test_the_pass_leaves_computed_weights() -> None:
    model = transposed()
    graph = model.proto.graph
    graph.node.insert(0, helper.make_node("Neg", ["w"], ["minus"]))
    graph.node[1].input[1] = graph.node[2].input[1] = "minus"
    _, (report,) = run(model, [OP.before])
    assert (report.modified, report.reason) == (False, "'z': its weights are computed in the graph")


def test_the_pass_leaves_other_domains() -> None:
    model = transposed()
    model.proto.opset_import.append(helper.make_opsetid("test", 1))
    model.proto.graph.node[1].domain = "test"
    after, (report,) = run(model, [OP.before])
    assert report.reason == "rewrote 1 transposed convolution as convolution and shuffle"
    assert after.proto.graph.node[4] == model.proto.graph.node[1]
    _, (report,) = run(after, [OP.before])
    assert (report.modified, report.reason) == (False, "the graph has no ConvTranspose nodes")


def test_the_rule_finds_what_the_pass_makes() -> None:
    model = infer_shapes(run(transposed(), [OP.before])[0])
    assert tools.calls(tools.replaced(model, OP)) == ["PixelShuffle3d"] * 2


# ---- the rule ------------------------------------------------------------------------------------------------------

SHUFFLE = """
    [split] c = Reshape (a, cubes)
    [turn] t = Transpose <perm = [0, 1, 5, 2, 6, 3, 7, 4]> (c)
    [join] j = Reshape (t, volume)
"""
CONCAT = "[concat] r = Concat <axis = 1> (j, s)"
SKIP = "[skip] s = Neg (side)"
ALONE = "[alone] r = Identity (j)"


def graph(inside: str, outputs: str = "", opset: int = 17, ir: int = 8, **sizes: Any) -> Model:
    """x [2, 8K, 2, 3, 4] and side [2, C, 4, 6, 8]; K = 2 and C = 3 unless told. s, an output too, is -side."""
    k, c = sizes.get("k", 2), sizes.get("c", 3)
    inputs = f"float[2, {8 * k}, 2, 3, 4] x, float[2, {c}, 4, 6, 8] side"
    made = f"float[a, b, c, d, e] y, float[b2, c2, d2, e2, f2] s{outputs}"
    text = f"net ({inputs}) => ({made}) {{ [before] a = Neg (x) {SKIP} {inside} y = Neg (r) }}"
    cubes = sizes.get("cubes", [0, k, 2, 2, 2, 2, 3, 4])
    volume = sizes.get("volume", [0, k, 4, 6, 8])
    weights = {"cubes": np.array(cubes, np.int64), "volume": np.array(volume, np.int64)}
    return tools.parsed(text, weights, opset, ir)


@pytest.mark.parametrize("axis", [1, -4])
def test_with_the_skip_tensor(axis: int) -> None:
    model = graph(SHUFFLE + CONCAT.replace("= 1", f"= {axis}"))
    after = tools.replaced(model, OP)
    assert tools.calls(after) == ["PixelShuffle3dConcat"]
    assert [node.op_type for node in after.proto.graph.node] == ["Neg", "Neg", "PixelShuffle3dConcat", "Neg"]
    match = tools.only_match(OP, model)
    assert (match.at, match.inputs, match.outputs) == ("join", ("a", "s"), ("r",))
    assert match.inner == ("c", "t", "j")
    assert match.ranges == ("a", "s", "r")
    assert not after.proto.graph.initializer


ALONE_FORMS = {
    "nothing behind": (ALONE, ""),
    "two readers": (CONCAT + "[other] z = Neg (j)", ", float[a, b, c, d, e] z"),
    "skip first": ("r = Concat <axis = 1> (s, j)", ""),
    "three": ("r = Concat <axis = 1> (j, s, s)", ""),
    "itself": ("r = Concat <axis = 1> (j, j)", ""),
    "another axis": ("r = Concat <axis = 2> (j, j2)", ""),
    "an output": (CONCAT, ", float[a, b, c, d, e] j"),
}


@pytest.mark.parametrize("name", ALONE_FORMS)
def test_without_the_concat(name: str) -> None:
    behind, outputs = ALONE_FORMS[name]
    second = "j2 = Neg (side2)" if name == "another axis" else ""
    model = graph(SHUFFLE + second.replace("side2", "s") + behind, outputs, c=2 if second else 3)
    assert tools.calls(tools.replaced(model, OP)) == ["PixelShuffle3d"]
    assert tools.only_match(OP, model).inner == ("c", "t")


@pytest.mark.parametrize("opset", [15, 18, 19, 22])
def test_opsets(opset: int) -> None:
    after = tools.replaced(graph(SHUFFLE + CONCAT, opset=opset, ir=10), OP)
    assert [entry.version for entry in after.proto.functions[0].opset_import] == [opset]


@pytest.mark.parametrize(
    "sizes",
    [
        {"cubes": [2, -1, 2, 2, 2, 2, 3, 4], "volume": [-1, 2, 4, 6, 8]},
        {"cubes": [1, 4, 2, 2, 2, 2, 3, 4]},  # the batch among the channels: the same bytes
    ],
)
def test_other_spellings(sizes: dict[str, Any]) -> None:
    volume = {"volume": [2, 2, 4, 6, 8]}
    assert tools.calls(tools.replaced(graph(SHUFFLE + CONCAT, **volume | sizes), OP)) == ["PixelShuffle3dConcat"]


Z = ", float[a, b, c, d, e, f, g, h] "
NEAR: dict[str, tuple[str, str, dict[str, Any], str]] = {
    "order of voxels": (
        SHUFFLE.replace("5, 2, 6, 3, 7, 4", "5, 4, 6, 3, 7, 2") + ALONE,
        "",
        {},
        "it turns axes [0, 1, 5, 4, 6, 3, 7, 2]; the voxels of a cube are in another order",
    ),
    "no join": (
        SHUFFLE.replace("[join] j = Reshape (t, volume)", "") + "r = ReduceMax <axes = [2, 3, 4], keepdims = 0> (t)",
        "",
        {},
        "no Reshape puts the cubes' voxels into the volume",
    ),
    "another volume": (
        SHUFFLE + ALONE,
        "",
        {"volume": [0, 2, 6, 4, 8]},
        "the last Reshape makes [2, 2, 6, 4, 8] of [2, 16, 2, 3, 4], not a volume of twice the size",
    ),
    "voxels mixed": (
        SHUFFLE + ALONE,
        "",
        {"cubes": [0, 2, 2, 2, 2, 3, 2, 4]},
        "the first Reshape makes [2, 2, 2, 2, 2, 3, 2, 4] of [2, 16, 2, 3, 4]: voxels and channels are mixed",
    ),
    "second consumer": (
        SHUFFLE + ALONE + "[other] z = Neg (t)",
        Z + "z",
        {},
        "the tensor 't' inside it has a second consumer 'other'",
    ),
    "output inside": (SHUFFLE + ALONE, Z + "c", {}, "the tensor 'c' inside it is an output of the graph"),
    "opset": (
        SHUFFLE + ALONE,
        "",
        {"opset": 14},
        "the graph has opset 14, and its function needs 15: put `upgrade-opset` before it",
    ),
}


@pytest.mark.parametrize("name", NEAR)
def test_nearly(name: str) -> None:
    inside, outputs, sizes, why = NEAR[name]
    assert tools.near(OP, graph(inside, outputs, **sizes)) == [why]


def test_something_else() -> None:
    assert tools.near(OP, graph("r = Transpose <perm = [0, 2, 3, 4, 1]> (a)")) == []
    whole = graph(SHUFFLE.replace("Reshape (a, cubes)", "Reshape (a, other)").replace("volume)", "other)") + ALONE)
    assert tools.near(OP, whole) == []  # sizes that nobody knows
    fours = {"cubes": [0, 1, 4, 2, 2, 2, 3, 4]}
    assert tools.near(OP, graph(SHUFFLE + ALONE, **fours)) == []


# ---- the lowering --------------------------------------------------------------------------------------------------

RANGES = {"a": 12.7, "s": 25.4, "r": 31.75}
REFUSED = [
    (
        {"backend": "tensorrt", "tensorrt": "8.6.2", "creators": frozenset()},
        "TensorRT 8.6.2 takes no plugins in Python: 10 is the first to",
    ),
    ({"precision": "fp16"}, ""),
    ({"ranges": {"a": 1.0, "r": 1.0}}, "calibration has no range for the tensor 's' inside it"),
    ({"ranges": {"a": 1.0}}, "calibration has no range for the tensor 's' inside it, and 1 more"),
    ({"ranges": RANGES}, ""),
    ({"precision": "fp32"}, ""),
    ({"sm": "7.5"}, ""),
]


@pytest.mark.parametrize(("situation", "why"), REFUSED)
def test_when_ours_is_refused(situation: dict[str, object], why: str) -> None:
    assert tools.refusal(OP, graph(SHUFFLE + CONCAT, k=32, c=32), **situation) == why


@pytest.mark.parametrize(("k", "c", "odd"), [(2, 32, 2), (32, 3, 3), (40, 3, 40)])
def test_channels_that_fill_no_group_stay_plain(k: int, c: int, odd: int) -> None:
    model, why = (
        graph(SHUFFLE + CONCAT, k=k, c=c),
        f"the INT8 kernel takes channels in groups of 32, and here are {odd}",
    )
    where = Situation(precision="int8", ranges=RANGES, **tools.AMPERE)
    (choice,) = choose(model, [OP], {OP.name: ("trtforge", "plain")}, where).choices
    assert (choice.lowering_name, choice.refused) == ("plain", (("trtforge", why),))
    assert tools.refusal(OP, model, precision="fp32") == ""


def on_grid(seed: int, shape: tuple[int, ...], scale: float) -> Array:
    return (np.random.default_rng(seed).integers(-127, 128, shape) * np.float32(scale)).astype(np.float32)


@pytest.mark.parametrize("behind", [CONCAT, ALONE])
def test_int8_is_within_half_a_step(behind: str) -> None:
    """Of values that are multiples of their scales: what is lost is the rounding to the result's."""
    joined = behind == CONCAT
    model = graph(SHUFFLE + behind, k=32, c=32)
    after, made = tools.lowered(OP, model, ranges=RANGES if joined else {"a": 12.7, "j": 31.75})
    kind = "PixelShuffle3dConcatInt8" if joined else "PixelShuffle3dInt8"
    assert tools.calls(after) == [kind]
    assert made.plugin.creator == Creator(kind, "1", "trtforge")
    given = {"x": on_grid(0, (2, 256, 2, 3, 4), 0.1), "side": on_grid(1, (2, 32, 4, 6, 8), 0.2)}
    want, got = (tools.run(each, given)["y"] for each in (model, after))
    assert np.abs(want).max() > 12
    assert np.abs(got - want).max() <= 0.5 * 0.25 + 1e-5
    assert np.abs(got - want).max() > 0.3 * 0.25


def test_fp32_is_the_function() -> None:
    model = graph(SHUFFLE + CONCAT)
    after, made = tools.lowered(OP, model, precision="fp32")
    assert made.plugin.creator == Creator("PixelShuffle3dConcat", "1", "trtforge")
    tools.assert_same(model, after)


# ---- plugin.py -----------------------------------------------------------------------------------------------------

MEANINGS = {
    "PixelShuffle3d": function.pixel_shuffle_3d,
    "PixelShuffle3dConcat": function.pixel_shuffle_3d_concat,
    "PixelShuffle3dInt8": function.pixel_shuffle_3d_int8,
    "PixelShuffle3dConcatInt8": function.pixel_shuffle_3d_concat_int8,
}
sizes = st.integers(1, 6)


def test_every_function_has_a_class() -> None:
    assert {kind.name for kind in KINDS} == set(MEANINGS)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KINDS), sizes, sizes, sizes, st.lists(sizes, min_size=3, max_size=3))
def test_shapes_are_onnx_s(kind: Any, batch: int, k: int, c: int, size: list[int]) -> None:
    dtype = "int8" if kind.name.endswith("Int8") else "float16"
    shapes = [[batch, 8 * k, *size], [batch, c, *(2 * each for each in size)]][: len(kind.tensors) - 1]
    fields = {name: SCALES[name] for name in kind.fields}
    want = tools.onnx_shape(MEANINGS[kind.name](), [(dtype, shape) for shape in shapes], fields)
    assert kind.output_shapes(shapes, fields) == [want]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_formats(kind: Any) -> None:
    own = [("int8", "cdhw32")] if kind.name.endswith("Int8") else [("float32", "linear"), ("float16", "linear")]
    every = [(dtype, layout) for dtype in ("float32", "float16", "int8", "int32") for layout in ("linear", "cdhw32")]
    places = range(len(kind.tensors))
    for first in every:
        for other in every:
            for place in places:
                tensors = [Tensor(*first)] * place + [Tensor(*other)]
                wanted = other in own and (place == 0 or other[0] == first[0])
                assert kind.accepts(place, tensors) == wanted, (first, other, place)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_launches_are_those_of_the_shape(kind: Any) -> None:
    int8, joined = kind.name.endswith("Int8"), len(kind.tensors) == 3
    dtype = "int8" if int8 else "float32"
    shapes = [(2, 256, 3, 5, 7), (2, 5, 6, 10, 14)][: 1 + joined]
    tensors = [Tensor(dtype, kind.layout, shape) for shape in shapes]
    made = Tensor(dtype, kind.layout, tuple(kind.output_shapes(shapes, {})[0]))
    fields = {name: SCALES[name] for name in kind.fields}
    (one,) = kind.launches(tensors, [made], fields)
    scales = (SCALES["input_scale"], SCALES["skip_scale"] if joined else 1.0, SCALES["output_scale"]) if int8 else ()
    assert (one,) == launch.launches(shapes[0], dtype, 5 if joined else 0, *scales)
    assert one.kernel in launch.KERNELS
    assert kind.output_types([dtype] * len(shapes)) == (dtype,)
    pointers = [11, 22, 33] if joined else [11, 33]
    where = kind.addresses(pointers, 0, kind.workspace(tensors, [made], fields))
    assert where == {"x": 11, "skip": 22 if joined else 0, "y": 33}
