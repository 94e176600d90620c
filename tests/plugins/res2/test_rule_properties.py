"""Random spellings are found and stay equal; with one thing wrong they are refused, with the right sentence."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.plugins.res2 import breakages, graphs
from trtforge.plugins.res2.rewrite import OP
from trtforge.surgery.rules import View
from trtforge.surgery.swap import names_of, swap

quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@quick
@given(graphs.spellings())
def test_a_spelling_is_found_and_stays_equal(spelling) -> None:
    model = graphs.Stage(spelling).model()
    view = View(model)
    found = OP.rule.find(view)
    assert found.near == ()
    (match,) = found.matches
    after = swap(model, [(match, OP.function(match, view, names_of(model)))])
    onnx.checker.check_model(after.proto)
    operators = [node.op_type for node in after.proto.graph.node]
    (call,) = (node for node in after.proto.graph.node if node.op_type == "Res2")
    assert len(call.input) == 21 and all(call.input)  # zeros for absent biases
    assert not {"Conv", "Relu", "Clip", "BatchNormalization", "Add", "Sum"} & set(operators)
    image = graphs.image_of(model)
    for before, made in zip(graphs.computed(model, image), graphs.computed(after, image), strict=True):
        np.testing.assert_allclose(made, before, rtol=1e-5, atol=1e-5 * np.abs(before).max())


def assert_refused(name: str, spelling) -> None:
    model = breakages.broken(name, spelling, graphs.Stage).model()
    found = OP.rule.find(View(model))
    assert found.matches == ()
    (miss,) = found.near
    assert re.search(breakages.BREAKAGES[name].why, miss.sentence), miss.sentence


@pytest.mark.parametrize("name", breakages.BREAKAGES)
def test_one_thing_wrong_is_refused_and_named(name: str) -> None:
    assert_refused(name, graphs.Spelling())


@quick
@given(graphs.spellings(), st.sampled_from(sorted(breakages.BREAKAGES)))
def test_in_every_spelling(spelling, name: str) -> None:
    assert_refused(name, spelling)
