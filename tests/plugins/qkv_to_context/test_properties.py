"""Graphs drawn at random, in any mixture of spellings: found and equal; twisted ones refused, or equal all the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trtforge.graph.shapes import infer_shapes
from trtforge.surgery.op import Situation
from trtforge.surgery.rules import View

ANYWHERE = Situation("onnxruntime", "fp32", None)
TWISTS = ("", "cross", "axis", "scaled_v", "heads_inside", "second_output", "weak_fill", "batch_as_keys")


@pytest.fixture(scope="module")
def spell(tools: Any) -> Callable[..., Any]:
    def make(choices: dict[str, Any]) -> Any:
        how = dict(choices)
        if how["heads_by"] == "rank3":  # a mask of [B*N, 1, S] is another one than [B, 1, 1, S]
            how["mask_shape"] = "shared"
        if how["rows"] in ("time", "flat_time") and how["heads_by"] == "rank3":
            how["heads_by"] = "rank4"
        if how["rows"] != "batch":
            how["open_axes"] = False
        if how["twist"] == "batch_as_keys":
            how |= {"rows": "batch", "open_axes": False, "batch": 4, "length": 4}
        if how["twist"] == "weak_fill":
            how["mask"] = "keep"
        return tools.Spelling(**how)

    return make


CHOICES = st.fixed_dictionaries(
    {
        "batch": st.integers(1, 3),
        "length": st.sampled_from([2, 4, 5, 6]),
        "heads": st.sampled_from([1, 2, 4]),
        "head_size": st.sampled_from([2, 4, 8]),
        "rows": st.sampled_from(["batch", "time", "flat", "flat_time", "gemm"]),
        "weights": st.sampled_from(["separate", "blocks", "by_head"]),
        "parts": st.sampled_from(["split", "slice", "gather"]),
        "heads_by": st.sampled_from(["rank4", "rank3"]),
        "scale": st.sampled_from(["none", "div", "mul", "query", "both"]),
        "mask": st.sampled_from(["", "add", "keep", "drop", "added_bool"]),
        "mask_shape": st.sampled_from(["keys", "square", "shared"]),
        "axis": st.sampled_from([-1, 3]),
        "guard": st.booleans(),
        "bias": st.booleans(),
        "open_axes": st.booleans(),
        "twist": st.just(""),
    }
)
QUIETLY = settings(deadline=None, max_examples=200, suppress_health_check=list(HealthCheck), derandomize=True)


@given(choices=CHOICES)
@QUIETLY
def test_every_spelling_is_found_and_equal(choices: dict[str, Any], spell: Any, tools: Any) -> None:
    how = spell(choices)
    bench = tools.Bench(tools.draw(how))
    feeds = tools.feeds_of(bench.model, 5, batch=how.batch)
    before, after = tools.run(bench.model, feeds), bench.as_function()
    tools.assert_same(before, tools.run(after, feeds))
    assert not tools.OP.rule.find(View(infer_shapes(after))).matches


@given(choices=CHOICES)
@QUIETLY
def test_the_attention_operator_computes_the_same(choices: dict[str, Any], spell: Any, tools: Any) -> None:
    how = spell(choices)
    bench = tools.Bench(tools.draw(how))
    feeds = tools.feeds_of(bench.model, 6, batch=how.batch)
    after = bench.lowered(tools.OP.lowerings[1], ANYWHERE)
    tools.assert_same(tools.run(bench.model, feeds), tools.run(after, feeds))


@given(choices=CHOICES, twist=st.sampled_from(TWISTS))
@QUIETLY
def test_what_is_changed_is_equal(choices: dict[str, Any], twist: str, spell: Any, tools: Any) -> None:
    plain = {"weights": "separate", "rows": "batch"} if twist == "cross" else {}
    how = spell(choices | plain | {"twist": twist})
    bench = tools.Bench(tools.draw(how))
    found = bench.found
    if not found.matches:
        assert [miss.why for miss in found.near if miss.why]
        return
    feeds = tools.feeds_of(bench.model, 7, batch=how.batch)
    tools.assert_same(tools.run(bench.model, feeds), tools.run(bench.as_function(), feeds))
