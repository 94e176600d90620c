"""What becomes of each match: preferences, refusals, conflicts, and the plan put into a graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from trtforge.errors.graph import NoLowering, PluginsOverlap
from trtforge.graph.model import Model
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.table import ScaleTable
from trtforge.surgery.choose import Plan, apply, as_functions, choose
from trtforge.surgery.op import Creator, Situation, missing_range, stock_missing, why_not_ours
from trtforge.surgery.rules import Match

FP32 = Situation("tensorrt_rtx", "fp32", "8.0")
HOST = Situation("onnxruntime", "int8", None)


def lowerings(plan: Plan) -> dict[str, str]:
    return {choice.match.at: choice.lowering_name for choice in plan.choices}


def test_by_default_the_first_that_serves(net: Model, op, int8: Situation) -> None:
    assert op.offers == ("trtforge", "attention", "plain")
    assert op.summary == "A convolution and the ReLU behind it, in one."
    plan = choose(net, [op], {}, int8)
    assert lowerings(plan) == {"first": "trtforge", "last": "trtforge"}
    assert all(choice.refused == () for choice in plan.choices)
    assert len(plan.swapped) == 2


def test_plain_comes_last_and_every_refusal_is_kept(net: Model, op) -> None:
    plan = choose(net, [op], {}, HOST)
    assert lowerings(plan) == {"first": "plain", "last": "plain"}
    assert plan.swapped == ()
    assert plan.choices[0].refused == (
        ("trtforge", "onnxruntime runs the graph as it is, without TensorRT plugins"),
        ("attention", "it is for SM 8.6, and this is SM None"),
    )


def test_the_recipes_order_is_followed(net: Model, op, int8: Situation) -> None:
    for wanted, sm, chosen in [
        (("attention", "trtforge"), "8.6", "attention"),
        (("attention", "trtforge"), "8.0", "trtforge"),
        (("plain", "trtforge"), "8.0", "plain"),
        (("stock", "plain"), "8.0", "plain"),
    ]:
        plan = choose(net, [op], {"conv-relu": wanted}, replace(int8, sm=sm))
        assert set(lowerings(plan).values()) == {chosen}, wanted
    assert plan.choices[0].refused == (
        ("stock", "conv-relu has no lowering 'stock'; it has trtforge, attention, plain"),
    )


def test_near_misses_are_told(net: Model, op, int8: Situation) -> None:
    told = choose(net, [op], {}, int8).to_json()
    assert told["near_misses"] == [
        {
            "plugin": "conv-relu",
            "at": "second",
            "why": "the tensor 'c1' inside it has a second consumer 'side'",
        }
    ]
    assert told["matches"][1] == {
        "plugin": "conv-relu",
        "at": "last",
        "outputs": ["y"],
        "lowering": "trtforge",
        "refused": [],
    }


def test_a_tensor_without_a_range_is_named(net: Model, op, int8: Situation) -> None:
    ranges = {name: value for name, value in int8.ranges.items() if name not in ("s2", "y")}
    plan = choose(net, [op], {}, replace(int8, ranges=ranges))
    assert lowerings(plan) == {"first": "trtforge", "last": "plain"}
    assert plan.choices[1].refused[0] == (
        "trtforge",
        "calibration has no range for the tensor 's2' inside it, and 1 more",
    )
    match = Match("m", "m", (), ("y",), (), ("y",))
    assert missing_range(match, replace(int8, ranges={})) == "calibration has no range for the tensor 'y' inside it"
    assert missing_range(match, replace(int8, ranges=None)) == ""  # not calibrated yet
    assert missing_range(match, int8) == ""


def test_no_lowering_says_why_each_failed(net: Model, op) -> None:
    with pytest.raises(NoLowering) as caught:
        choose(net, [op], {"conv-relu": ("attention", "trtforge")}, replace(FP32, precision="fp16"))
    error = caught.value
    assert (error.code, error.exit_code) == ("ONX119", 4)
    assert error.what == "the plugin conv-relu at 'first' cannot be built in any way the recipe allows"
    assert error.where == "plugins.conv-relu"
    assert error.why == (
        "attention: it is for SM 8.6, and this is SM 8.0; "
        "trtforge: its kernels compute in int8 and fp32, and the recipe's precision is fp16"
    )
    assert "append `plain` to `plugins.conv-relu`" in error.next


def test_two_plugins_for_one_node(net: Model, op, kit) -> None:
    class OtherRule(kit.ConvReluRule):
        """relu(w * x + b) again."""

        name = "other"

    class Other(kit.ConvRelu):
        """The same structure under another name."""

        name, rule = "other", OtherRule()

    with pytest.raises(PluginsOverlap) as caught:
        choose(net, [op, Other()], {}, FP32)
    error = caught.value
    assert (error.code, error.exit_code) == ("ONX120", 4)
    assert error.what == "two plugins claim the node that makes 'c0'"
    assert error.why == "conv-relu at 'first' and other at 'first' both replace it"
    assert error.next == "remove one of them from `surgery`, or write `plugins: {other: [plain]}`"
    for name, chosen in (("other", ["trtforge", "plain"]), ("conv-relu", ["plain", "trtforge"])):
        plan = choose(net, [op, Other()], {name: ("plain",)}, FP32)  # the error's own advice, either way
        assert [choice.lowering_name for choice in plan.choices if choice.match.at == "first"] == chosen
    assert len(as_functions(net, [op, Other()]).proto.functions) == 2  # the first has the nodes there


def test_the_plan_in_the_qdq_graph(net: Model, op, table: ScaleTable, int8: Situation) -> None:
    graph, _ = insert(net, table)
    plan = choose(net, [op], {}, int8)
    swapped, lowered = apply(net, graph, plan, int8)
    onnx.checker.check_model(swapped.proto)
    assert [one.nodes[-1].output[0] for one in lowered] == ["r0", "y"]
    assert lowered[0].plugin.fields["output_scale"] == float(table.ranges["r0"].usable_scale)
    taken = [tensor.name for one in lowered for tensor in one.initializers]
    assert len(taken) == len(set(taken)) == 10  # two pairs and a weight each, none shared, none counted twice
    names = [tensor.name for tensor in swapped.proto.graph.initializer]
    assert len(names) == len(set(names)) and set(taken) <= set(names)


def test_a_plan_of_plain_only_changes_nothing(net: Model, op) -> None:
    plan = choose(net, [op], {}, HOST)
    assert apply(net, net, plan, HOST) == (net, [])


def test_the_graph_is_converted_to_the_opset_a_lowering_needs(net: Model, op, int8: Situation) -> None:
    """Nothing is renamed by it, and the result computes what the graph computed."""
    from trtforge.ort import open_session, session_options

    there = replace(FP32, sm="8.6")
    plan = choose(net, [op], {"conv-relu": ("attention",)}, there)
    swapped, _ = apply(net, net, plan, there)
    assert {entry.domain: entry.version for entry in swapped.proto.opset_import}[""] == 19
    assert {"r0", "c1", "r1", "c2", "s2", "y", "aux"} <= {n for node in swapped.proto.graph.node for n in node.output}
    x = np.random.default_rng(0).normal(size=(1, 4, 8, 8)).astype(np.float32)
    one, other = (
        open_session(model.proto, None, session_options(threads=1)).run(None, {"x": x}) for model in (net, swapped)
    )
    for left, right in zip(one, other, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-6, atol=1e-6)


def test_as_functions_keeps_the_meaning(net: Model, op) -> None:
    functions = as_functions(net, [op])
    assert [node.op_type for node in functions.proto.graph.node if node.domain == "trtforge"] == [
        "ConvRelu3",
        "ConvRelu2",
    ]
    assert as_functions(net, []) is net


STOCK = ("Thing_TRT", ("2", "3"))


def test_why_a_stock_plugin_is_not_to_be_had() -> None:
    jetson = Situation("tensorrt", "int8", "8.7", tensorrt="8.6")
    none = "TensorRT 8.6 has no Thing_TRT of version 2 or 3: it has none of that name (by NVIDIA's documents; the "
    assert stock_missing(jetson, *STOCK) == none + "device was not asked)"
    old = replace(jetson, creators=frozenset({Creator("Thing_TRT", "1")}), backend="tensorrt_rtx", probed=True)
    assert stock_missing(old, *STOCK) == (
        "TensorRT-RTX has no Thing_TRT of version 2 or 3: it has version 1 (its registry was asked)"
    )
    ours = replace(jetson, creators=frozenset({Creator("Thing_TRT", "2", "trtforge")}))
    assert stock_missing(ours, *STOCK).startswith("TensorRT 8.6 has no")  # another namespace is another plugin
    here = replace(jetson, creators=frozenset({Creator("Thing_TRT", "3")}))
    assert stock_missing(here, *STOCK) == ""
    assert stock_missing(replace(here, dla=True), *STOCK) == "plugins run on the GPU, not on a DLA"


def test_where_our_plugins_cannot_be_built_in() -> None:
    assert why_not_ours(FP32, ("int8", "fp32")) == ""
    assert why_not_ours(FP32, ("int8",)) == "its kernels compute in int8, and the recipe's precision is fp32"
    native = replace(FP32, backend="tensorrt", tensorrt="8.6")
    assert why_not_ours(native, ("fp32",)) == "TensorRT 8.6 takes no plugins in Python: 10 is the first to"
    taken = replace(native, tensorrt="10.3", creators=frozenset({Creator("Thing", "1", "trtforge")}))
    assert why_not_ours(taken, ("fp32",)) == ""
    assert why_not_ours(replace(taken, dla=True), ("fp32",)) == "plugins run on the GPU, not on a DLA"
