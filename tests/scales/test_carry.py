"""Scales over operators that keep values, the layers that are INT8 for it, and the tensors that stay without one."""

from __future__ import annotations

import json
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import helper, inliner, numpy_helper
from onnx.parser import parse_function, parse_model

from trtforge.errors.calibration import QdqNotPlain
from trtforge.graph.model import Model
from trtforge.ort import import_onnxruntime, open_session, session_options
from trtforge.scales.carry import Carried, carry
from trtforge.scales.codecs.extraction import Extraction
from trtforge.scales.codecs.lost_weights import lost_weights
from trtforge.scales.codecs.qdq_extract import take_apart
from trtforge.scales.precisions import name_nodes, precisions
from trtforge.scales.unscaled import without_scale
from trtforge.targets.load import get

HEAD = '<ir_version: 8, opset_import: ["" : 17]> g (float[1,2,4,4] x{more}) => (float[N,C,H,W] out) '


def quantized(nodes: str, *, more: str = "", zero: object = np.int8(0), **constants: np.ndarray | np.generic) -> Model:
    """A line ``Q t`` is the pair that reads ``t`` and makes ``d_t``; its scale is ``s_t``, 0.5 unless given."""
    body, tensors = [], []
    for line in nodes.strip().splitlines():
        if line.strip().startswith("Q "):
            tensor = line.split()[1]
            scale = constants.pop(f"s_{tensor}", np.float32(0.5))
            tensors += [numpy_helper.from_array(np.asarray(scale, np.float32), f"s_{tensor}")]
            body += [
                f"q_{tensor} = QuantizeLinear({tensor}, s_{tensor}, z)",
                f"d_{tensor} = DequantizeLinear(q_{tensor}, s_{tensor}, z)",
            ]
        else:
            body.append(line)
    proto = parse_model(HEAD.replace("{more}", more) + "{" + "\n".join(body) + "}")
    tensors.append(numpy_helper.from_array(np.asarray(zero), "z"))
    random = np.random.default_rng(3)
    if "w1" not in constants:
        constants["w1"] = random.normal(size=(2, 2, 1, 1)).astype(np.float32)
    tensors += [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    proto.graph.initializer.extend(tensors)
    return Model(proto)


def taken(nodes: str, **options: object) -> tuple[Extraction, Carried]:
    found = take_apart(quantized(nodes, **options))  # type: ignore[arg-type]
    return found, carry(found)


def test_scales_go_forward_from_a_quantized_read_and_back_to_a_lone_source() -> None:
    found, carried = taken("""
        Q x
        c = Conv(d_x, w1)
        r = Relu(c)
        Q r
        m = MaxPool<kernel_shape = [2, 2]>(d_r)
        t = Transpose<perm = [0, 1, 3, 2]>(m)
        out = Abs(t)
    """)
    assert set(found.table.ranges) == {"x", "r"}
    assert set(carried.via) == {"c", "m", "t"}
    assert carried.via["c"].startswith("r, back through Relu")
    assert carried.on_grid == {"m", "t"}
    assert {seen.scale for seen in carried.table.ranges.values()} == {np.float32(0.5)}


def test_a_scale_goes_back_over_a_clip_and_not_forward() -> None:
    _, carried = taken("""
        Q x
        c = Conv(d_x, w1)
        r = Clip(c, low, high)
        Q r
        f = Clip(d_r, low, high)
        out = Conv(f, w1)
    """, low=np.float32(0), high=np.float32(6))  # fmt: skip
    assert set(carried.via) == {"c"}  # 6 need not be a quantized value


def test_no_scale_goes_back_where_something_else_reads_in_float() -> None:
    _, carried = taken("""
        Q x
        c = Conv(d_x, w1)
        r = Relu(c)
        Q r
        a = Conv(d_r, w1)
        b = Abs(r)
        out = Add(a, b)
    """)
    assert carried.via == {}
    _, carried = taken("""
        Q x
        c = Conv(d_x, w1)
        r = Relu(c)
        Q r
        a = Conv(d_r, w1)
        b = Abs(c)
        out = Add(a, b)
    """)
    assert carried.via == {}


def test_no_scale_goes_forward_from_a_read_in_float() -> None:
    _, carried = taken("""
        Q x
        c = Conv(d_x, w1)
        r = Transpose<perm = [0, 1, 3, 2]>(x)
        out = Add(c, r)
    """)
    assert carried.via == {}


def test_a_joined_tensor_gets_the_widest_scale_of_its_parts() -> None:
    _, carried = taken(
        """
        Q x
        a = Abs(x)
        Q a
        j = Concat<axis = 1>(d_x, d_a)
        t = Flatten(j)
        out = Neg(t)
        """,
        s_a=np.float32(2),
    )
    assert carried.table.ranges["j"].scale == np.float32(2)
    assert "the widest that is joined" in carried.via["j"]
    assert carried.on_grid == set()
    assert "t" not in carried.via


def test_precisions_follow_the_pairs(tmp_path: Path) -> None:
    found, carried = taken(
        """
        Q x
        [c1] c = Conv(d_x, w1)
        [rest] e = LeakyRelu(c)
        [float_conv] f = Conv(e, w1)
        [shape] n = Shape(f)
        [soft] g = Softmax(d_x)
        [sum] out = Add(f, g)
    """,
        w1=np.ones((2, 2, 1, 1), np.float32),
    )
    assert name_nodes(found.model) == 0
    layers = precisions(found, carried)
    assert {name: layer.precision for name, layer in layers.layers.items()} == {
        "c1": "float",
        "rest": "float",
        "float_conv": "float",
        "soft": "float",
        "sum": "float",
    }
    assert "'w1' is not quantized" in layers.layers["c1"].why
    assert "Softmax" in layers.layers["soft"].why


WEIGHTED = """
    Q x
    dw = DequantizeLinear<axis = 0>(w, sw, zw)
    [c1] c = Conv(d_x, dw)
    [act] e = LeakyRelu(c)
    f = Conv(e, w1)
    out = Abs(f)
"""


def int8_weight(**more: np.ndarray) -> dict[str, np.ndarray]:
    stored = np.array([[127, 3], [-127, 5]], np.int8).reshape(2, 2, 1, 1)
    return {"w": stored, "sw": np.array([0.01, 0.02], np.float32), "zw": np.zeros(2, np.int8), **more}


def test_the_file_of_precisions_has_trtexecs_option(tmp_path: Path) -> None:
    found, carried = taken(WEIGHTED, **int8_weight())
    found.model.proto.graph.node[0].name = "c,1"
    assert name_nodes(found.model) == 2
    layers = precisions(found, carried)
    assert layers.of("int8") == ["c,1"] and layers.of("fused") == ["act"] and layers.of("float") == ["f", "out"]
    assert layers.constraints("fp32") == {"c,1": "int8", "f": "fp32", "out": "fp32"}
    layers.save(tmp_path / "p.json")
    stored = json.loads((tmp_path / "p.json").read_text())
    assert stored["trtexec"] == ["--precisionConstraints=prefer", "--layerPrecisions=f:fp16,out:fp16"]
    assert stored["not_in_trtexec"] == ["c,1"]  # a comma separates layers there
    assert stored["layers"]["act"] == {
        "op": "LeakyRelu",
        "precision": "fused",
        "why": "it continues c,1, which is INT8",
    }


def test_weight_scales_of_the_largest_weight_are_not_lost() -> None:
    assert lost_weights(taken(WEIGHTED, **int8_weight())[0]) == ()


def test_weight_scales_that_were_clipped_are_lost_and_named() -> None:
    stored = np.array([[100, 3], [-127, 5]], np.int8).reshape(2, 2, 1, 1)
    (lost,) = lost_weights(taken(WEIGHTED, **int8_weight(w=stored))[0])
    assert (lost.kind, lost.channels, lost.of, lost.node) == ("other scales", 1, 2, "c1")
    assert lost.ratio == pytest.approx(1.27)


def test_weight_zero_points_are_told() -> None:
    (lost,) = lost_weights(taken(WEIGHTED, **int8_weight(zw=np.array([1, 0], np.int8)))[0])
    assert lost.kind == "asymmetric"


@pytest.mark.parametrize("type_", ["int4", "uint4", "int16"])
def test_weights_of_other_types_are_told(type_: str) -> None:
    """INT8 rounds sixteen bits, and has other steps than four."""
    dtype = np.dtype(getattr(ml_dtypes, type_, type_))
    stored = np.array([[7, 3], [5, 1]]).astype(dtype).reshape(2, 2, 1, 1)
    model, _ = taken(WEIGHTED, **int8_weight(w=stored, zw=np.zeros(2, dtype)))
    (lost,) = lost_weights(model)
    assert (lost.kind, lost.channels, lost.of) == ("other type", 2, 2)


def test_a_channel_of_zeros_has_no_scale_to_lose() -> None:
    stored = np.array([[127, 3], [0, 0]], np.int8).reshape(2, 2, 1, 1)
    assert lost_weights(taken(WEIGHTED, **int8_weight(w=stored))[0]) == ()


def test_tensors_without_a_scale_are_told_with_what_follows() -> None:
    found, carried = taken("""
        Q x
        [c1] c = Conv(d_x, w1)
        [er] e = Erf(c)
        [c2] f = Conv(e, w1)
        [sum] out = Add(f, d_x)
    """)
    bare = without_scale(found.model, carried.table.ranges)
    assert [entry.tensor for entry in bare] == ["c", "e", "f", "out"]
    assert bare[0].made_by == "Conv c1" and bare[0].read_by == ("Erf er",)
    assert bare[0].consequence == "c1, er in FP16 or FP32"
    on_dla = without_scale(found.model, carried.table.ranges, get("orin-agx-64gb/dla"))
    assert on_dla[0].consequence == "c1 in FP16 on the DLA; er on the GPU"


@pytest.mark.parametrize(
    ("product", "runs"),
    [
        ("MatMul(e, v)", "m in FP16 on the DLA"),
        ("MatMul(v, e)", "m on the GPU"),  # the DLA's layer has its weights on the right
        ("MatMul(e, e)", "m on the GPU"),
    ],
)
def test_a_product_runs_on_the_dla_with_its_weights_on_the_right(product: str, runs: str) -> None:
    found, carried = taken(
        f"Q x\nc = Conv(d_x, w1)\n[er] e = Erf(c)\n[m] out = {product}", v=np.ones((4, 4), np.float32)
    )
    bare = {entry.tensor: entry for entry in without_scale(found.model, carried.table.ranges, get("orin-agx-64gb/dla"))}
    assert runs in bare["out"].consequence


def test_pairs_in_a_subgraph_are_refused() -> None:
    model = quantized(
        """
        Q x
        c = Conv(d_x, w1)
        out = If (flag) <then_branch = t () => (float[1,2,4,4] y) { q = QuantizeLinear(c, s_x, z)
                                                                   y = DequantizeLinear(q, s_x, z) },
                         else_branch = e () => (float[1,2,4,4] v) { v = Abs(c) }>
        """,
        more=", bool flag",
    )
    with pytest.raises(QdqNotPlain) as caught:
        take_apart(model)
    assert "subgraph of If" in caught.value.why


RELU = """
    Q x
    c = Conv(d_x, w1)
    Q c
    m = MaxPool<kernel_shape = [2, 2]>(d_c)
    Q m
    out = Abs(d_m)
"""


def outputs(model: Model, x: np.ndarray) -> np.ndarray:
    options = session_options(threads=1)
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_DISABLE_ALL
    return open_session(model.proto, model.folder, options).run(None, {"x": x})[0]  # type: ignore[no-any-return]


def test_a_zero_point_that_clips_is_a_relu_again() -> None:
    """On inputs of the grid, one layer: the plain graph and the quantized one differ by the rounding of c alone."""
    model = quantized(RELU, zero=np.uint8(0), s_x=np.float32(0.01), s_c=np.float32(0.01), s_m=np.float32(0.01))
    found = take_apart(model)
    assert [node.op_type for node in found.model.proto.graph.node] == ["Conv", "Relu", "MaxPool", "Abs"]
    assert found.relus == ("c",)  # the pooled tensor is not negative then, the input is the caller's
    x = np.random.default_rng(0).integers(0, 100, (1, 2, 4, 4)).astype(np.float32) / 100
    assert (outputs(model, x) == 0).any()
    np.testing.assert_allclose(outputs(found.model, x), outputs(model, x), atol=0.011)


def test_only_quantized_reads_are_clipped() -> None:
    model = quantized(
        """
        Q x
        c = Conv(d_x, w1)
        Q c
        a = Conv(d_c, w1)
        b = Abs(c)
        out = Add(a, b)
        """,
        zero=np.uint8(0),
        s_x=np.float32(0.01),
        s_c=np.float32(0.01),
    )
    found = take_apart(model)
    reads = {node.op_type: list(node.input) for node in found.model.proto.graph.node}
    assert reads["Relu"] == ["c"] and reads["Abs"] == ["c"]
    assert found.relus == ("c_Relu",) and "c_Relu" in found.table.ranges and "c" not in found.table.ranges
    x = np.random.default_rng(0).integers(0, 100, (1, 2, 4, 4)).astype(np.float32) / 100
    np.testing.assert_allclose(outputs(found.model, x), outputs(model, x), atol=0.03)


def with_function(call: str) -> Model:
    model = quantized(f"Q x\nc = Conv(d_x, w1)\n{call}")
    body = (
        '<opset_import: ["" : 17], domain: "own"> pair (t, s, z) => (y)'
        "{ q = QuantizeLinear(t, s, z)\n y = DequantizeLinear(q, s, z) }"
    )
    model.proto.functions.append(parse_function(body))
    model.proto.opset_import.append(helper.make_opsetid("own", 1))
    return model


def test_pairs_in_a_function_are_refused() -> None:
    """Their scales would be missing without a word, and the "plain" model would still be quantized."""
    with pytest.raises(QdqNotPlain) as caught:
        take_apart(with_function("out = own.pair(c, s_x, z)"))
    assert "in the function pair" in caught.value.why and "inline_local_functions" in caught.value.next
    inlined = inliner.inline_local_functions(with_function("out = own.pair(c, s_x, z)").proto)
    assert set(take_apart(Model(inlined)).table.ranges) == {"x", "out"}


PAIRED = """
    Q x
    q_w = QuantizeLinear<axis = AXIS>(w, sw, zw)
    dw = DequantizeLinear<axis = BACK>(q_w, sw, zw)
    out = MatMul(d_x, dw)
"""


def paired(axis: int, back: int) -> Model:
    weight = np.diag([1.27, 2.54, 3.81, 5.08]).astype(np.float32)
    weights = {"w": weight, "sw": np.array([0.01, 0.02, 0.03, 0.04], np.float32), "zw": np.zeros(4, np.int8)}
    return quantized(PAIRED.replace("AXIS", str(axis)).replace("BACK", str(back)), **weights)


@pytest.mark.parametrize(("axis", "back"), [(1, 1), (-1, -1), (1, -1), (-1, 1)])
def test_an_axis_counted_from_the_end_is_the_same_axis(axis: int, back: int) -> None:
    assert lost_weights(take_apart(paired(axis, back))) == ()


def test_a_pair_along_two_axes_is_refused() -> None:
    with pytest.raises(QdqNotPlain) as caught:
        take_apart(paired(0, 1))
    assert "axis is not that of the QuantizeLinear" in caught.value.why
