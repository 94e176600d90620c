"""How much each voxel of a window counts where windows overlap.

A window's weight at (z, y, x) is max(wz[z] * wy[y] * wx[x], floor), computed in float32 in this order, which every
implementation of the loop keeps to. Two Gaussians go by the same name elsewhere and are not alike:

- ``mlperf``: the product of three Gaussians of sigma n/8, and of that the cube root: an effective sigma of
  sqrt(3) n/8 (27.7 for 128). Edges count 7 % of the middle, corners 0.04 %. MLPerf Inference 3D-UNet.
- ``monai``: sigma n/8 as it is, no weight below 0.001. MONAI's `sliding_window_inference(mode="gaussian")`.
- ``constant``: every voxel counts alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trtforge.volumes.windows import Shape

Mode = Literal["mlperf", "monai", "constant"]
MONAI_FLOOR = 1e-3
SIGMA = 0.125
"""Of the window's length: what MLPerf and MONAI both take."""

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True)
class WindowWeights:
    """``axes``: a float32 vector of the window's length for D, H and W; ``floor``: the smallest weight."""

    axes: tuple[Vector, Vector, Vector]
    floor: float

    @classmethod
    def of(cls, mode: Mode, window: Shape) -> WindowWeights:
        z, y, x = (_axis(mode, length) for length in window)
        floor = 0.0
        if mode == "monai":
            floor = max(float(z[0]) * float(y[0]) * float(x[0]), MONAI_FLOOR)
        return cls((z, y, x), floor)

    def dense(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """The weights of a whole window, float32 [D, H, W]."""
        z, y, x = self.axes
        dense: np.ndarray[Any, np.dtype[np.float32]] = np.maximum(
            (z[:, None, None] * y[None, :, None]) * x[None, None, :], np.float32(self.floor)
        )
        return dense


def _axis(mode: Mode, length: int) -> Vector:
    if mode == "constant":
        return np.ones(length, np.float32)
    position = np.arange(length) - (length - 1) / 2
    gaussian = np.exp(-0.5 * (position / (SIGMA * length)) ** 2)
    if mode == "mlperf":
        gaussian = np.cbrt(gaussian)
        gaussian /= gaussian.max()
    rounded: Vector = gaussian.astype(np.float32)
    return rounded
