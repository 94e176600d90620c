"""Metrics: known values, edges, and what must hold for any input."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from trtforge.evaluate.metrics import cosine, max_abs_error, sqnr_db, top1

VECTORS = arrays(np.float32, st.integers(1, 30), elements=st.floats(width=32, allow_nan=False, allow_infinity=False))


def f32(*values):
    return np.asarray(values, np.float32)


def test_cosine_known_values():
    assert cosine(f32(1, 0), f32(0, 1)) == 0
    assert cosine(f32(1, 2), f32(-1, -2)) == pytest.approx(-1)
    assert cosine(f32(3, 4), f32(4, 3)) == pytest.approx(24 / 25)


def test_cosine_edges():
    assert cosine(f32(0, 0), f32(0, 0)) == 1
    assert cosine(f32(0, 0), f32(0, 1e-30)) == 0
    assert math.isnan(cosine(f32(1, math.nan), f32(1, 1)))
    assert math.isnan(cosine(f32(1, math.inf), f32(1, math.inf)))
    with pytest.raises(ValueError, match="shapes differ"):
        cosine(f32(1), f32(1, 2))


@given(VECTORS, st.floats(1e-6, 1e6))
def test_cosine_ignores_scale_and_stays_in_range(values, factor):
    assume(np.abs(values).max() > 0)
    assert cosine(values, values) == pytest.approx(1)
    scaled = values.astype(np.float64) * factor
    assert cosine(values, scaled) == pytest.approx(1)
    assert cosine(values, -scaled) == pytest.approx(-1)
    assert -1 <= cosine(values, np.roll(values, 1)) <= 1


def test_sqnr_known_values():
    assert sqnr_db(f32(10, 0), f32(10, 1)) == pytest.approx(20)
    assert sqnr_db(f32(1, 2), f32(1, 2)) == math.inf
    assert math.isnan(sqnr_db(f32(1, math.nan), f32(1, 2)))


def test_top1_of_scores_and_of_decisions():
    assert top1(f32(0.1, 0.9), f32(0.4, 0.6)) == 1
    assert top1(np.eye(4, dtype=np.float32), np.eye(4, dtype=np.float32)[[0, 1, 2, 0]]) == 0.75
    labels = np.asarray([[1, 2, 3, 4]])
    assert top1(labels, np.asarray([[1, 2, 0, 0]])) == 0.5
    assert top1(f32(1, 1), f32(1, 1)) == 1
    assert math.isnan(top1(f32(1, math.nan), f32(1, 2)))
    assert math.isnan(top1(np.zeros((0, 3), np.float32), np.zeros((0, 3), np.float32)))


def test_top1_of_a_segmentation_counts_voxels():
    reference = np.zeros((1, 2, 2, 2), np.float32)
    reference[:, 1] = 1
    candidate = reference.copy()
    candidate[0, :, 0, 0] = [1, 0]
    assert top1(reference, candidate) == 0.75


def test_max_abs_error():
    assert max_abs_error(f32(1, -2), f32(1.5, 1)) == 3
    assert max_abs_error(f32(), f32()) == 0
    assert max_abs_error(f32(math.inf), f32(1)) == math.inf
    assert math.isnan(max_abs_error(f32(math.inf), f32(math.inf)))
    assert math.isnan(max_abs_error(f32(math.nan), f32(1)))


@given(VECTORS)
def test_equal_arrays_are_equal_by_every_metric(values):
    assert sqnr_db(values, values) == math.inf
    assert max_abs_error(values, values) == 0
    assert top1(values, values) == 1
