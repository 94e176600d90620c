"""Dice as MLPerf defines it, held against its definition in one-hot form."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from trtforge.evaluate.dice import confusion, dice, mean

labels = arrays.arrays(np.uint8, (3, 4, 5), elements=st.integers(0, 3))


@given(found=labels, truth=labels)
def test_it_is_the_one_hot_formula(found: np.ndarray, truth: np.ndarray) -> None:
    hot_found, hot_truth = np.eye(4)[found], np.eye(4)[truth]
    axes = (0, 1, 2)
    expected = (2 * (hot_found * hot_truth).sum(axes) + 1e-6) / (hot_found.sum(axes) + hot_truth.sum(axes) + 1e-6)
    assert dice(found, truth, 4) == pytest.approx(tuple(expected[1:]), rel=1e-12)


def test_a_class_that_both_lack_is_perfect() -> None:
    nothing = np.zeros((2, 2, 2), np.uint8)
    assert dice(nothing, nothing, 3) == (1.0, 1.0)
    some = nothing.copy()
    some[0, 0, 0] = 1
    assert dice(some, nothing, 3)[0] == pytest.approx(1e-6, rel=1e-3)


def test_kidney_does_not_include_the_tumour() -> None:
    """Label 1 is the kidney without its tumour: MLPerf does not join the two."""
    truth = np.array([[[1, 1, 2, 2]]], np.uint8)
    found = np.array([[[1, 1, 1, 1]]], np.uint8)
    kidney, tumour = dice(found, truth, 3)
    assert kidney == pytest.approx(2 * 2 / 6, abs=1e-6) and tumour < 1e-6


def test_confusion_counts_truth_in_rows() -> None:
    truth, found = np.array([[[0, 1, 1]]], np.uint8), np.array([[[1, 1, 0]]], np.uint8)
    assert confusion(found, truth, 2).tolist() == [[0, 1], [1, 1]]


def test_labels_beyond_the_classes_and_other_shapes_are_refused() -> None:
    some = np.full((2, 2, 2), 3, np.uint8)
    with pytest.raises(ValueError, match="label 3 is none of 3 classes"):
        dice(some, some, 3)
    with pytest.raises(ValueError, match="shapes differ"):
        dice(some, some[:1], 4)


def test_mean() -> None:
    assert mean([0.9, 0.8]) == pytest.approx(0.85)
    assert mean([]) == 1
