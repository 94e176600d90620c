"""Thresholds, the background and the padding where they are at an edge: nothing changes, or it is a near miss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plugins.nms import graphs
from trtforge.plugins.nms.function import LEAST
from trtforge.plugins.nms.rewrite import OP
from trtforge.surgery.choose import as_functions

tools = graphs.tools

ROOM = {"keep": np.array([40]), "padding": np.array([0, 0, 0, 40])}
OUTPUTS = "int32[2, 1] num, float[2, 40, 4] out_boxes, float[2, 40] out_scores, int32[2, 40] out_classes"
UNLIMITED = {"keep, overlap, least)": "keep, overlap)"}
BACKGROUND = {"  t = T": "  t0 = T", "(p)": "(p)\n  t = Where(mask, fill, t0)"}
MASK = np.array([[True], [False], [False]])


@pytest.mark.parametrize("least", [0.0, -0.0, 1e-45, 1e-30])
def test_scores_of_zero_are_not_above_a_threshold_of_zero(least: float) -> None:
    model = graphs.detector(constants={"least": np.float32(least)})
    feeds = graphs.feeds()
    feeds["raw"][:] = -200  # their sigmoid is 0 in float32
    feeds["raw"][:, 0, 0] = 1
    graphs.assert_same(model, as_functions(model, [OP]), feeds)
    assert tools.run(model, feeds)["num"].tolist() == [[1], [1]]
    threshold = tools.only_match(OP, model).attributes["score_threshold"]
    assert threshold == LEAST if least < LEAST else threshold > LEAST


def background(fill: float, bound: str = "Greater(best, below)", **constants: Any) -> Any:
    """A head with a background of ``fill``, and room for every box."""
    changes = {**BACKGROUND, **({} if "least" in constants else UNLIMITED), "Greater(best, below)": bound}
    known = {**ROOM, "mask": MASK, "fill": np.float32(fill), **constants}
    return graphs.detector(changes, known, outputs=OUTPUTS)


@pytest.mark.parametrize(
    "model",
    [
        background(-1.0),
        background(-0.5),  # what is not above the bound is no detection
        background(-0.1, least=np.float32(0.3)),
        background(-0.1, least=np.float32(-0.1)),
        background(-0.1, "GreaterOrEqual(best, none)"),
    ],
)
def test_a_background_that_is_out(model: Any) -> None:
    assert tools.only_match(OP, model).attributes["background_class"] == 0
    for seed in range(3):
        graphs.assert_same(model, as_functions(model, [OP]), graphs.feeds(seed))


@pytest.mark.parametrize(
    ("model", "bound"),
    [
        (background(-0.1), "-0.5"),
        (background(-0.1, least=np.float32(-0.2)), "-0.5"),
        (background(-0.5, "GreaterOrEqual(best, below)"), "-0.5"),
    ],
)
def test_a_background_that_counts_as_detections(model: Any, bound: str) -> None:
    (why,) = tools.near(OP, model)
    assert why.startswith("the background's scores become -0.") and f"a score above {bound} counts as" in why


@pytest.mark.parametrize(
    ("changes", "padding"),
    [
        ({"Pad(flat": 'Pad<mode = "edge">(flat'}, [0, 0, 0, 5]),
        ({"Pad(flat": 'Pad<mode = "wrap">(flat'}, [0, 0, 0, 5]),
        ({}, [0, 0, 0, -2]),
    ],
)
def test_what_pads_with_scores_or_cuts_them_off(changes: dict[str, str], padding: list[int]) -> None:
    model = graphs.detector(changes, {"padding": np.array(padding)}, opset=19)
    assert tools.near(OP, model) == [
        "'more' pads the surviving scores with something else than a number below 0 at the end"
    ]
