"""NVIDIA's plugin: its node against the table of its fields, and the graph around it with a NumPy plugin in its place.

The plugin itself has not been run: there is no TensorRT here.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import onnx.parser
import onnx.utils
import pytest
from onnx import AttributeProto, NodeProto, helper

from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.plugins.qkv_to_context.kernels import bucket, missing, supported
from trtforge.plugins.qkv_to_context.stock import DOMAIN, PLUGIN, StockQkvToContext
from trtforge.surgery.op import Creator, Situation
from trtforge.surgery.rules import attribute

Array = np.ndarray[Any, Any]
STOCK = StockQkvToContext()
ALL = frozenset(Creator(PLUGIN, str(version)) for version in range(1, 7))
A100 = Situation("tensorrt", "fp16", "8.0", tensorrt="10.16.1", creators=ALL, probed=True)
A100_INT8 = replace(A100, precision="int8", tensorrt="11.1")

INT, FLOAT = AttributeProto.INT, AttributeProto.FLOAT
FIELDS = {
    1: {"type_id": INT, "hidden_size": INT, "num_heads": INT, "has_mask": INT},
    2: {"type_id": INT, "hidden_size": INT, "num_heads": INT, "has_mask": INT, "var_seqlen": INT},
    3: {
        **{"hidden_size": INT, "num_heads": INT, "dq_probs": FLOAT, "use_int8_scale_max": INT},
        **{"use_explicit_int8": INT, "input_qkv_scale": FLOAT, "output_ctx_scale": FLOAT},
    },
}
"""As the plugin's creators list them (PluginFieldType kINT32, kFLOAT32), without those left at their default."""

TOKENS = {
    "sub": "f = Cast<to = 1>(m4)\n    i = Sub(one, f)\n    mask = Mul(i, large)",
    "where": "b = Cast<to = 9>(m4)\n    mask = Where(b, zero, large)",
    "not": "b = Cast<to = 9>(m4)\n    n = Not(b)\n    mask = Where(n, large, zero)",
    "equal": "n = Equal(m4, none)\n    mask = Where(n, large, zero)",
}


def padded(made: str = TOKENS["sub"], length: int = 12, unsqueezed: str = "axes = {1, 2}") -> Model:
    """x [2, length, 32] and tokens [2, length]: 4 heads of 8."""
    text = f"""
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[2,{length},32] x, int64[2,{length}] tokens) => (float[2,{length},32] y)
    <int64[2] {unsqueezed}, int64[4] split = {{0, 0, 4, 8}}, int64[3] join = {{0, 0, 32}}, float one = {{1.0}},
     float zero = {{0.0}}, float large = {{-10000.0}}, int64 none = {{0}}, float root = {{2.82842712}}>
    {{
        m4 = Unsqueeze(tokens, axes)
        {made}
        q0 = MatMul(x, wq)
        q1 = Add(q0, bq)
        q2 = Reshape(q1, split)
        q = Transpose<perm = [0, 2, 1, 3]>(q2)
        k0 = MatMul(x, wk)
        k1 = Add(k0, bk)
        k2 = Reshape(k1, split)
        k = Transpose<perm = [0, 2, 3, 1]>(k2)
        v0 = MatMul(x, wv)
        v1 = Add(v0, bv)
        v2 = Reshape(v1, split)
        v = Transpose<perm = [0, 2, 1, 3]>(v2)
        scores = MatMul(q, k)
        scaled = Div(scores, root)
        masked = Add(scaled, mask)
        p = Softmax<axis = -1>(masked)
        c0 = MatMul(p, v)
        c1 = Transpose<perm = [0, 2, 1, 3]>(c0)
        c = Reshape(c1, join)
        y = Add(c, x)
    }}
    """
    return with_weights(text, 32)


def packed(head_size: int = 64, longest: int | str = 100, *, named: str = "cu_seqlens") -> Model:
    """Rows of all sequences one after the other, 2 heads: kept apart by a mask made of where each sequence ends."""
    width = 2 * head_size
    text = f"""
    <ir_version: 9, opset_import: ["" : 17]>
    net (float[20,{width}] x, int32[4] {named}, int32[{longest}] max_seqlen) => (float[20,{width}] y)
    <int64[3] split = {{20, 2, {head_size}}}, int64[2] join = {{20, {width}}}, float zero = {{0.0}},
     int64[1] first = {{1}}, int64[1] last = {{9}}, int64[1] along = {{1}}, int64[1] across = {{0}},
     float large = {{-10000.0}}, float root = {{{head_size**0.5}}}, int64 none = {{0}}, int64 step = {{1}},
     int64 rows = {{20}}>
    {{
        ends32 = Slice({named}, first, last)
        ends = Cast<to = 7>(ends32)
        numbers = Range(none, rows, step)
        column = Unsqueeze(numbers, along)
        passed = GreaterOrEqual(column, ends)
        passed64 = Cast<to = 7>(passed)
        sequence = ReduceSum<keepdims = 1>(passed64, along)
        other = Transpose<perm = [1, 0]>(sequence)
        same = Equal(sequence, other)
        mask = Where(same, zero, large)
        q0 = MatMul(x, wq)
        q1 = Add(q0, bq)
        q2 = Reshape(q1, split)
        q = Transpose<perm = [1, 0, 2]>(q2)
        k0 = MatMul(x, wk)
        k1 = Add(k0, bk)
        k2 = Reshape(k1, split)
        k = Transpose<perm = [1, 2, 0]>(k2)
        v0 = MatMul(x, wv)
        v1 = Add(v0, bv)
        v2 = Reshape(v1, split)
        v = Transpose<perm = [1, 0, 2]>(v2)
        scores = MatMul(q, k)
        scaled = Div(scores, root)
        masked = Add(scaled, mask)
        p = Softmax<axis = -1>(masked)
        c0 = MatMul(p, v)
        c1 = Transpose<perm = [1, 0, 2]>(c0)
        c = Reshape(c1, join)
        y = Identity(c)
    }}
    """
    return with_weights(text, width)


def with_weights(text: str, width: int) -> Model:
    proto = onnx.parser.parse_model(text)
    rng = np.random.default_rng(2)
    for part in "qkv":
        for name, shape in ((f"w{part}", (width, width)), (f"b{part}", (width,))):
            values = rng.normal(0, 1.5 / width**0.5, shape).astype(np.float32)
            proto.graph.initializer.append(onnx.numpy_helper.from_array(values, name))
    return infer_shapes(Model(proto))


def padded_feeds(length: int = 12) -> dict[str, Array]:
    rng = np.random.default_rng(3)
    tokens = np.arange(length)[None] < np.array([[length], [5]])
    return {"x": rng.normal(size=(2, length, 32)).astype(np.float32), "tokens": tokens.astype(np.int64)}


def packed_feeds(width: int, longest: int = 100) -> dict[str, Array]:
    rng = np.random.default_rng(4)
    return {
        "x": rng.normal(size=(20, width)).astype(np.float32),
        "cu_seqlens": np.array([0, 7, 12, 20], np.int32),
        "max_seqlen": np.zeros(longest, np.int32),
    }


def attend(q: Array, k: Array, v: Array, bias: Array | float, probabilities: Any = lambda p: p) -> Array:
    """[N, S, H] each, in float64."""
    scores = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + bias
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(probabilities(weights / weights.sum(-1, keepdims=True)) @ v)


def plugin(node: NodeProto, inputs: list[Array]) -> Array:
    """What the plugin computes, by its README and its code, from what it is given."""
    fields = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    version, heads = (int(fields["plugin_version"]) - 1) % 3 + 1, fields["num_heads"]
    size = fields["hidden_size"] // heads
    if version == 1:
        qkv = inputs[0].astype(np.float64)
        length, batch = qkv.shape[:2]
        by_head = qkv.reshape(length, batch, heads, 3, size)
        made = np.zeros((length, batch, heads, size))
        for each in range(batch):
            valid = int(inputs[1][each, 0]) if fields["has_mask"] else length
            bias = np.where(np.arange(length) < valid, 0, -np.inf)
            parts = [by_head[:, each, :, part].transpose(1, 0, 2) for part in range(3)]
            made[:, each] = attend(*parts, bias).transpose(1, 0, 2)
        return made.reshape(length, batch, -1, 1, 1).astype(inputs[0].dtype)
    if version == 2:
        assert fields["var_seqlen"] == 1
        assert inputs[1].dtype == np.int32
        rows = inputs[0].shape[0]
        parts = list(inputs[0].astype(np.float64).reshape(rows, heads, 3, size).transpose(2, 1, 0, 3))
        context = each_sequence(parts, inputs[2])
        return context.transpose(1, 0, 2).reshape(rows, -1, 1, 1).astype(inputs[0].dtype)
    scale, dq, out = fields["input_qkv_scale"], fields["dq_probs"], fields["output_ctx_scale"]
    assert inputs[0].dtype == np.int8
    assert size == 64
    rows = inputs[0].shape[2]
    parts = list(inputs[0].reshape(3, heads, size, rows).transpose(0, 1, 3, 2) * np.float64(scale))
    context = each_sequence(parts, inputs[1], lambda p: np.clip(np.rint(p / dq), 0, 127) * dq)
    stored = np.clip(np.rint(context / out), -127, 127).astype(np.int8)
    return stored.transpose(0, 2, 1).reshape(1, -1, rows, 1)


def each_sequence(parts: list[Array], bounds: Array, probabilities: Any = lambda p: p) -> Array:
    pieces = [
        attend(*(part[:, first:last] for part in parts), 0.0, probabilities)
        for first, last in itertools.pairwise(bounds)
    ]
    return np.concatenate(pieces, 1)


def plugin_node(model: Model) -> NodeProto:
    (node,) = [node for node in model.proto.graph.node if node.domain == DOMAIN]
    assert node.op_type == PLUGIN
    return node


def run_with_plugin(model: Model, feeds: dict[str, Array], tools: Any) -> Array:
    """The graph up to the plugin by onnxruntime, the plugin by NumPy, and the rest by onnxruntime."""
    node = plugin_node(model)
    given = [feeds[name] if name in feeds else _tensor(model, name, feeds, tools) for name in node.input]
    made = plugin(node, given)
    rest = Model(type(model.proto).FromString(model.proto.SerializeToString()))
    rest.proto.graph.node.remove(plugin_node(rest))
    kind = helper.np_dtype_to_tensor_dtype(made.dtype)
    rest.proto.graph.input.append(helper.make_tensor_value_info(node.output[0], kind, made.shape))
    return np.asarray(tools.run(rest, feeds | {node.output[0]: made}))


def _tensor(model: Model, name: str, feeds: dict[str, Array], tools: Any) -> Array:
    part = Model(type(model.proto).FromString(model.proto.SerializeToString()))
    graph = part.proto.graph
    needed, kept = {name}, []
    for node in reversed(graph.node):
        if not needed.isdisjoint(node.output):
            needed.update(node.input)
            kept.append(node)
    nodes = [NodeProto.FromString(node.SerializeToString()) for node in kept[::-1]]
    del graph.node[:]
    graph.node.extend([*nodes, helper.make_node("Identity", [name], ["wanted_y"])])
    del graph.output[:]
    graph.output.append(helper.make_empty_tensor_value_info("wanted_y"))
    graph.ClearField("value_info")
    return np.asarray(tools.run(part, feeds, output="wanted_y"))


def assert_fields(node: NodeProto, version: int) -> dict[str, Any]:
    table = FIELDS[(version - 1) % 3 + 1]
    found = {each.name: each.type for each in node.attribute}
    assert found.pop("plugin_version") == found.pop("plugin_namespace") == AttributeProto.STRING
    assert found == table
    assert attribute(node, "plugin_version") == str(version)
    assert attribute(node, "plugin_namespace") == ""
    return {name: attribute(node, name) for name in table}


@pytest.mark.parametrize("spelled", TOKENS)
@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-5), ("fp16", 4e-3)])
def test_padded_rows(spelled: str, precision: str, near: float, tools: Any) -> None:
    bench = tools.Bench(padded(TOKENS[spelled]))
    after = bench.lowered(STOCK, replace(A100, precision=precision))
    values = assert_fields(plugin_node(after), 4)
    assert values == {"type_id": {"fp32": 0, "fp16": 1}[precision], "hidden_size": 32, "num_heads": 4, "has_mask": 1}
    feeds = padded_feeds()
    lengths = _tensor(after, plugin_node(after).input[1], feeds, tools)
    assert lengths.dtype == np.int32
    assert lengths.tolist() == [[12], [5]]
    qkv = _tensor(after, plugin_node(after).input[0], feeds, tools)
    assert qkv.shape == (12, 2, 96, 1, 1)
    assert qkv.dtype == {"fp32": np.float32, "fp16": np.float16}[precision]
    before = tools.run(bench.model, feeds)
    np.testing.assert_allclose(run_with_plugin(after, feeds, tools), before, rtol=0, atol=near * np.abs(before).max())


def test_without_a_mask_and_time_first(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(rows="time", weights="by_head")))
    after = bench.lowered(STOCK, replace(A100, precision="fp32"))
    assert assert_fields(plugin_node(after), 4)["has_mask"] == 0
    assert len(plugin_node(after).input) == 1
    feeds = tools.feeds_of(bench.model, 9)
    tools.assert_same(tools.run(bench.model, feeds), run_with_plugin(after, feeds, tools))


def test_packed_rows(tools: Any) -> None:
    bench = tools.Bench(packed(head_size=32))
    after = bench.lowered(STOCK, A100)
    node = plugin_node(after)
    assert assert_fields(node, 5) == {
        **{"type_id": 1, "hidden_size": 64, "num_heads": 2, "has_mask": 1, "var_seqlen": 1},
    }
    assert list(node.input[2:]) == ["cu_seqlens", "max_seqlen"]
    feeds = packed_feeds(64)
    assert _tensor(after, node.input[0], feeds, tools).shape == (20, 192, 1, 1)
    before = tools.run(bench.model, feeds)
    error = np.abs(run_with_plugin(after, feeds, tools) - before).max()
    assert error < 4e-3 * np.abs(before).max()


def test_interleaved_int8(tools: Any) -> None:
    bench = tools.Bench(packed())
    feeds = packed_feeds(128)
    match = bench.match
    amax = {name: float(np.abs(_tensor(bench.model, name, feeds, tools)).max()) for name in match.ranges[1:]}
    ranges = amax | {"x": float(np.abs(feeds["x"]).max())}
    after = bench.lowered(STOCK, replace(A100_INT8, ranges=ranges))
    node = plugin_node(after)
    values = assert_fields(node, 6)
    assert values["dq_probs"] == pytest.approx(ranges["p"] / 127)
    assert values["input_qkv_scale"] == pytest.approx(max(ranges[name] for name in ("q1", "k1", "v1")) / 127)
    assert values["output_ctx_scale"] == pytest.approx(ranges["c"] / 127)
    assert values["use_explicit_int8"] == values["use_int8_scale_max"] == 1
    assert _tensor(after, node.input[0], feeds, tools).shape == (1, 384, 20, 1)
    before = tools.run(bench.model, feeds)
    error = np.abs(run_with_plugin(after, feeds, tools) - before).max()
    assert 0 < error < 0.06 * np.abs(before).max()


def test_versions_in_order_of_preference(tools: Any) -> None:
    bench = tools.Bench(padded())
    old = replace(A100, creators=frozenset(each for each in ALL if each.version in "123"))
    assert_fields(plugin_node(bench.lowered(STOCK, old)), 1)
    lowered = STOCK.lower(bench.match, bench.view, A100, tools.names_of(bench.model))
    assert lowered.plugin is not None
    assert lowered.plugin.creator == Creator(PLUGIN, "4")
    assert lowered.plugin.fields == {"type_id": 1, "hidden_size": 32, "num_heads": 4, "has_mask": 1}


@pytest.mark.parametrize(
    ("model", "situation", "why"),
    [
        (padded(), replace(A100, backend="tensorrt_rtx"), "the backend is tensorrt_rtx"),
        (padded(), replace(A100, dla=True), "the DLA runs no plugins"),
        (padded(), replace(A100, sm=None), "compute capability is not known"),
        (padded(), replace(A100, creators=frozenset()), "registry of TensorRT 10.16.1 has no Custom"),
        (padded(), replace(A100, creators=frozenset(), probed=False), "is not documented to have"),
        (padded(length=128), A100, "at sequence length 128 versions 1 and 4 read a mask packed by"),
        (padded(), A100_INT8, "from implicit quantization only"),
        (padded("mask = Cast<to = 1>(m4)"), A100, "is not made of a graph input [batch, sequence]"),
        (padded(unsqueezed="axes = {1, 3}"), A100, "is not made of a graph input [batch, sequence]"),
        (packed(named="starts"), A100, "has no input 'cu_seqlens'"),
        (packed(longest=600), A100, "no kernel for sequence length 600, head size 64 on SM 8.0 in fp16; there are 64,"),
        (packed(head_size=80), A100, "head size 80 on SM 8.0 in fp16; for head size 64 there are 64, 96, 128, 256"),
        (packed(), replace(A100, sm="10.3"), "on SM 10.3 in fp16, and none for any other head size"),
        (packed(), replace(A100, precision="fp32"), "in FP16 and INT8 only"),
        (packed(), replace(A100_INT8, tensorrt="10.16.1", ranges={}), "implicit quantization"),
        (packed(), replace(A100_INT8, ranges={}), "no usable range for the tensor 'x'"),
        (packed(head_size=32), replace(A100_INT8, ranges={}), "scale by 1/sqrt(64) always"),
    ],
)
def test_refusals(model: Model, situation: Situation, why: str, tools: Any) -> None:
    bench = tools.Bench(model)
    assert why in STOCK.refuses(bench.match, bench.view, situation)


def test_the_scale_is_named(tools: Any) -> None:
    model = padded()
    root = next(tensor for tensor in model.proto.graph.initializer if tensor.name == "root")
    root.CopyFrom(onnx.numpy_helper.from_array(np.float32(10), "root"))
    bench = tools.Bench(model)
    assert "q and k scale by 0.1, not 1/sqrt(8)=0.353553" in STOCK.refuses(bench.match, bench.view, A100)


@pytest.mark.parametrize(
    ("sm", "precision", "head_size", "version", "lengths"),
    [
        ("7.2", "int8", 64, 3, (128, 192, 256, 384)),
        ("7.2", "fp16", 64, 2, ()),
        ("7.5", "int8", 64, 5, (128, 192, 256, 384, 512)),
        ("8.0", "int8", 64, 1, (64, 96, 128, 384)),
        ("8.0", "fp16", 64, 5, (64, 96, 128, 256, 384, 512)),
        ("8.0", "int8", 64, 6, (64, 96, 128, 192, 256, 384)),
        ("8.6", "fp16", 64, 2, (64, 96, 128, 256, 384, 512)),  # 512 is SM 8.0's
        ("8.7", "fp16", 64, 5, (64, 96, 128, 256, 384)),
        ("8.7", "int8", 64, 4, (128, 384)),
        ("8.9", "int8", 64, 3, (64, 96, 128, 192, 256, 384)),
        ("9.0", "fp16", 64, 4, (64, 96, 128, 384, 512)),
        ("12.0", "int8", 64, 5, (64, 96, 128, 192, 256, 384, 512)),
        ("8.0", "fp16", 32, 5, (128, 256, 512)),
        ("8.0", "int8", 32, 6, (128,)),
        ("8.7", "fp16", 32, 5, ()),
        ("8.7", "fp16", 80, 5, ()),
    ],
)
def test_kernels(sm: str, precision: str, head_size: int, version: int, lengths: tuple[int, ...]) -> None:
    assert supported(sm, precision, head_size, version) == lengths


def test_the_smallest_kernel_that_holds_it() -> None:
    lengths = supported("8.6", "int8", 64, 5)
    assert [bucket(lengths, longest) for longest in (1, 64, 65, 200, 384, 512, 513)] == [
        64,
        64,
        96,
        256,
        384,
        512,
        None,
    ]
    assert missing("8.6", "int8", 64, 5, 200) == ""
    assert missing("8.6", "int8", 64, 6, 400) == (
        "version 6 has no kernel for sequence length 400, head size 64 on SM 8.6 in int8; "
        "there are 64, 96, 128, 192, 256, 384"
    )
