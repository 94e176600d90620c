"""The Attention operator: what it refuses, and what TensorRT-RTX makes of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from trtforge.backends.nvidia.process import run
from trtforge.backends.tensorrt_rtx_ import environment, half, ir
from trtforge.backends.tensorrt_rtx_.job import job
from trtforge.backends.tensorrt_rtx_.names import count_int8
from trtforge.errors.backend import CompilerRefused
from trtforge.graph.model import Model
from trtforge.graph.shapes import infer_shapes
from trtforge.plugins.qkv_to_context.attention import OPSET, RTX_HEAD_SIZES, AttentionOperator
from trtforge.plugins.qkv_to_context.rewrite import OP
from trtforge.progress import QUIET
from trtforge.scales.codecs import qdq
from trtforge.scales.table import ScaleTable, TensorRange
from trtforge.surgery.choose import apply, choose
from trtforge.surgery.op import Situation

HERE = Situation("onnxruntime", "fp32", None)
RTX = Situation("tensorrt_rtx", "fp16", "8.0")
NATIVE = Situation("tensorrt", "fp16", "8.0", tensorrt="10.16.1")
ATTENTION = AttentionOperator()
KERNEL = "_gemm_mha_v2"
needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")


def attention_node(model: Model) -> onnx.NodeProto:
    (node,) = [node for node in model.proto.graph.node if node.op_type == "Attention"]
    return node


def test_the_model_gets_the_opset(tools: Any) -> None:
    after = tools.Bench(tools.draw(tools.Spelling())).lowered(ATTENTION, HERE)
    assert [entry.version for entry in after.proto.opset_import if entry.domain == ""] == [OPSET]
    onnx.checker.check_model(after.proto)


def test_one_merged_weight_stays_one(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(weights="blocks", parts="gather")))
    after = bench.lowered(ATTENTION, HERE)
    products = [node for node in after.proto.graph.node if node.op_type == "MatMul"]
    assert len(products) == 2  # the projection and the one behind the context
    assert products[0].input[1] == bench.match.inputs[1]


def test_the_mask_comes_as_floats(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(mask="drop", mask_shape="square")))
    after = infer_shapes(bench.lowered(ATTENTION, NATIVE))
    types = {value.name: value.type.tensor_type.elem_type for value in after.proto.graph.value_info}
    assert types[attention_node(after).input[3]] == onnx.TensorProto.FLOAT


@pytest.mark.parametrize(
    ("situation", "why"),
    [
        (replace(RTX, precision="fp32"), "in FP16 only"),
        (replace(RTX, precision="int8"), "makes one INT8 kernel of the plain graph"),
        (replace(NATIVE, tensorrt="10.13.3"), "TensorRT 10.13.3 has no Attention; 10.14 is the first"),
        (replace(NATIVE, tensorrt=None), "not known"),
        (replace(NATIVE, precision="int8"), "for FP16"),
        (replace(NATIVE, dla=True), "the DLA has no Attention"),
        (replace(HERE, precision="int8"), "between casts"),
    ],
)
def test_refusals(situation: Situation, why: str, tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(head_size=16)))
    assert why in ATTENTION.refuses(bench.match, bench.view, situation)


@pytest.mark.parametrize("situation", [RTX, NATIVE, HERE])
def test_it_serves(situation: Situation, tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(head_size=16)))
    assert ATTENTION.refuses(bench.match, bench.view, situation) == ""


def test_head_sizes_of_rtx(tools: Any) -> None:
    for size, served in ((8, False), (9, True), (256, True)):
        bench = tools.Bench(tools.draw(tools.Spelling(heads=1, head_size=size)))
        assert (ATTENTION.refuses(bench.match, bench.view, RTX) == "") == served == (size in RTX_HEAD_SIZES)


def test_an_operator_that_opset_23_no_longer_has_is_named(tools: Any) -> None:
    model = tools.draw(tools.Spelling())
    model.proto.opset_import[0].version = 9
    model.proto.graph.node.append(helper.make_node("Upsample", ["y", "s"], ["large"], name="old"))
    bench = tools.Bench(model)
    assert "opset 23, which has no Upsample: 'old' cannot be converted" in ATTENTION.refuses(
        bench.match, bench.view, HERE
    )


def test_the_rest_of_the_graph_is_converted_to_opset_23(tools: Any) -> None:
    """ReduceMean has its axes as an attribute before opset 18."""
    model = tools.draw(tools.Spelling(mask="add"))
    model.proto.opset_import[0].version = 17
    mean = helper.make_node("ReduceMean", ["y"], ["mean"], name="old", axes=[1], keepdims=0)
    model.proto.graph.node.append(mean)
    model.proto.graph.output.append(helper.make_tensor_value_info("mean", TensorProto.FLOAT, None))
    model = infer_shapes(model)
    feeds = tools.feeds_of(model, 8)
    plan = choose(model, [OP], {}, HERE)
    assert [choice.lowering_name for choice in plan.choices] == ["attention"]
    after, _ = apply(model, model, plan, HERE)
    tools.assert_same(tools.run(model, feeds, output="mean"), tools.run(after, feeds, output="mean"))


def test_what_a_compiler_is_given_runs_here(tools: Any) -> None:
    """A build is verified with the compiler's graph in onnxruntime, which does not broadcast a mask [B, 1, 1, S]."""
    bench = tools.Bench(tools.draw(tools.Spelling(head_size=16, mask="add", mask_shape="keys")))
    feeds = tools.feeds_of(bench.model, 8)
    after = bench.lowered(ATTENTION, RTX)
    tools.assert_same(tools.run(bench.model, feeds), tools.run(after, feeds))


def test_no_weight_is_read(tools: Any, tmp_path: Path) -> None:
    """The data file may be gone: projections go by their weights' names."""
    model = tools.draw(tools.Spelling(length=6, heads=8, head_size=16, mask="keep", bias=False))
    onnx.save(model.proto, tmp_path / "m.onnx", save_as_external_data=True, location="d", size_threshold=4096)
    lean = Model(onnx.load(tmp_path / "m.onnx", load_external_data=False), tmp_path)
    (tmp_path / "d").unlink()
    plan = choose(lean, [OP], {}, RTX)
    after, _ = apply(lean, lean, plan, RTX)
    assert "Attention" in {node.op_type for node in after.proto.graph.node}


def test_int8_wants_the_range_of_its_input(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(head_size=16, guard=True)))
    why = ATTENTION.refuses(bench.match, bench.view, replace(RTX, precision="int8", ranges={}))
    assert "no range for the tensor 'x'" in why


def test_int8_projections_are_close(tools: Any) -> None:
    bench = tools.Bench(tools.draw(tools.Spelling(head_size=16, mask="add", guard=True)))
    feeds = tools.feeds_of(bench.model, 8)
    before = tools.run(bench.model, feeds)
    ranges = {bench.match.ranges[0]: float(np.abs(feeds["x"]).max())}
    after = bench.lowered(ATTENTION, replace(RTX, precision="int8", ranges=ranges))
    kinds = [node.op_type for node in after.proto.graph.node]
    assert kinds.count("DequantizeLinear") == 4  # x, and the weights of Q, K and V
    error = np.abs(_without_broadcast(after, tools, feeds) - before).max()
    assert 0 < error < 0.05 * np.abs(before).max()


def _without_broadcast(model: Model, tools: Any, feeds: dict[str, Any]) -> Any:
    """Run by onnxruntime, which wants the mask's query axis at its full length, and whose fusions of Q/DQ and MatMul
    fail under opset 23."""
    length = feeds["x"].shape[1]
    mask = np.broadcast_to(feeds["mask"], (*feeds["mask"].shape[:2], length, length))
    value = next(value for value in model.proto.graph.input if value.name == "mask")
    value.type.tensor_type.shape.dim[2].dim_value = length
    return tools.run(model, feeds | {"mask": np.ascontiguousarray(mask)}, fusions=False)


def compiled(model: Model, folder: Path, sm: str) -> list[ir.Layer]:
    """The layers of the plan. Raises CompilerRefused."""
    source, plan = folder / "model.onnx", folder / "model.plan"
    onnx.save(model.proto, source)
    run(job(source, plan, (sm,), 1 << 30, "compile"), timeout=60, progress=QUIET)
    return ir.read_layers(plan)


def in_half(model: Model) -> Model:
    return half.convert(infer_shapes(model))[0]


@needs_rtx
@pytest.mark.rtx
@pytest.mark.parametrize(
    ("sm", "head_size", "mask", "shape"),
    [
        ("SM80", 64, "", "keys"),
        ("SM80", 64, "add", "keys"),
        ("SM80", 64, "add", "square"),
        ("SM80", 64, "keep", "keys"),
        ("SM80", 64, "added_bool", "shared"),
        ("SM86", 64, "drop", "square"),
        ("SM80", 32, "", "keys"),
        ("SM86", 32, "add", "keys"),
    ],
)
def test_rtx_makes_one_kernel(sm: str, head_size: int, mask: str, shape: str, tools: Any, tmp_path: Path) -> None:
    how = tools.Spelling(length=128, heads=12, head_size=head_size, mask=mask, mask_shape=shape)
    after = tools.Bench(tools.draw(how)).lowered(ATTENTION, RTX)
    layers = compiled(in_half(after), tmp_path, sm)
    fused = [layer for layer in layers if layer.name == KERNEL]
    assert len(fused) == 1
    assert {tensor.type for tensor in fused[0].inputs[:3]} == {"half"}
    products = [layer for layer in layers if layer.kind == "fully_connected"]
    assert len(products) == 2  # Q, K and V in one, and the one behind the context


@needs_rtx
@pytest.mark.rtx
def test_rtx_keeps_the_projections_in_int8(tools: Any, tmp_path: Path) -> None:
    how = tools.Spelling(length=128, heads=12, head_size=64, mask="added_bool", guard=True)
    after = tools.Bench(tools.draw(how)).lowered(ATTENTION, replace(RTX, precision="int8", ranges={"x": 4.0}))
    layers = compiled(after, tmp_path, "SM80")
    assert [layer.name for layer in layers].count(KERNEL) == 1
    assert sum(layer.is_int8 for layer in layers if layer.kind == "fully_connected") == 1


@needs_rtx
@pytest.mark.rtx
@pytest.mark.parametrize(("mask", "guard", "kernels"), [("", False, 1), ("add", False, 1), ("add", True, 0)])
def test_what_rtx_makes_of_the_plain_graph_in_int8(
    mask: str, guard: bool, kernels: int, tools: Any, tmp_path: Path
) -> None:
    """Why the lowering refuses INT8 without a guard."""
    model = tools.draw(tools.Spelling(length=128, heads=12, head_size=64, mask=mask, guard=guard))
    inner = {name for node in model.proto.graph.node for name in node.output} | {"x"}
    quantized, _ = qdq.insert(model, ScaleTable({name: TensorRange(-3.0, 3.0, 1) for name in inner}))
    layers = compiled(quantized, tmp_path, "SM80")
    fused = [layer for layer in layers if layer.name == KERNEL]
    assert len(fused) == kernels
    assert all(layer.is_int8 for layer in fused)
    products = {node.name: "MatMul" for node in model.proto.graph.node if node.op_type == "MatMul"}
    inside = [name for name in count_int8(products, layers).kept if any(name in layer.nodes for layer in fused)]
    assert len(inside) == 2 * kernels  # the report counts what a fused kernel computes


@needs_rtx
@pytest.mark.rtx
def test_rtx_fails_where_we_refuse(tools: Any, tmp_path: Path) -> None:
    """With a mask in FP32, and beyond the head sizes: the refusals are the compiler's own limits."""
    large = tools.Bench(tools.draw(tools.Spelling(length=16, heads=2, head_size=64, mask="add")))
    odd = tools.Bench(tools.draw(tools.Spelling(length=16, heads=2, head_size=8, mask="add")))
    for place, graph in (
        ("fp32", large.lowered(ATTENTION, NATIVE)),
        ("small", in_half(odd.lowered(ATTENTION, NATIVE))),
    ):
        folder = tmp_path / place
        folder.mkdir()
        with pytest.raises(CompilerRefused, match="not supported by a dedicated kernel"):
            compiled(graph, folder, "SM80")
