"""Box decoders in the spellings of TensorFlow and PyTorch, and drawn ones: anchors and variances are read off them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.plugins.nms import graphs
from trtforge.graph.model import Model
from trtforge.plugins.nms.decode import Decoder, decoder_of
from trtforge.plugins.nms.rewrite import OP
from trtforge.surgery.choose import as_functions
from trtforge.surgery.rules import View

tools = graphs.tools
Array = np.ndarray[Any, Any]
BOXES = graphs.BOXES

ANCHORS = np.concatenate(
    [
        np.random.default_rng(7).uniform(0.2, 0.8, (1, BOXES, 2)),
        np.random.default_rng(8).uniform(0.2, 0.6, (1, BOXES, 2)),
    ],
    -1,
).astype(np.float32)
PARTS: dict[str, Array] = {
    **{f"a{name}": ANCHORS[..., place : place + 1] for place, name in enumerate("yxhw")},
    **{f"r{name}": ANCHORS[0, :, place] for place, name in enumerate("yxhw")},
    "centres": ANCHORS[..., :2],
    "sizes": ANCHORS[..., 2:],
    "half_sizes": ANCHORS[..., 2:] / 2,
    "vc": np.float32(0.1),
    "vs": np.float32(0.2),
    "ten": np.float32(10),
    "five": np.float32(5),
    "two": np.float32(2),
    "half": np.float32(0.5),
    "variances": np.array([0.1, 0.1, 0.2, 0.2], np.float32),
    "pairs": np.array([2, 2]),
    "column_axis": np.array([2]),
    "rank_two": np.array([1]),
    **{f"at_{place}": np.array(place) for place in range(4)},
    **{f"from_{place}": np.array([place]) for place in range(5)},
    "all_rows": np.array([-1, 4]),
    "one_image": np.array([1, -1, 4]),
    "first_axis": np.array([0]),
}

TENSORFLOW = """
  ty, tx, th, tw = Split<axis = 2>(loc)
  yv = Mul(ty, vc)
  xv = Mul(tx, vc)
  hv = Mul(th, vs)
  wv = Mul(tw, vs)
  he = Exp(hv)
  we = Exp(wv)
  h = Mul(he, ah)
  w = Mul(we, aw)
  ym = Mul(yv, ah)
  y = Add(ym, ay)
  xm = Mul(xv, aw)
  x = Add(xm, ax)
  h2 = Div(h, two)
  w2 = Div(w, two)
  y1 = Sub(y, h2)
  x1 = Sub(x, w2)
  y2 = Add(y, h2)
  x2 = Add(x, w2)
  boxes = Concat<axis = 2>(y1, x1, y2, x2)
"""
TENSORFLOW_STACKED = """
  listed = Reshape(loc, all_rows)
  turned = Transpose<perm = [1, 0]>(listed)
  ty = Gather<axis = 0>(turned, at_0)
  tx = Gather<axis = 0>(turned, at_1)
  th = Gather<axis = 0>(turned, at_2)
  tw = Gather<axis = 0>(turned, at_3)
  he0 = Div(th, five)
  he = Exp(he0)
  we0 = Div(tw, five)
  we = Exp(we0)
  h = Mul(he, rh)
  w = Mul(we, rw)
  yv = Div(ty, ten)
  ym = Mul(yv, rh)
  y = Add(ym, ry)
  xv = Div(tx, ten)
  xm = Mul(xv, rw)
  x = Add(xm, rx)
  h2 = Div(h, two)
  w2 = Div(w, two)
  y1 = Sub(y, h2)
  x1 = Sub(x, w2)
  y2 = Add(y, h2)
  x2 = Add(x, w2)
  y1u = Unsqueeze(y1, first_axis)
  x1u = Unsqueeze(x1, first_axis)
  y2u = Unsqueeze(y2, first_axis)
  x2u = Unsqueeze(x2, first_axis)
  stacked = Concat<axis = 0>(y1u, x1u, y2u, x2u)
  back = Transpose(stacked)
  boxes = Unsqueeze(back, first_axis)
"""
PYTORCH = """
  moves = Slice(loc, from_0, from_2, column_axis)
  grows = Slice(loc, from_2, from_4, column_axis)
  m1 = Mul(moves, vc)
  m2 = Mul(m1, sizes)
  centre = Add(centres, m2)
  g1 = Mul(grows, vs)
  g2 = Exp(g1)
  size = Mul(sizes, g2)
  halves = Div(size, two)
  low = Sub(centre, halves)
  high = Add(size, low)
  boxes = Concat<axis = -1>(low, high)
"""
VECTORED = """
  scaled = Mul(variances, loc)
  moves, grows = Split<axis = -1>(scaled, pairs)
  m2 = Mul(moves, sizes)
  centre = Add(m2, centres)
  g2 = Exp(grows)
  halves = Mul(g2, half_sizes)
  low = Sub(centre, halves)
  high = Add(centre, halves)
  boxes = Concat<axis = -1>(low, high)
"""
SPELLINGS = {"tensorflow": TENSORFLOW, "pytorch": PYTORCH, "vectored": VECTORED}
INPUTS = f"float[2, {BOXES}, 4] loc, float[2, {BOXES}, 3] raw"


def head(decoder: str, **more: Any) -> Model:
    more.setdefault("inputs", INPUTS)
    constants = {**PARTS, **more.pop("constants", {})}
    return graphs.detector(constants=constants, front=decoder + graphs.FRONT, **more)


def assert_replaced(model: Model, kind: str, seed: int = 0) -> Model:
    after = as_functions(model, [OP])
    assert tools.calls(after) == [kind]
    graphs.assert_same(model, after, graphs.feeds(seed, loc=(2, BOXES, 4)))
    return after


@pytest.mark.parametrize("spelled", SPELLINGS)
def test_anchors_and_variances_are_read(spelled: str) -> None:
    model = head(SPELLINGS[spelled])
    found = decoder_of("boxes", View(model))
    assert found is not None
    assert (found.source, found.centre_size, found.order, found.variances) == (
        "loc",
        True,
        (0, 1, 2, 3),
        (0.1, 0.1, 0.2, 0.2),
    )
    assert found.anchors is not None
    np.testing.assert_allclose(found.anchors, ANCHORS, rtol=1e-6)
    for seed in range(3):
        after = assert_replaced(model, "NmsCentreSizeAnchorsSigmoid", seed)
    assert [node.op_type for node in after.proto.graph.node] == ["Mul", "NmsCentreSizeAnchorsSigmoid"]


def test_columns_stacked_for_one_image() -> None:
    model = tools.parsed(
        f"g (float[1, {BOXES}, 4] loc) => (float[1, {BOXES}, 4] boxes) {{{TENSORFLOW_STACKED}}}",
        {name: value for name, value in PARTS.items() if name in TENSORFLOW_STACKED},
    )
    found = decoder_of("boxes", View(model))
    assert found is not None and found.anchors is not None
    np.testing.assert_allclose(found.anchors, ANCHORS, rtol=1e-6)
    assert (found.source, found.variances) == ("loc", (0.1, 0.1, 0.2, 0.2))


def test_predictions_in_another_order_are_brought_into_place() -> None:
    model = head(TENSORFLOW.replace("ty, tx, th, tw =", "tw, th, tx, ty ="))
    after = assert_replaced(model, "NmsCentreSizeAnchorsSigmoid")
    assert [node.op_type for node in after.proto.graph.node][:2] == ["Gather", "Mul"]


def test_without_variances_nothing_is_put_in_front() -> None:
    ones = {"vc": np.float32(1), "vs": np.float32(1)}
    after = assert_replaced(head(PYTORCH, constants=ones), "NmsCentreSizeAnchorsSigmoid")
    assert [node.op_type for node in after.proto.graph.node] == ["NmsCentreSizeAnchorsSigmoid"]


def test_one_anchor_for_all_boxes() -> None:
    same = {"centres": np.float32([0.5, 0.25]), "sizes": np.float32([[0.4, 0.2]])}
    model = head(PYTORCH, constants=same)
    found = decoder_of("boxes", View(model))
    assert found is not None and found.anchors is not None
    np.testing.assert_allclose(
        found.anchors, np.broadcast_to(np.float32([0.5, 0.25, 0.4, 0.2]), (1, BOXES, 4)), rtol=1e-6
    )
    assert_replaced(model, "NmsCentreSizeAnchorsSigmoid")


def test_boxes_by_centre_and_size_need_no_anchors() -> None:
    corners = """
  centre, size = Split<axis = -1>(loc, pairs)
  halves = Mul(size, half)
  low = Sub(centre, halves)
  high = Add(centre, halves)
  boxes = Concat<axis = -1>(low, high)
"""
    assert_replaced(head(corners), "NmsCentreSizeSigmoid")


OTHER = {
    "a size that is limited": ("h = Mul(he, ah)", "hc = Clip(he, half, ten)\n  h = Mul(hc, ah)"),
    "a variance of each box": ("hv = Mul(th, vs)", "hv = Mul(th, ah)"),
    "a size that is not the anchor's": ("h = Mul(he, ah)", "h = Mul(he, aw)"),
    "another box's predictions": ("y = Add(ym, ay)", "ys = Add(ym, ay)\n  y = Mul(ys, he)"),
    "ends that are not centre and size": ("h2 = Div(h, two)", "h2 = Div(h, five)\n  h3 = Div(h, two)"),
}


@pytest.mark.parametrize("what", OTHER)
def test_another_decoder_stays_outside(what: str) -> None:
    old, new = OTHER[what]
    text = TENSORFLOW.replace(old, new)
    if "h3" in new:
        text = text.replace("y2 = Add(y, h2)", "y2 = Add(y, h3)")
    model = head(text)
    decoder = decoder_of("boxes", View(model))
    if decoder is None:
        assert_replaced(model, "NmsSigmoid")
    else:  # a size that is not the anchor's is a variance that is not one number, or another anchor's
        assert_replaced(model, "NmsCentreSizeAnchorsSigmoid")
        pytest.fail(f"{what} is taken for {decoder.variances}")


def test_a_decoder_that_others_read_stays_outside() -> None:
    outputs = ", ".join([*graphs.OUTPUTS.values(), f"float[2, {BOXES}, 4] boxes"])
    model = head(VECTORED, outputs=outputs)
    assert_replaced(model, "NmsSigmoid")


def test_anchors_that_are_computed_stay_outside() -> None:
    text = PYTORCH.replace("centre = Add(centres, m2)", "given = Exp(prior)\n  centre = Add(given, m2)")
    model = head(text, inputs=f"{INPUTS}, float[1, {BOXES}, 2] prior")
    after = as_functions(model, [OP])
    assert tools.calls(after) == ["NmsSigmoid"]
    graphs.assert_same(model, after, graphs.feeds(1, loc=(2, BOXES, 4), prior=(1, BOXES, 2)))


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_any_order_of_the_arithmetic(data: st.DataObject) -> None:
    """A decoder drawn step by step: where variances come in, what is divided or multiplied, who is added to whom."""
    rng = np.random.default_rng(data.draw(st.integers(0, 10**6)))
    constants = {"vc": np.float32(rng.uniform(0.05, 1)), "vs": np.float32(rng.uniform(0.05, 1))}
    constants |= {"ivc": 1 / constants["vc"], "ivs": 1 / constants["vs"]}
    centre = data.draw(st.permutations(["Mul(@, vc)", "Mul(@, sizes)"]))
    if data.draw(st.booleans()):
        centre = [step.replace("Mul(@, vc)", "Div(@, ivc)") for step in centre]
    grow = data.draw(st.sampled_from(["Mul(@, vs)", "Mul(vs, @)", "Div(@, ivs)"]))
    ends = data.draw(
        st.sampled_from(
            [
                "low = Sub(centre, halves)\n  high = Add(halves, centre)",
                "low = Sub(centre, halves)\n  high = Add(low, size)",
                "minus = Neg(halves)\n  low = Add(minus, centre)\n  high = Sub(centre, minus)",
            ]
        )
    )
    join = "Add(centres, moved_2)" if data.draw(st.booleans()) else "Add(moved_2, centres)"
    text = f"""
  moves, grows = Split<axis = 2>(loc, pairs)
  moved_1 = {centre[0].replace("@", "moves")}
  moved_2 = {centre[1].replace("@", "moved_1")}
  centre = {join}
  rate = {grow.replace("@", "grows")}
  growth = Exp(rate)
  size = Mul(sizes, growth)
  halves = {data.draw(st.sampled_from(["Div(size, two)", "Mul(half, size)"]))}
  {ends}
  boxes = Concat<axis = 2>(low, high)
"""
    model = head(text, constants=constants)
    found: Decoder | None = decoder_of("boxes", View(model))
    assert found is not None
    want = [constants["vc"]] * 2 + [constants["vs"]] * 2
    np.testing.assert_allclose(found.variances, want, rtol=1e-5)
    assert_replaced(model, "NmsCentreSizeAnchorsSigmoid", seed=int(rng.integers(1000)))
