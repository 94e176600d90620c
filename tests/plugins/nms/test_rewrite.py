"""Where the op is found, what is only nearly one, and that nothing changes."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.nms import graphs
from tests.plugins.nms import test_function as function_tests
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.plugins.nms.function import Variant
from trtforge.plugins.nms.rewrite import OP
from trtforge.surgery.choose import as_functions
from trtforge.surgery.rules import View

tools = graphs.tools
Array = np.ndarray[Any, Any]


def rewritten(model: Model, seeds: int = 2) -> Model:
    after = as_functions(model, [OP])
    onnx.checker.check_model(after.proto, full_check=True)
    for seed in range(seeds):
        graphs.assert_same(model, after, graphs.feeds(seed))
    assert as_functions(after, [OP]).proto.SerializeToString() == after.proto.SerializeToString()
    return after


def test_the_standard_spelling() -> None:
    model = graphs.detector()
    after = rewritten(model, seeds=5)
    assert [node.op_type for node in after.proto.graph.node] == ["NmsSigmoid"]
    match = tools.only_match(OP, model)
    assert match.inputs == ("boxes", "raw")
    assert match.attributes == {
        "score_threshold": float(np.nextafter(np.float32(0.3), np.float32(1))),
        "iou_threshold": float(np.nextafter(np.float32(0.4), np.float32(1))),
        "max_output_boxes": 5,
        "background_class": -1,
    }
    assert match.outputs == ("num", "out_boxes", "out_scores", "out_classes")


FILLED = """shape = Shape(t)
  nothing = ConstantOfShape<value = float[1] {-1}>(shape)
  left = ScatterND(nothing"""
SPELLINGS: list[tuple[dict[str, str], dict[str, Any], list[str]]] = [
    ({"perm = [0, 2, 1]>(p)": "perm = [0, 2, 1]>(raw)", "p = Sigmoid(raw)": ""}, {"least": 0.3}, ["Nms"]),
    ({"p = Sigmoid(raw)": "p = Softmax<axis = 2>(raw)"}, {}, ["Softmax", "Nms"]),
    (
        {"p = Sigmoid(raw)": "p = Identity(raw)", "(p)": "(p)\n  t = Sigmoid(t0)", "  t = T": "  t0 = T"},
        {},
        ["NmsSigmoid"],
    ),
    (
        {"  t = T": "  t0 = T", "(p)": "(p)\n  t = Where(mask, out, t0)"},
        {"mask": [[True], [False], [False]]},
        ["NmsSigmoid"],
    ),
    ({"keep, overlap, least)": "keep, overlap)"}, {}, ["NmsSigmoid"]),
    ({"keep, overlap, least)": "keep, , least)"}, {}, ["NmsSigmoid"]),
    ({"keep, overlap, least)": "plenty, overlap, least)"}, {"plenty": [30]}, ["NmsSigmoid"]),
    (
        {"nothing = ConstantOfShape<value = float[1] {-1}>(shape)": "nothing = Identity(full)"},
        {"full": np.full((2, 3, 12), -1, np.float32)},
        [],
    ),
    ({FILLED: "left = ScatterND(full"}, {"full": np.full((2, 3, 12), -3, np.float32)}, ["NmsSigmoid"]),
    ({"  more = Pad(flat, padding, out)\n": "", "TopK<axis = 1>(more": "TopK<axis = -1>(flat"}, {}, ["NmsSigmoid"]),
    ({"Reshape(left, by_image)": "Flatten<axis = 1>(left)"}, {}, ["NmsSigmoid"]),
    ({"Greater(best, below)": "GreaterOrEqual(best, none)"}, {}, ["NmsSigmoid"]),
    (
        {
            "valid_kind = Where(valid, kind, zero)": "few = Cast<to = 6>(kind)",
            "Cast<to = 6>(valid_kind)": "Where(valid, few, small)",
        },
        {"small": np.int32(0)},
        ["NmsSigmoid"],
    ),
]


@pytest.mark.parametrize(("changes", "constants", "made"), SPELLINGS)
def test_other_spellings(changes: dict[str, str], constants: dict[str, Any], made: list[str]) -> None:
    arrays = {
        name: np.asarray(value, np.float32 if isinstance(value, float) else None) for name, value in constants.items()
    }
    model = graphs.detector(changes, arrays)
    if not made:  # a constant behind an Identity is nothing the rule looks through; the usual passes take it away
        assert tools.near(OP, model) == ["'left' scatters into 'nothing', which is not filled with one number below 0"]
        model, _ = run(model, ["remove-identity", "fold-constants", "infer-shapes"])
        made = ["NmsSigmoid"]
    after = rewritten(model)
    assert [node.op_type for node in after.proto.graph.node] == made


def test_the_background_becomes_a_field() -> None:
    changes, constants, _ = SPELLINGS[3]
    model = graphs.detector(changes, {name: np.asarray(value) for name, value in constants.items()})
    assert tools.only_match(OP, model).attributes["background_class"] == 0


def test_scores_by_class_are_turned() -> None:
    inputs = "float[2, 12, 4] boxes, float[2, 3, 12] raw"
    model = graphs.detector(front="\n  t = Sigmoid(raw)\n", inputs=inputs)
    after = as_functions(model, [OP])
    assert [node.op_type for node in after.proto.graph.node] == ["Transpose", "NmsSigmoid"]
    given_now = graphs.feeds(3)
    given_now["raw"] = np.ascontiguousarray(given_now["raw"].transpose(0, 2, 1))
    graphs.assert_same(model, after, given_now)


def test_outputs_that_the_graph_does_not_make() -> None:
    made = f"{graphs.OUTPUTS['out_scores']}, {graphs.OUTPUTS['out_classes']}"
    model = graphs.detector(
        {
            "valid_number = Cast<to = 6>(valid)\n  num = ReduceSum<keepdims = 1>(valid_number, one_axis)": "",
            "picked = GatherND<batch_dims = 1>(boxes, rows)\n  valid_row = Unsqueeze(valid, two_axis)\n"
            "  out_boxes = Where(valid_row, picked, none)": "",
            "row = Mod(places, count)\n  rows = Unsqueeze(row, two_axis)": "",
        },
        outputs=made,
    )
    after = rewritten(model)
    (node,) = after.proto.graph.node
    assert [bool(name) for name in node.output] == [True] * 4
    assert list(node.output)[2:] == ["out_scores", "out_classes"]


def test_what_others_read_stays_outside() -> None:
    """The sigmoid's result is an output too: the plugin takes what comes out of it."""
    made = ", ".join([*graphs.OUTPUTS.values(), f"float[2, {graphs.BOXES}, 3] p"])
    after = rewritten(graphs.detector(outputs=made))
    assert [node.op_type for node in after.proto.graph.node] == ["Sigmoid", "Nms"]
    made = ", ".join([*graphs.OUTPUTS.values(), f"float[2, 3, {graphs.BOXES}] t"])
    after = rewritten(graphs.detector(outputs=made))
    assert [node.op_type for node in after.proto.graph.node] == ["Sigmoid", "Transpose", "Transpose", "Nms"]


ALL = ", ".join(graphs.OUTPUTS.values())
NEAR: list[tuple[dict[str, Any], str]] = [
    (
        {"outputs": ALL + ", int64[m, 3] found"},
        "its indices 'found' are an output of the graph, as many as are found in an image, and the plugin's outputs "
        "have a fixed size",
    ),
    (
        {
            "changes": {"got = Gather": "ids = Slice(found, zero_axis, one_axis)\n  got = Gather"},
            "outputs": ALL + ", int64[m, k] ids",
        },
        "its indices 'found' go to 'ids' (Slice), as many as are found in an image; the plugin makes none, but outputs "
        "of a fixed size",
    ),
    (
        {
            "changes": {"got = GatherND(t, found)": "got = GatherND(t, found)\n  twice = GatherND(t, found)"},
            "outputs": ALL + ", float[m] twice",
        },
        "its indices 'found' are not used to gather scores and to scatter them, once each",
    ),
    (
        {"changes": {"GatherND(t, found)": "GatherND(t2, found)", "found = Non": "t2 = Exp(t)\n  found = Non"}},
        "the scores gathered by 'got' are not those it selects by, 't'",
    ),
    (
        {"changes": {"found, got)": "found, louder)", "left = S": "louder = Exp(got)\n  left = S"}},
        "'left' scatters something else than the selected scores",
    ),
    (
        {"changes": {"{-1}": "{0}"}},
        "'left' scatters into 'nothing', which is not filled with one number below 0",
    ),
    (
        {
            "changes": {"Reshape(left, by_image)": "Reshape(left, all)"},
            "constants": {"all": np.array([1, -1])},
            "outputs": ALL.replace("[2,", "[1,"),
        },
        "the surviving scores 'flat' have not the shape [images, classes * boxes]",
    ),
    (
        {"constants": {"out": np.float32(1)}},
        "'more' pads the surviving scores with something else than a number below 0 at the end",
    ),
    (
        {
            "changes": {
                "best, places = TopK<axis = 1>(more, keep)": "best, places = TopK<axis = 1, largest = 0>(more, keep)"
            }
        },
        "'best' does not choose a fixed number of best scores of each image in falling order",
    ),
    (
        {
            "changes": {
                "TopK<axis = 1>(more, keep)": "TopK<axis = 1>(again, keep)",
                "best, places": "again = Abs(more)\n  best, places",
            }
        },
        "no TopK chooses the best of the surviving scores 'more'",
    ),
    (
        {"constants": {"below": np.float32(-1.5)}},
        "nothing tells detections from padding in 'best', the best scores",
    ),
    (
        {"changes": {"{-1}": "{-0.25}"}},
        "nothing tells detections from padding in 'best', the best scores",
    ),
    (
        {"constants": {"out": np.float32(-0.25)}},
        "nothing tells detections from padding in 'best', the best scores",
    ),
    (
        {
            "changes": {"(valid_number, one_axis)": "(valid_number, zero_axis)"},
            "outputs": ALL.replace("int32[2, 1] num", "int32[1, 5] num"),
        },
        "the tensor 'valid' inside it has a second consumer 'valid_number'",
    ),
    (
        {"constants": {"below": np.float32(0.5)}},
        "nothing tells detections from padding in 'best', the best scores",
    ),
    (
        {
            "changes": {"out_classes = Cast<to = 6>(valid_kind)": "out_classes = Cast<to = 7>(valid_kind)"},
            "outputs": ALL.replace("int32[2, 5] out_classes", "int64[2, 5] out_classes"),
        },
        "the classes 'valid_kind' are not cast to int32, which the plugin makes",
    ),
    (
        {
            "changes": {
                "found = NonMaxSuppression(boxes": "moved = Add(boxes, overlap)\n  found = NonMaxSuppression(moved"
            }
        },
        "its boxes 'moved' are not those of the output, 'boxes'",
    ),
    (
        {"changes": {"NonMaxSuppression(": "NonMaxSuppression<center_point_box = 1>("}},
        "it takes boxes by centre and size; those behind it are no corners, as the plugin's are",
    ),
    (
        {"changes": {"boxes, t, keep, overlap": "boxes, t, two, overlap"}, "constants": {"two": np.array([2])}},
        "it keeps at most 2 boxes of a class and 5 of an image, and the plugin has no limit of a class",
    ),
    (
        {
            "changes": {
                "boxes, t, keep, overlap": "boxes, t, keep, wide",
                "found = Non": "wide = Exp(none)\n  found = Non",
            }
        },
        "its overlap 'wide' is computed in the graph",
    ),
    (
        {"changes": {"p = Sigmoid(raw)": "p = Tanh(raw)"}, "constants": {"least": np.float32(-0.5)}},
        "the score threshold is -0.5, the plugin takes none below 0, and the scores 'p' are not seen to be positive: "
        "they are made by no Sigmoid or Softmax",
    ),
    (
        {"changes": {"p = Sigmoid(raw)": "p = Tanh(raw)", "keep, overlap, least)": "keep, overlap)"}},
        "there is no score threshold, the plugin takes none below 0, and the scores 'p' are not seen to be positive: "
        "they are made by no Sigmoid or Softmax",
    ),
    (
        {"changes": {"  t = T": "  t0 = T", "(p)": "(p)\n  high = Greater(t0, least)\n  t = Where(high, t0, out)"}},
        "'t' replaces scores by a condition that is not one constant for each class: put `fold-constants` before it",
    ),
    (
        {
            "changes": {"  t = T": "  t0 = T", "(p)": "(p)\n  t = Where(mask, out, t0)"},
            "constants": {"mask": np.array([[True], [True], [False]])},
        },
        "'t' takes out 2 classes, and the plugin has one background class",
    ),
]


@pytest.mark.parametrize(("how", "why"), NEAR, ids=[why[:40] for _, why in NEAR])
def test_near_misses(how: dict[str, Any], why: str) -> None:
    constants = {"zero_axis": np.array([0]), **how.get("constants", {})}
    model = graphs.detector(how.get("changes"), constants, outputs=how.get("outputs"))
    assert tools.near(OP, model) == [why]


def test_one_in_a_loop_is_a_near_miss() -> None:
    text = """
    g (float[2, 12, 4] boxes, float[2, 3, 12] scores) => (int64[n, m, 3] all) {
      all = Loop<body = each (int64 turn, bool going) => (bool on, int64[m, 3] found) {
        on = Identity(going)
        found = NonMaxSuppression(boxes, scores, keep, overlap, least)
      }>(trips, yes)
    }"""
    constants = {name: graphs.CONSTANTS[name] for name in ("keep", "overlap", "least")}
    model = tools.parsed(text, {**constants, "trips": np.array(2), "yes": np.array(True)})
    assert tools.near(OP, model) == [
        "its NonMaxSuppression is in the body of Loop 'all', for one image or class at a time; export the network with "
        "one for the whole batch"
    ]


def test_an_old_opset_is_named() -> None:
    model = graphs.detector(opset=14)
    assert tools.near(OP, model) == ["the graph has opset 14, and its function needs 15: put `upgrade-opset` before it"]


def test_one_that_selects_nothing_is_nothing() -> None:
    model = graphs.detector({"boxes, t, keep, overlap": "boxes, t, no, overlap"}, {"no": np.array([0])})
    assert tools.near(OP, model) == []


def test_sizes_must_be_known() -> None:
    model = graphs.detector(inputs="float[2, p, 4] boxes, float[2, p, 3] raw")
    assert tools.near(OP, model) == [
        "the number of classes or boxes of 't' is not known: put `infer-shapes` before it",
    ]


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize(
    "variant", [Variant(c, a, sigmoid=s) for c, a, s in itertools.product([0, 1], repeat=3) if c or not a]
)
def test_the_functions_own_body_is_found(variant: Variant, dynamic: bool) -> None:
    """Inlined, folded, and with an open batch: the same function comes out."""
    arrays = function_tests.arrays_of(variant, seed=2)
    limits = {**function_tests.LIMITS, "background_class": 1}
    proto = function_tests.model_of(variant, arrays, **limits).proto
    if dynamic:
        for value in proto.graph.input[:2]:
            value.type.tensor_type.shape.dim[0].dim_param = "n"
    if variant.anchors:
        proto.graph.initializer.append(onnx.numpy_helper.from_array(arrays.pop("anchors"), "anchors"))
        del proto.graph.input[2]
    flat, _ = run(
        Model(onnx.inliner.inline_local_functions(proto)), ["remove-identity", "fold-constants", "infer-shapes"]
    )
    match = tools.only_match(OP, flat)
    assert match.attributes == {name: pytest.approx(value, abs=1e-7) for name, value in limits.items()}
    after = as_functions(flat, [OP])
    assert tools.calls(after) == [variant.name]
    graphs.assert_same(flat, after, arrays)


def test_half_precision_is_cast_in_front() -> None:
    """ONNX's suppression takes float32 alone, so the casts of a graph of halves stay where they are."""
    front = """
  wide = Cast<to = 1>(raw)
  boxes = Cast<to = 1>(narrow)
""" + graphs.FRONT.replace("(raw)", "(wide)")
    shapes = f"float16[2, {graphs.BOXES}, 4] narrow, float16[2, {graphs.BOXES}, 3] raw"
    model = graphs.detector(front=front, inputs=shapes)
    after = as_functions(model, [OP])
    assert [node.op_type for node in after.proto.graph.node] == ["Cast", "Cast", "NmsSigmoid"]
    values = graphs.feeds(6)
    graphs.assert_same(
        model, after, {"narrow": values["boxes"].astype("float16"), "raw": values["raw"].astype("float16")}
    )


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(["Sigmoid", "Exp", "Neg", "Abs", "Softmax", "Relu"]), min_size=1, max_size=6))
def test_graphs_without_suppression_are_left_alone(operators: list[str]) -> None:
    """The tail of a detector that chooses by score alone: TopK, and what follows it."""
    lines = [f"x{place + 1} = {operator}(x{place})" for place, operator in enumerate(operators)]
    body = "\n".join(["x0 = Identity(raw)", *lines, f"flat = Flatten<axis = 1>(x{len(operators)})"])
    tail = "best, places = TopK<axis = 1>(flat, keep)\n valid = Greater(best, below)\n out = Where(valid, best, none)"
    constants = {name: graphs.CONSTANTS[name] for name in ("keep", "below", "none")}
    model = tools.parsed(f"g (float[2, 4, 3] raw) => (float[2, 5] out) {{{body}\n{tail}}}", constants)
    assert OP.rule.find(View(model)).near == ()
    assert tools.near(OP, model) == []


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_mixture_of_spellings(data: st.DataObject) -> None:
    """Drawn spellings together are found, and nothing changes; with one change that breaks it, nothing is found."""
    drawn = data.draw(st.sets(st.sampled_from([1, 4, 6, 8, 9, 10, 11]), max_size=3))
    changes: dict[str, str] = {}
    constants: dict[str, Any] = {}
    for place in sorted(drawn):
        if not set(SPELLINGS[place][0]) & set(changes) and not {4, 6} <= drawn:
            changes |= SPELLINGS[place][0]
            constants |= SPELLINGS[place][1]
    arrays = {name: np.asarray(value) for name, value in constants.items()}
    model = graphs.detector(changes, arrays)
    after = as_functions(model, [OP])
    assert tools.calls(after) in (["Nms"], ["NmsSigmoid"])
    graphs.assert_same(model, after, graphs.feeds(data.draw(st.integers(0, 10**6))))
    broken = graphs.detector(
        {**changes, "Mod(places, count)": "Mod(places, count)\n  more_ids = Exp(best)"},
        arrays,
        outputs=f"{ALL}, float[2, 5] more_ids",
    )
    found = OP.rule.find(View(broken))
    assert found.matches == () and "inside it has a second consumer 'more_ids'" in found.near[0].why
