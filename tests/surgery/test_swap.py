"""Matches replaced in the float graph and in the Q/DQ graph: what goes, what stays, what the model keeps book of."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.ort import open_session, session_options
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.table import ScaleTable
from trtforge.surgery.compiler_graph import for_compiler
from trtforge.surgery.int8 import scale_of
from trtforge.surgery.op import DOMAIN, Lowered, Names, Situation, call, function_proto
from trtforge.surgery.rules import Match, View
from trtforge.surgery.swap import names_of, swap


def matches(net: Model, op) -> tuple[Match, ...]:
    return op.rule.find(View(net)).matches


def with_functions(net: Model, op) -> Model:
    names = names_of(net)
    return swap(net, [(match, op.function(match, View(net), names)) for match in matches(net, op)])


def in_int8(net: Model, table: ScaleTable, op, int8: Situation) -> tuple[Model, Model]:
    """The Q/DQ graph, and the same with the plugin of every match."""
    graph, _ = insert(net, table)
    names, replacements = names_of(graph), []
    for match in matches(net, op):
        names.initializers = []
        replacements.append((match, op.lowerings[0].lower(match, View(net), int8, names)))
    return graph, swap(graph, replacements)


def tensors(model: Model) -> set[str]:
    return {name for node in model.proto.graph.node for name in node.output}


def weights(model: Model) -> dict[str, np.ndarray]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.proto.graph.initializer}


def outputs(model: Model, seed: int = 0) -> list[np.ndarray]:
    session = open_session(model.proto, model.folder, session_options(threads=1))
    feeds = {
        one.name: np.random.default_rng(seed).normal(size=one.shape).astype(np.float32) for one in session.get_inputs()
    }
    return session.run(None, feeds)


def test_names_inside_subgraphs_are_not_fresh() -> None:
    """A new tensor called as one of a branch's own would be hidden there, and ONNX allows no name twice."""
    branch = """
        net (bool c, float[2] x) => (float[2] y) {
            y = If (c) <
                then_branch = then () => (float[2] made) { made = Add (x, x) },
                else_branch = other () => (float[2] out) <float[2] kept = {1.0, 2.0}> { [inner] out = Mul (x, kept) }
            >
        }
    """
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]>' + branch)
    names = names_of(Model(proto))
    for taken in ("x", "y", "made", "out", "kept", "inner"):
        assert names.fresh(taken) == f"{taken}_1"
    assert names.fresh("free") == "free"


def test_nothing_to_replace_gives_the_model_itself(net: Model) -> None:
    assert swap(net, []) is net


def test_the_float_graph_computes_the_same(net: Model, op) -> None:
    before = net.proto.SerializeToString()
    swapped = with_functions(net, op)
    assert net.proto.SerializeToString() == before
    assert tensors(net) - tensors(swapped) == {"c0", "c3"}
    assert tensors(swapped) <= tensors(net)  # nothing is renamed
    calls = {node.name: node.op_type for node in swapped.proto.graph.node if node.domain == DOMAIN}
    assert calls == {"first": "ConvRelu3", "last": "ConvRelu2"}
    onnx.checker.check_model(swapped.proto)
    for one, other in zip(outputs(net), outputs(swapped), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


def test_each_function_and_domain_is_there_once(net: Model, op, kit) -> None:
    swapped = with_functions(net, op)
    assert [function.name for function in swapped.proto.functions] == ["ConvRelu3", "ConvRelu2"]
    assert {entry.domain: entry.version for entry in swapped.proto.opset_import} == {"": 17, DOMAIN: 1}
    twice = with_functions(kit.made("""
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1, 4, 8, 8] x) => (float[1, 4, 8, 8] y) {
            a = Conv <pads = [1, 1, 1, 1]> (x, w)  b = Relu (a)
            c = Conv <pads = [1, 1, 1, 1]> (b, w)  y = Relu (c)
        }
        """, w=np.ones((4, 4, 3, 3), np.float32)), op)  # fmt: skip
    assert [node.op_type for node in twice.proto.graph.node] == ["ConvRelu2", "ConvRelu2"]
    assert [function.name for function in twice.proto.functions] == ["ConvRelu2"]


def test_functions_of_one_name_that_differ_are_refused(net: Model, op) -> None:
    def lowered(match: Match, operator: str) -> Lowered:
        body = [helper.make_node(operator, ["x"], ["y"])]
        function = function_proto("Same", ["x"], ["y"], body)
        return Lowered((call("Same", match.inputs[:1], match.outputs, match.at),), (), (function,))

    first, last = matches(net, op)
    with pytest.raises(ValueError, match="two functions trtforge::Same that differ"):
        swap(net, [(first, lowered(first, "Neg")), (last, lowered(last, "Abs"))])


def test_the_standard_opset_is_raised_under_either_of_its_names(net: Model, op) -> None:
    net.proto.opset_import[0].domain = "ai.onnx"
    first, _ = matches(net, op)
    node = helper.make_node("Relu", ["x"], ["r0"])
    swapped = swap(net, [(first, Lowered((node,), opsets={"": 18}))])
    assert [(entry.domain, entry.version) for entry in swapped.proto.opset_import] == [("ai.onnx", 18)]
    assert swap(net, [(first, Lowered((node,), opsets={"": 13}))]).proto.opset_import[0].version == 17


def test_weights_nobody_reads_go_with_their_entries(net: Model, op) -> None:
    """Old models list weights among the inputs too: one that goes must not become an input the caller has to give."""
    net.proto.graph.input.append(helper.make_tensor_value_info("w0", TensorProto.FLOAT, [4, 4, 3, 3]))
    net.proto.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [4, 4, 3, 3]))
    first, _ = matches(net, op)
    swapped = swap(net, [(first, Lowered((helper.make_node("Abs", ["x"], ["r0"]),)))])
    assert set(weights(swapped)) == {"w1", "w2", "w3"}
    assert [value.name for value in swapped.proto.graph.input] == ["x", "w1"]
    assert "c0" not in {value.name for value in swapped.proto.graph.value_info}
    assert "c1" in {value.name for value in swapped.proto.graph.value_info}


def test_functions_that_are_called_from_functions_and_subgraphs_stay(op, kit) -> None:
    model = kit.made(
        """
        <ir_version: 9, opset_import: ["": 17, "own": 1]>
        net (float[1, 1, 4, 4] x, bool b) => (float[1, 1, 4, 4] y, float[1, 1, 4, 4] z) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            y = Relu (c)
            z = If (b) <then_branch = yes () => (float[1, 1, 4, 4] a) { a = own.Outer (x) },
                        else_branch = no () => (float[1, 1, 4, 4] e) { e = Abs (x) }>
        }
        <domain: "own", opset_import: ["": 17, "own": 1]> Outer (v) => (o) { o = own.Inner (v) }
        <domain: "own", opset_import: ["": 17]> Inner (v) => (o) { o = Neg (v) }
        <domain: "own", opset_import: ["": 17]> Unused (v) => (o) { o = Exp (v) }
        """,
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    swapped = with_functions(model, op)
    assert {function.name for function in swapped.proto.functions} == {"Outer", "Inner", "ConvRelu2"}
    onnx.checker.check_model(swapped.proto)


def test_nodes_are_put_in_order(net: Model, op) -> None:
    swapped = with_functions(net, op)
    ready = {"x", *weights(swapped)}
    for node in swapped.proto.graph.node:
        assert ready.issuperset(node.input), node.name
        ready.update(node.output)


def test_pairs_inside_fall_away_in_the_qdq_graph(net: Model, table: ScaleTable, op, int8: Situation) -> None:
    graph, swapped = in_int8(net, table, op, int8)
    onnx.checker.check_model(swapped.proto)
    assert tensors(net) - tensors(swapped) == {"c0", "c3"}
    left = {node.op_type: 0 for node in graph.proto.graph.node}
    for node in swapped.proto.graph.node:
        left[node.op_type] = left.get(node.op_type, 0) + 1
    assert left["ConvReluInt8"] == 2 and left["Conv"] == 2 and left["Relu"] == 1
    read = {name for node in swapped.proto.graph.node for name in node.input} | {"y", "aux"}
    assert tensors(swapped) <= read  # no pair is left over whose result nobody reads
    assert set(weights(swapped)) <= read
    second = next(node for node in swapped.proto.graph.node if node.name == "second")
    assert second.input[0] == "r0_DequantizeLinear_Output"  # the pair behind the plugin is the graph's own
    kept = {name: value for name, value in weights(graph).items() if name in weights(swapped)}
    assert kept
    for name, value in kept.items():
        np.testing.assert_array_equal(weights(swapped)[name], value)


def test_a_plugin_quantizes_as_the_pairs_around_it_do(net: Model, table: ScaleTable, op, int8: Situation) -> None:
    """Bit for bit the scale of the graph's own pair, so that a value is rounded once."""
    graph, swapped = in_int8(net, table, op, int8)
    pairs = {node.input[0]: node for node in graph.proto.graph.node if node.op_type == "QuantizeLinear"}
    node = next(node for node in swapped.proto.graph.node if node.output[0] == "x_int8")
    theirs, ours = weights(graph)[pairs["x"].input[1]], weights(swapped)[node.input[1]]
    assert ours == theirs and ours.dtype == theirs.dtype == np.float32 and ours.shape == ()
    zero = weights(swapped)[node.input[2]]
    assert zero == 0 and zero.dtype == np.int8 and zero.shape == ()
    assert np.float32(scale_of("x", int8)) == theirs
    dead = Situation("tensorrt_rtx", "int8", "8.0", ranges={"x": 0.0})
    assert scale_of("x", dead) == 1.0


def test_new_names_are_new(net: Model, table: ScaleTable, op, int8: Situation) -> None:
    net.proto.graph.node[4].output[0] = "r0_int8"  # the name the lowering would like
    net.proto.graph.output[1].name = "r0_int8"
    _, swapped = in_int8(net, table, op, int8)
    assert {"r0_int8", "r0_int8_1"} <= tensors(swapped)
    onnx.checker.check_model(swapped.proto)
    names = Names({"a", "a_1"})
    assert [names.fresh("a"), names.fresh("a"), names.fresh("b")] == ["a_2", "a_3", "b"]
    assert names.weight("b", np.float32(2)) == "b_1"
    assert names.initializers[0].dims == []


def test_weights_in_files_are_not_read(net: Model, op, tmp_path) -> None:
    onnx.save(net.proto, tmp_path / "n.onnx", save_as_external_data=True, location="n.bin", size_threshold=0)
    proto = onnx.load(tmp_path / "n.onnx", load_external_data=False)
    (tmp_path / "n.bin").unlink()
    swapped = with_functions(Model(proto, tmp_path), op)
    assert swapped.folder == tmp_path
    stored = {tensor.name: tensor for tensor in swapped.proto.graph.initializer}
    assert set(stored) == {"w0", "b0", "w1", "w2", "w3"}
    assert all(tensor.data_location == TensorProto.EXTERNAL for tensor in stored.values())
    before = {tensor.name: tensor for tensor in proto.graph.initializer}
    assert all(stored[name] == before[name] for name in stored)


class TestForCompiler:
    """Definitions go, constants are packed; what else the graph has stays."""

    class Packing:
        """A kind as `for_compiler` sees it."""

        weights = 2
        fields = {"factor": "float"}  # noqa: RUF012

        def compile_weights(self, values, fields):
            return [np.concatenate([value.reshape(-1) for value in values]) * np.float32(fields["factor"])]

    @staticmethod
    def model(kit) -> Model:
        return kit.made(
            """
            <ir_version: 9, opset_import: ["": 17, "trtforge": 1]>
            net (float[2] x, bool b) => (float[2] y, float[2] z, float[2] shown) {
                y = trtforge.Scaled <factor = 3.0> (x, p, q)
                t = trtforge.Written (y)
                z = If (b) <then_branch = yes () => (float[2] a) { a = Add (t, inner) },
                            else_branch = no () => (float[2] e) { e = Identity (x) }>
            }
            <domain: "trtforge", opset_import: ["": 17]> Scaled <factor> (x, p, q) => (y) { y = Add (x, p) }
            <domain: "trtforge", opset_import: ["": 17]> Written (v) => (o) { o = Neg (v) }
            """,
            p=np.array([1, 2], np.float32),
            q=np.array([4], np.float32),
            inner=np.array([7, 8], np.float32),
            shown=np.array([5, 6], np.float32),
        )

    def test_the_plugin_is_left_to_the_parser(self, kit) -> None:
        model = self.model(kit)
        before = model.proto.SerializeToString()
        for_parser = for_compiler(model, {"Scaled": self.Packing()})
        assert model.proto.SerializeToString() == before
        assert [function.name for function in for_parser.proto.functions] == ["Written"]
        node = for_parser.proto.graph.node[0]
        assert node.input[0] == "x" and len(node.input) == 2
        np.testing.assert_array_equal(weights(for_parser)[node.input[1]], [3, 6, 12])
        # read by a subgraph only, and an output: both are still needed
        assert set(weights(for_parser)) == {node.input[1], "inner", "shown"}

    def test_without_a_plugin_it_is_the_model_itself(self, kit) -> None:
        model = self.model(kit)
        assert for_compiler(model, {"Other": self.Packing()}) is model

    def test_a_computed_weight_cannot_be_packed(self, kit) -> None:
        model = self.model(kit)
        model.proto.graph.node[0].input[2] = "x"
        with pytest.raises(ValueError, match="Scaled packs its weights, and 'x' is not a constant"):
            for_compiler(model, {"Scaled": self.Packing()})

    def test_new_weights_take_no_name_that_is_there(self, kit) -> None:
        model = self.model(kit)
        proto = ModelProto()
        proto.CopyFrom(model.proto)
        next(each for each in proto.graph.initializer if each.name == "shown").name = "trtforge_plugin_0_0"
        proto.graph.output[2].name = "trtforge_plugin_0_0"
        for_parser = for_compiler(Model(proto), {"Scaled": self.Packing()})
        assert for_parser.proto.graph.node[0].input[1] == "trtforge_plugin_0_0_1"
        np.testing.assert_array_equal(weights(for_parser)["trtforge_plugin_0_0"], [5, 6])
