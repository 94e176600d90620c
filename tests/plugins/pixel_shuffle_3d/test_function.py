"""The meaning, in onnxruntime, against indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.plugins.functions import evaluated, inferred_shape
from trtforge.plugins.pixel_shuffle_3d.function import (
    pixel_shuffle_3d,
    pixel_shuffle_3d_concat,
    pixel_shuffle_3d_concat_int8,
    pixel_shuffle_3d_int8,
)

Array = np.ndarray[Any, Any]
SHAPE = (2, 24, 2, 3, 5)
SCALES = {"input_scale": 0.3, "output_scale": 0.2}


def by_index(x: Array) -> Array:
    n, wide, depth, height, width = x.shape
    y = np.empty((n, wide // 8, 2 * depth, 2 * height, 2 * width), x.dtype)
    for tap in range(8):
        t, r, s = tap // 4, tap // 2 % 2, tap % 2
        y[:, :, t::2, r::2, s::2] = x[:, tap::8]
    return y


@pytest.fixture
def x() -> Array:
    return np.random.default_rng(0).integers(-128, 128, SHAPE).astype(np.int8)


@pytest.fixture
def skip() -> Array:
    return np.random.default_rng(1).integers(-128, 128, (2, 5, 4, 6, 10)).astype(np.int8)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_voxels_of_a_cube_are_t_r_s(x: Array, skip: Array, dtype: str, dynamic: bool) -> None:
    x, skip = x.astype(dtype), skip.astype(dtype)
    got = evaluated(pixel_shuffle_3d(), x, dynamic=dynamic)
    assert (got == by_index(x)).all()
    got = evaluated(pixel_shuffle_3d_concat(), x, skip, dynamic=dynamic)
    assert (got == np.concatenate([by_index(x), skip], 1)).all()
    assert got.dtype == dtype


def test_it_is_a_transposed_convolution_of_one_hot_weights() -> None:
    """What MLPerf's graph has in its place: kernel and stride 2, channel 8k + tap of x alone at voxel tap of k."""
    from onnx import TensorProto, helper, numpy_helper
    from onnx.reference import ReferenceEvaluator

    x = np.random.default_rng(2).normal(size=(1, 16, 2, 3, 2)).astype(np.float32)
    weight = np.zeros((16, 2, 2, 2, 2), np.float32)
    for channel in range(16):
        weight[channel, channel // 8, channel // 4 % 2, channel // 2 % 2, channel % 2] = 1
    node = helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[2, 2, 2])
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    (want,) = ReferenceEvaluator(helper.make_model(graph)).run(None, {"x": x})
    assert np.array_equal(evaluated(pixel_shuffle_3d(), x), want)


@pytest.mark.parametrize("dynamic", [False, True])
def test_int8_in_steps_of_the_output(x: Array, skip: Array, dynamic: bool) -> None:
    def rescaled(values: Array, scale: float) -> Array:
        ratio = np.float32(scale) / np.float32(0.2)
        return np.clip(np.rint(values.astype(np.float32) * ratio), -128, 127).astype(np.int8)

    got = evaluated(pixel_shuffle_3d_int8(), x, dynamic=dynamic, **SCALES)
    assert got.dtype == np.int8
    assert (got == by_index(rescaled(x, 0.3))).all()
    assert (got == 127).any()
    got = evaluated(pixel_shuffle_3d_concat_int8(), x, skip, dynamic=dynamic, skip_scale=0.05, **SCALES)
    assert (got == np.concatenate([by_index(rescaled(x, 0.3)), rescaled(skip, 0.05)], 1)).all()


def test_int8_of_equal_scales_changes_nothing(x: Array) -> None:
    assert (evaluated(pixel_shuffle_3d_int8(), x, input_scale=0.7, output_scale=0.7) == by_index(x)).all()


def test_shapes_are_inferred(x: Array, skip: Array) -> None:
    assert inferred_shape(pixel_shuffle_3d(), x) == [2, 3, 4, 6, 10]
    assert inferred_shape(pixel_shuffle_3d_concat(), x, skip) == [2, 8, 4, 6, 10]
    assert inferred_shape(pixel_shuffle_3d_int8(), x, **SCALES) == [2, 3, 4, 6, 10]
    assert inferred_shape(pixel_shuffle_3d_concat_int8(), x, skip, skip_scale=1.0, **SCALES) == [2, 8, 4, 6, 10]
    assert inferred_shape(pixel_shuffle_3d(), x, dynamic=True)[2:] == [4, 6, 10]
