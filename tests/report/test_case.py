"""The case: what it refuses, and the figures computed from it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from trtforge.report.case import dice_text, millilitres_text, table, volumes_ml


def test_volumes_are_voxels_times_the_size_of_one(phantoms):
    case = phantoms.case(spacing=(2.0, 1.5, 5.0))
    voxels = int((case.truth == 2).sum())
    assert voxels > 50
    assert volumes_ml(case)["truth"]["tumour"] == pytest.approx(voxels * 2 * 1.5 * 5 / 1000)
    assert list(volumes_ml(case)) == ["truth", "prediction"]
    assert list(volumes_ml(case)["prediction"]) == ["kidney", "tumour"]


def test_volumes_do_not_depend_on_orientation_or_on_memory(phantoms):
    case = phantoms.case(spacing=(2.0, 1.5, 5.0))
    turn = np.array([[0.0, 0.6, 0.8], [-1, 0, 0], [0, -0.8, 0.6]])
    affine = case.affine.copy()
    affine[:3, :3] = turn @ affine[:3, :3]
    flipped = replace(case, affine=affine, truth=np.asfortranarray(case.truth)[::-1, :, ::-1])
    assert volumes_ml(flipped)["truth"] == pytest.approx(volumes_ml(case)["truth"])


def test_volumes_of_more_voxels_than_are_counted_at_a_time(phantoms):
    shape = (130, 120, 140)  # more than two million
    labels = np.zeros(shape, np.uint8)
    labels[1:] = 1
    case = phantoms.case(shape=shape, spacing=(1, 1, 1), truth=labels, prediction=labels)
    assert volumes_ml(case)["truth"]["kidney"] == pytest.approx(129 * 120 * 140 / 1000)


def test_table_has_a_row_for_each_class_and_for_each_other_name(phantoms):
    dice = {"truth": {"kidney": 0.9, "mean": 0.85}, "FP32": {"kidney": 1.0, "tumour": math.nan}}
    case = phantoms.case(dice=dice)
    figures = table(replace(case, reference=case.prediction))
    assert figures.compared_with == ("truth", "FP32")
    assert figures.volumes_of == ("truth", "prediction", "FP32")
    assert [(row.name, row.label, row.dice) for row in figures.rows] == [
        ("kidney", 1, (0.9, 1.0)),
        ("tumour", 2, (None, None)),
        ("mean", None, (0.85, None)),
    ]
    assert figures.rows[2].millilitres == (None, None, None)


def test_numbers_as_text():
    assert [dice_text(value) for value in (None, 0.95249, 1.0)] == ["–", "0.952", "1.000"]
    volumes = (None, 0.0, 0.01, 7.25, 171.66, 1421.4)
    assert [millilitres_text(value) for value in volumes] == ["–", "0.0", "<0.1", "7.2", "171.7", "1421"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"scan": np.zeros((4, 4), np.int16)}, "a scan is a volume"),
        ({"scan": np.zeros((0, 4, 4), np.int16)}, "a scan is a volume"),
        ({"scan": np.zeros((40, 36, 32), complex)}, "a scan is a volume of numbers, not complex128"),
        ({"affine": np.diag([1.0, 1, 0, 1])}, "no invertible 4x4"),
        ({"affine": np.full((4, 4), np.nan)}, "no invertible 4x4"),
        ({"affine": np.eye(3)}, "no invertible 4x4"),
        ({"window": (5.0, 5.0)}, "from a lower to a higher"),
        ({"window": (0.0, math.inf)}, "from a lower to a higher"),
        ({"prediction": np.zeros((40, 36, 31), np.uint8)}, "prediction is uint8 .40, 36, 31."),
        ({"truth": np.zeros((40, 36, 32), np.int64)}, "truth is int64"),
        ({"reference": np.full((40, 36, 32), 3, np.uint8)}, "FP32 has label 3, but there are 3 classes"),
    ],
)
def test_what_does_not_fit_is_refused(phantoms, change, words):
    with pytest.raises(ValueError, match=words):
        phantoms.case(**change)
