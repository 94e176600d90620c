"""Phantoms: ellipsoids of known place and size, on any grid."""

from __future__ import annotations

import numpy as np
import pytest

from trtforge.report.case import SegmentedCase

CLASSES = ("background", "kidney", "tumour")
WINDOW = (0.0, 100.0)


class Phantoms:
    """Volumes on a grid with the axes of RAS, whose middle is at 0 mm."""

    @staticmethod
    def affine(shape, spacing):
        affine = np.diag([*spacing, 1.0])
        affine[:3, 3] = [-(count - 1) / 2 * step for count, step in zip(shape, spacing, strict=True)]
        return affine

    def ball(self, shape, spacing, centre, radii):
        """Mask of an ellipsoid; all in mm."""
        axes = [(np.arange(count) - (count - 1) / 2) * step for count, step in zip(shape, spacing, strict=True)]
        x, y, z = np.meshgrid(*axes, indexing="ij", sparse=True)
        parts = zip((x, y, z), centre, radii, strict=True)
        return sum(((axis - middle) / radius) ** 2 for axis, middle, radius in parts) <= 1

    def case(self, shape=(40, 36, 32), spacing=(2.0, 2.0, 2.0), **changes):
        """A kidney with a tumour to the patient's left, which the prediction shifts a little to the right."""
        truth = np.zeros(shape, np.uint8)
        truth[self.ball(shape, spacing, (0, 0, 0), (24, 18, 20))] = 1
        truth[self.ball(shape, spacing, (-18, 0, 4), (10, 8, 8))] = 2
        scan = (self.ball(shape, spacing, (0, 0, 0), (34, 30, 60)) * 60).astype(np.int16)
        scan[truth == 2] = 90
        fields = {
            "name": "phantom",
            "scan": scan,
            "affine": self.affine(shape, spacing),
            "prediction": np.roll(truth, 1, axis=0),
            "truth": truth,
            "reference": None,
            "classes": CLASSES,
            "window": WINDOW,
            "facts": {"engine": "net/1", "precision": "int8"},
            "dice": {"truth": {"kidney": 0.9, "tumour": 0.8}},
        }
        return SegmentedCase(**fields | changes)


@pytest.fixture(scope="session")
def phantoms():
    return Phantoms()
