"""A value beside its bound: enough digits, and no more, to say on which side it is."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.evaluate.bounds import told


@pytest.mark.parametrize(
    ("value", "bound", "texts"),
    [
        (0.9987654321, 0.99, ("0.998765", "0.99")),
        (0.99999982, 0.9999999, ("0.9999998", "0.9999999")),
        (0.98999999, 0.99, ("0.98999999", "0.99")),
        (1.0, 1.0, ("1", "1")),
        (math.nan, 0.9, ("nan", "0.9")),
    ],
)
def test_texts(value: float, bound: float, texts: tuple[str, str]) -> None:
    assert told(value, bound) == texts


@given(st.floats(0, 1), st.decimals(0, 1, places=9).map(float))
def test_the_text_is_on_the_side_of_the_value(value: float, bound: float) -> None:
    said, limit = map(float, told(value, bound))
    assert (said < limit, said > limit) == (value < bound, value > bound)
