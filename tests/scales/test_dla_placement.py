"""Q/DQ for a DLA: a pair on every tensor that its INT8 layers read or write, and none inside what they fuse."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from trtforge.graph.model import Model
from trtforge.ort import open_session, session_options
from trtforge.recipe.models import Quantize
from trtforge.scales.codecs.qdq import extract, insert
from trtforge.scales.table import ScaleTable, TensorRange

NET = """
<ir_version: 9, opset_import: ["": 17]>
net (float[1,3,8,8] x) => (float[1,4,4,4] y, float[1,4,4,4] s)
<float zero = {0}, float six = {6}>
{
    c0 = Conv<pads = [1, 1, 1, 1]> (x, w0)
    r0 = Relu (c0)
    c1 = Conv (r0, w1)
    c2 = Conv (r0, w1)
    t = Clip (c2, zero, six)
    sum = Add (c1, t)
    r1 = Relu (sum)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]> (r1)
    y = Conv (p, w1)
    d = Sigmoid (y)
    s = Softmax (d)
}
"""
EVERY = ("c0", "r0", "c1", "c2", "t", "sum", "r1", "p", "y", "d", "s", "x")


def net() -> Model:
    proto = onnx.parser.parse_model(NET)
    rng = np.random.default_rng(3)
    for name, shape in (("w0", (4, 3, 3, 3)), ("w1", (4, 4, 1, 1))):
        weight = onnx.numpy_helper.from_array(rng.normal(0, 0.4, shape).astype(np.float32), name)
        proto.graph.initializer.append(weight)
    return Model(proto)


def seen(model: Model, x: np.ndarray) -> dict[str, np.ndarray]:
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    names = [name for name in EVERY if name != "x"]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    return {
        "x": x,
        **dict(zip(names, open_session(proto, None, session_options(threads=1)).run(None, {"x": x}), strict=True)),
    }


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(4).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def table(x: np.ndarray) -> ScaleTable:
    values = seen(net(), x)
    return ScaleTable({name: TensorRange(float(v.min()), float(v.max()), 1) for name, v in values.items()})


def test_where_pairs_go(table: ScaleTable) -> None:
    for_gpu, for_dla = (insert(net(), table, for_dla=each)[1].tensors for each in (False, True))
    assert set(for_gpu) == {"x", "r0", "p", "t"}
    inside = {"c0", "c2", "sum"}  # a convolution or sum and the activation behind it are one layer
    of_the_gpu = {"d", "s"}  # no layer of a DLA computes these in INT8
    assert set(for_dla) == set(EVERY) - inside - of_the_gpu


def test_a_tensor_without_a_range_gets_none(table: ScaleTable) -> None:
    ranges = {name: seen for name, seen in table.ranges.items() if name not in ("c1", "r1")}
    assert {"c1", "r1"}.isdisjoint(insert(net(), ScaleTable(ranges), for_dla=True)[1].tensors)


def test_outputs_leave_through_a_pair_under_their_names(table: ScaleTable, x: np.ndarray) -> None:
    quantized, _ = insert(net(), table, for_dla=True)
    onnx.checker.check_model(quantized.proto, full_check=True)
    y, s = open_session(quantized.proto, None, session_options(threads=1)).run(None, {"x": x})
    scale = np.float32(table.ranges["y"].scale)
    np.testing.assert_array_equal(np.rint(y / scale) * scale, y)
    want = seen(net(), x)
    assert np.abs(y - want["y"]).max() < 4 * scale
    assert np.abs(s - want["s"]).max() < 0.05


def test_what_is_skipped_stays_float(table: ScaleTable) -> None:
    policy = Quantize(skip=("y", "p"))
    assert set(insert(net(), table, policy, for_dla=True)[1].tensors) == {"x", "r0", "c1", "t", "r1"}


def test_every_scale_comes_back(table: ScaleTable) -> None:
    quantized, report = insert(net(), table, for_dla=True, weights="float")
    plain, found = extract(quantized)
    assert {name: each.scale for name, each in found.ranges.items()} == {
        name: table.ranges[name].scale for name in report.tensors
    }
    assert [node.op_type for node in plain.proto.graph.node] == [node.op_type for node in net().proto.graph.node]
    assert [value.name for value in plain.proto.graph.output] == ["y", "s"]
