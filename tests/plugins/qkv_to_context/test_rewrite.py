"""The rule on real exports and on graphs by hand: found and equal, or refused with the reason."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest

from trtforge.graph.io import load
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs, infer_shapes
from trtforge.graph.surgery import perform
from trtforge.surgery.rules import View

GRAPHS = sorted((Path(__file__).parent / "graphs").glob("*.onnx"))
SIZE_READ_OUTSIDE = "ts-sdpa-bool"  # its mask is expanded to a size that is read off Q


def bench_of(path: Path, tools: Any) -> Any:
    model = load(path)
    if path.stem == SIZE_READ_OUTSIDE:
        model = freeze_inputs(model, {"x": (2, 8, 32), "tokens": (2, 8)})
        model = perform(model, ["fold-constants"]).model
    return tools.Bench(infer_shapes(model))


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_exports_are_found_and_stay_equal(path: Path, tools: Any) -> None:
    bench = bench_of(path, tools)
    after = bench.as_function()
    onnx.checker.check_model(after.proto)
    assert not View(after).nodes("Softmax")
    for seed in range(2):
        feeds = tools.feeds_of(bench.model, seed)
        tools.assert_same(tools.run(bench.model, feeds), tools.run(after, feeds))


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_a_second_time_nothing_is_found(path: Path, tools: Any) -> None:
    after = infer_shapes(bench_of(path, tools).as_function())
    found = tools.OP.rule.find(View(after))
    assert not found.matches
    assert not found.near


def test_every_exporter_is_here() -> None:
    names = {path.stem.split("-", 1)[1] for path in GRAPHS}
    assert {path.stem for path in GRAPHS} == {f"{exporter}-{name}" for exporter in ("ts", "dynamo") for name in names}
    assert len(names) == 11


def test_what_a_match_says(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(mask="drop", scale="both")))
    match = bench.match
    weights = [node.input[1] for node in bench.model.proto.graph.node if node.op_type == "MatMul"][:3]
    assert match.inputs[0] == "x"
    assert [*match.inputs[1:7:2]] == weights
    assert match.inputs[7] == "mask"
    assert match.outputs == ("context",)
    assert match.attributes["num_heads"] == 4
    assert match.attributes["scale"] == pytest.approx(8**-0.5)
    assert match.ranges[0] == "x"
    assert match.ranges[-1] == "context"
    made = {name for node in bench.model.proto.graph.node for name in node.output}
    assert set(match.ranges[1:]) <= set(match.swallowed) <= made


def test_rows_without_a_key(tools: Any) -> None:
    """A fill of -inf makes them NaN, and the guard 0, before and after."""
    bench = tools.Bench(tools.draw(tools.Spelling(mask="added_bool", mask_shape="square", guard=True)))
    feeds = tools.feeds_of(bench.model, 0, length=6)
    feeds["mask"][0, 0, 2] = False
    before = tools.run(bench.model, feeds)
    assert (before[0, 2] == 0).all()
    tools.assert_same(before, tools.run(bench.as_function(), feeds))


HAND = """
<ir_version: 9, opset_import: ["" : 17]>
net (float[2,8,32] x, float[2,1,1,8] mask, float[2,8,32] z) => (float[2,8,32] y)
<float[32,32] wq = {WEIGHT}, float[32,32] wk = {WEIGHT}, float[32,32] wv = {WEIGHT}, float[32] bq = {BIAS},
 int64[4] split = {0, 0, 4, 8}, int64[4] one = {0, 0, 1, 8}, int64[1] from = {0}, int64[1] to = {8},
 int64[1] last = {2}, int64[1] until = {1}, int64[1] along = {1}, int64[4] turned = {1, 2, 1, 8},
 int64[3] join = {0, 0, 32}, float scale = {SCALE},
 float other = {2.0}>
{
    q0 = MatMul(x, wq)
    q1 = Add(q0, bq)
    q2 = Reshape(q1, split)
    q = Transpose<perm = [0, 2, 1, 3]>(q2)
    k0 = MatMul(x, wk)
    k1 = Reshape(k0, split)
    k = Transpose<perm = [0, 2, 3, 1]>(k1)
    v0 = MatMul(x, wv)
    v1 = Reshape(v0, split)
    v = Transpose<perm = [0, 2, 1, 3]>(v1)
    scores = MatMul(q, k)
    scaled = Mul(scores, scale)
    masked = Add(scaled, mask)
    attention = Softmax<axis = -1>(masked)
    context = MatMul(attention, v)
    c1 = Transpose<perm = [0, 2, 1, 3]>(context)
    c2 = Reshape(c1, join)
    y = Add(c2, x)
}
"""


def by_hand(*changes: tuple[str, str]) -> Model:
    rng = np.random.default_rng(1)
    text = HAND.replace("{SCALE}", "{0.35355339}").replace("{BIAS}", "{" + ", ".join(["0.25"] * 32) + "}")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    while "{WEIGHT}" in text:
        values = ", ".join(f"{value:.4f}" for value in rng.normal(0, 0.3, 1024))
        text = text.replace("{WEIGHT}", "{" + values + "}", 1)
    proto = onnx.parser.parse_model(text)
    for tensor in proto.graph.initializer:
        assert tensor.dims or tensor.name in ("scale", "other")
    return infer_shapes(Model(proto))


def test_the_graph_by_hand_is_found(tools: Any) -> None:
    bench = tools.Bench(by_hand())
    feeds = tools.feeds_of(bench.model, 3)
    tools.assert_same(tools.run(bench.model, feeds), tools.run(bench.as_function(), feeds))


def test_a_shared_weight_stays(tools: Any) -> None:
    bench = tools.Bench(by_hand(("y = Add(c2, x)", "s = MatMul(c2, wq)\n    y = Add(s, x)")))
    feeds = tools.feeds_of(bench.model, 4)
    tools.assert_same(tools.run(bench.model, feeds), tools.run(bench.as_function(), feeds))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("k0 = MatMul(x, wk)", "k0 = MatMul(z, wk)", "K's projection reads 'z', another tensor than Q's 'x'"),
        (
            "y = Add(c2, x)",
            "s = ReduceMax<keepdims = 0>(masked)\n    r = Add(c2, x)\n    y = Add(r, s)",
            "the scores 'masked'",
        ),
        (
            "y = Add(c2, x)",
            "s = ReduceMax<keepdims = 0>(attention)\n    r = Add(c2, x)\n    y = Add(r, s)",
            "the probabilities",
        ),
        (
            "y = Add(c2, x)",
            "s = ReduceMax<keepdims = 0>(k1)\n    r = Add(c2, x)\n    y = Add(r, s)",
            "'k1' inside it has a second",
        ),
        ("axis = -1", "axis = 2", "runs over axis 2 of 4, not over the keys"),
        (
            "k1 = Reshape(k0, split)",
            "n = Slice(k0, from, to, last)\n    k1 = Reshape(n, one)",
            "K has 1 heads, and Q has",
        ),
        ("attention = Softmax", "p = Softmax", None),  # the next lines complete it
        ("v1 = Reshape(v0, split)", "v9 = Mul(v0, other)\n    v1 = Reshape(v9, split)", "V is scaled, by 2"),
        ("masked = Add(scaled, mask)", "m2 = Add(scaled, mask)\n    masked = Add(m2, mask)", "two masks are applied"),
        (
            "scaled = Mul(scores, scale)\n    masked = Add(scaled, mask)",
            "scaled = Add(scores, mask)\n    masked = Mul(scaled, scale)",
            "masks the scores before they are scaled",
        ),
        ("{0.35355339}", "{-0.35355339}", "is not positive"),
        ("q1 = Add(q0, bq)", "q9 = Mul(q0, other)\n    q1 = Add(q9, bq)", "something other than the whole projection"),
        ("q2 = Reshape(q1, split)", "q9 = Slice(q1, from, until, along)\n    q2 = Reshape(q9, split)", "of the tokens"),
        ("q2 = Reshape(q1, split)", "q9 = Relu(q1)\n    q2 = Reshape(q9, split)", "Q passes through Relu"),
        ("k0 = MatMul(x, wk)", "x9 = Sigmoid(x)\n    k0 = MatMul(x9, wk)", "cross-attention"),
        ("k0 = MatMul(x, wk)", "k9 = MatMul(x, wk)\n    k0 = MatMul(k9, wq)", "cross-attention"),
        ("masked = Add(scaled, mask)", "h = Cast<to = 1>(scaled)\n    masked = Add(h, mask)", "Cast"),
        ("c2 = Reshape(c1, join)", "c9 = Relu(c1)\n    c2 = Reshape(c9, join)", "are not put together again"),
        ("context = MatMul(attention, v)", "t = Transpose<perm = [0, 1, 3, 2]>(v)\n    context = MatMul(t, v)", None),
    ],
)
def test_near_misses(old: str, new: str, why: str | None, tools: Any) -> None:
    if old == "attention = Softmax":
        new = "p = Softmax"
        more = ("context = MatMul(attention, v)", _DROPOUT)
        bench = tools.Bench(by_hand((old, new), more))
        assert "is in training mode" in bench.why
    elif why is None:  # a softmax that is no attention's: nothing to say
        found = tools.Bench(by_hand((old, new))).found
        assert not found.matches
        assert not found.near
    else:
        assert why in tools.Bench(by_hand((old, new))).why


_DROPOUT = """ratio = Constant<value_float = 0.1>()
    mode = Constant<value = bool {1}>()
    attention = Dropout(p, ratio, mode)
    context = MatMul(attention, v)"""


def test_a_mask_of_scores_that_lie_otherwise(tools: Any) -> None:
    """Heads before the batch: [1, B, 1, S] is right there, and means something else for [B, N, S, S]."""
    model = by_hand(
        ("q = Transpose<perm = [0, 2, 1, 3]>(q2)", "q = Transpose<perm = [2, 0, 1, 3]>(q2)"),
        ("k = Transpose<perm = [0, 2, 3, 1]>(k1)", "k = Transpose<perm = [2, 0, 3, 1]>(k1)"),
        ("v = Transpose<perm = [0, 2, 1, 3]>(v1)", "v = Transpose<perm = [2, 0, 1, 3]>(v1)"),
        ("masked = Add(scaled, mask)", "m = Reshape(mask, turned)\n    masked = Add(scaled, m)"),
        ("c1 = Transpose<perm = [0, 2, 1, 3]>(context)", "c1 = Transpose<perm = [1, 2, 0, 3]>(context)"),
    )
    assert "is for scores that do not lie [batch, heads, sequence, sequence]" in tools.Bench(model).why


def test_a_size_read_outside_says_what_helps(tools: Any) -> None:
    path = next(path for path in GRAPHS if path.stem == SIZE_READ_OUTSIDE)
    why = tools.Bench(infer_shapes(load(path))).why
    assert "is read outside" in why
    assert "fold-constants" in why


def test_an_unknown_shape_is_said(tools: Any) -> None:
    model = tools.draw(tools.Spelling())
    model.proto.graph.input[0].type.tensor_type.ClearField("shape")
    model.proto.graph.ClearField("value_info")
    assert "the shape of the projections' input 'x' is not known" in tools.Bench(model).why


@pytest.mark.parametrize("twist", ["cross", "axis", "scaled_v", "second_output", "weak_fill", "batch_as_keys"])
def test_twisted_graphs_are_never_changed_wrongly(twist: str, tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(twist=twist, mask="keep", batch=6)))
    assert not bench.found.matches
    assert bench.why
