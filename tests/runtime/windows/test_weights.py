"""The two Gaussians that go by one name, written down independently."""

from __future__ import annotations

import numpy as np
import pytest

from trtforge.runtime.windows.weights import WindowWeights


def test_mlperf_is_the_cube_root_of_the_product_of_gaussians() -> None:
    axis = np.exp(-((np.arange(128) - 63.5) ** 2) / (2 * 16**2))
    cube = np.cbrt(axis[:, None, None] * axis[:, None] * axis)
    dense = WindowWeights.of("mlperf", (128, 128, 128)).dense()
    assert dense.dtype == np.float32
    assert np.allclose(dense, cube / cube.max(), rtol=5e-7, atol=0)


def test_mlperf_by_its_figures() -> None:
    weights = WindowWeights.of("mlperf", (128, 128, 128))
    axis = weights.axes[0]
    assert axis[0] == pytest.approx(0.0724, abs=1e-4)  # 7 % at the edge, 0.04 % in the corner
    assert weights.dense()[0, 0, 0] == pytest.approx(3.8e-4, rel=0.01)
    assert axis.max() == 1
    # an effective sigma of sqrt(3) n / 8: from the ratio of two weights 40 voxels apart
    sigma = np.sqrt((63.5**2 - 23.5**2) / (2 * np.log(axis[40] / axis[0])))
    assert sigma == pytest.approx(np.sqrt(3) * 16, rel=1e-5)


def test_monai_is_the_gaussian_itself_and_never_below_a_thousandth() -> None:
    dense = WindowWeights.of("monai", (32, 24, 16)).dense()
    axes = [np.exp(-((np.arange(n) - (n - 1) / 2) ** 2) / (2 * (n / 8) ** 2)) for n in (32, 24, 16)]
    product = axes[0][:, None, None] * axes[1][:, None] * axes[2]
    assert np.allclose(dense, np.maximum(product, 1e-3), rtol=1e-6, atol=0)
    assert dense.min() == np.float32(1e-3)


def test_constant_counts_every_voxel_alike() -> None:
    assert (WindowWeights.of("constant", (3, 4, 5)).dense() == 1).all()


def test_axes_may_differ() -> None:
    weights = WindowWeights.of("mlperf", (3, 4, 5))
    assert [len(axis) for axis in weights.axes] == [3, 4, 5]
    assert weights.dense().shape == (3, 4, 5)
