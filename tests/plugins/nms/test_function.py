"""The meaning, in onnxruntime, against loops."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.plugins.nms import graphs
from trtforge.graph.model import Model
from trtforge.plugins.nms.function import OUTPUTS, Variant, nms
from trtforge.surgery.op import call

Array = np.ndarray[Any, Any]

VARIANTS = [Variant(*bits) for bits in itertools.product([False, True], repeat=5)]
LIMITS = {"score_threshold": 0.3, "iou_threshold": 0.3, "max_output_boxes": 6, "background_class": -1}


def model_of(variant: Variant, arrays: dict[str, Array], dynamic: bool = False, **fields: Any) -> Model:
    """A graph of one call; with ``dynamic`` every size is open."""
    inputs = [
        helper.make_tensor_value_info(
            name, TensorProto.FLOAT, [f"{name}_{axis}" for axis in range(value.ndim)] if dynamic else value.shape
        )
        for name, value in arrays.items()
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.INT32 if place in (0, 3) else TensorProto.FLOAT, [None] * rank)
        for place, (name, rank) in enumerate(zip(OUTPUTS, (2, 3, 2, 2), strict=True))
    ]
    graph = helper.make_graph([call(variant.name, list(arrays), OUTPUTS, "nms", **fields)], "g", inputs, outputs)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("trtforge", 1)]
    proto = helper.make_model(graph, functions=[nms(variant)], opset_imports=opsets, ir_version=10)
    onnx.checker.check_model(proto, full_check=True)
    return Model(proto)


def arrays_of(variant: Variant, seed: int, images: int = 2, boxes: int = 11, classes: int = 3) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    shape = (images, boxes, classes, 4) if variant.per_class else (images, boxes, 4)
    made = {"boxes": rng.uniform(0, 1, shape), "scores": rng.uniform(0, 1, (images, boxes, classes))}
    if variant.sigmoid:
        made["scores"] = rng.normal(0, 2, made["scores"].shape)
    if variant.anchors:
        made["anchors"] = rng.uniform(0.1, 0.6, (images if seed % 2 else 1, boxes, 4))
    return {name: value.astype(np.float32) for name, value in made.items()}


def assert_by_loops(variant: Variant, arrays: dict[str, Array], dynamic: bool = False, **fields: Any) -> list[Array]:
    got = list(graphs.tools.run(model_of(variant, arrays, dynamic, **fields), arrays).values())
    want = graphs.by_loops(variant, *arrays.values(), **fields)
    for name, made, expected in zip(OUTPUTS, got, want, strict=True):
        assert (made.dtype, made.shape) == (expected.dtype, expected.shape)
        np.testing.assert_allclose(made, expected, rtol=0, atol=1e-5, err_msg=name)
    return got


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)
def test_every_variant(variant: Variant) -> None:
    for seed, dynamic in ((0, False), (1, True)):
        assert_by_loops(variant, arrays_of(variant, seed), dynamic, **LIMITS)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(VARIANTS),
    st.integers(0, 10**6),
    st.sampled_from([0.0, 0.007, 0.5, 0.9]),
    st.sampled_from([0.01, 0.45, 1.0]),
    st.integers(1, 40),
    st.integers(-1, 3),
)
def test_any_numbers(variant: Variant, seed: int, least: float, shared: float, keep: int, background: int) -> None:
    arrays = arrays_of(variant, seed, images=1 + seed % 3, boxes=1 + seed % 9, classes=1 + seed % 4)
    fields = {"score_threshold": least, "iou_threshold": shared, "max_output_boxes": keep}
    assert_by_loops(variant, arrays, **fields, background_class=background)


def test_thresholds_are_included() -> None:
    """A score that is the threshold counts, an overlap that is the threshold drops; the next numbers do not."""
    boxes = np.array([[[0, 0, 1, 1], [0, 0, 1, 0.5]]], np.float32)  # they overlap by a half exactly
    scores = np.array([[[0.75], [0.25]]], np.float32)
    fields = {"max_output_boxes": 2, "background_class": -1}

    def count(score: float, shared: float) -> int:
        arrays = {"boxes": boxes, "scores": scores}
        made = assert_by_loops(Variant(), arrays, score_threshold=score, iou_threshold=shared, **fields)
        return int(made[0][0, 0])

    above = float(np.nextafter(np.float32(0.25), np.float32(1)))
    over = float(np.nextafter(np.float32(0.5), np.float32(1)))
    assert (count(0.25, over), count(above, over), count(0.25, 0.5)) == (2, 1, 1)
    assert count(0.3, over) == 1


def test_a_score_of_zero_counts_without_a_threshold() -> None:
    arrays = {"boxes": np.array([[[0, 0, 1, 1]]], np.float32), "scores": np.zeros((1, 1, 1), np.float32)}
    fields = {"score_threshold": 0.0, "iou_threshold": 0.5, "max_output_boxes": 3, "background_class": -1}
    assert assert_by_loops(Variant(), arrays, **fields)[0].tolist() == [[1]]


def test_equal_scores_go_by_class_and_index() -> None:
    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], np.float32)
    arrays = {"boxes": boxes, "scores": np.full((1, 2, 2), 0.5, np.float32)}
    made = assert_by_loops(Variant(), arrays, **LIMITS)
    assert made[3][0, :4].tolist() == [0, 0, 1, 1]
    assert made[1][0, :4, 0].tolist() == [0, 2, 0, 2]


def test_the_number_before_a_threshold() -> None:
    """The function's arithmetic for every threshold a person writes."""
    from trtforge.plugins.nms.function import LEAST, STEP

    for value in np.linspace(0, 1, 1001, dtype=np.float32)[1:]:
        down = np.float32(value - np.float32(np.float32(value * np.float32(STEP)) + np.float32(LEAST)))
        assert down == np.nextafter(value, np.float32(0))


def test_the_least_threshold_is_for_scores_above_zero() -> None:
    from trtforge.plugins.nms.function import LEAST

    boxes = np.array([[[0, 0, 1, 1], [2, 2, 3, 3]]], np.float32)
    scores = np.array([[[0], [LEAST]]], np.float32)
    fields = {"score_threshold": LEAST, "iou_threshold": 0.5, "max_output_boxes": 2, "background_class": -1}
    made = assert_by_loops(Variant(), {"boxes": boxes, "scores": scores}, **fields)
    assert made[0].tolist() == [[1]] and made[1][0, 0].tolist() == [2, 2, 3, 3]
