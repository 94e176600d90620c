"""Walking a graph, and the three ways a rule can end."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from trtforge.graph.model import Model
from trtforge.surgery.rules import Match, Near, NotHere, Rule, View, attribute, is_op, label


def test_a_rule_finds_says_nearly_or_says_nothing(net: Model, op) -> None:
    found = op.rule.find(View(net))
    assert [(match.at, match.inputs, match.outputs, match.inner) for match in found.matches] == [
        ("first", ("x", "w0", "b0"), ("r0",), ("c0",)),
        ("last", ("s2", "w3"), ("y",), ("c3",)),
    ]
    assert found.matches[0].swallowed == {"c0", "r0"}
    (near,) = found.near
    assert near.sentence == "conv-relu: at 'second': the tensor 'c1' inside it has a second consumer 'side'"


def test_names_do_not_matter(net: Model, op) -> None:
    """The same graph with every node and tensor called something else has the same matches."""
    from trtforge.graph.index import rename_tensors

    proto = onnx.ModelProto()
    proto.CopyFrom(net.proto)
    names = [name for node in proto.graph.node for name in (*node.input, *node.output)]
    rename_tensors(proto.graph, {name: f"t{number}" for number, name in enumerate(dict.fromkeys(names))})
    for node in proto.graph.node:
        node.name = ""
    renamed = op.rule.find(View(Model(proto)))
    assert len(renamed.matches) == 2 and len(renamed.near) == 1
    assert renamed.matches[0].at == proto.graph.node[0].output[0]  # a node without a name goes by its output


def test_what_leaves_the_structure_is_nearly_it(net: Model) -> None:
    view = View(net)
    conv, relu = view.nodes("Conv")[0], view.nodes("Relu")[0]
    assert view.closed([conv, relu], ["r0"]) == ("c0",)
    with pytest.raises(Near, match="'r0' inside it has a second consumer 'second'"):
        view.closed([conv, relu], [])
    net.proto.graph.output.append(helper.make_tensor_value_info("c0", TensorProto.FLOAT, None))
    with pytest.raises(Near, match="'c0' inside it is an output of the graph"):
        View(net).closed([conv, relu], ["r0"])


def test_a_subgraph_that_captures_a_tensor_is_a_consumer(kit, op) -> None:
    model = kit.made(
        """
        <ir_version: 8, opset_import: ["": 17]>
        net (float[1, 1, 4, 4] x, bool b) => (float[1, 1, 4, 4] y, float[1, 1, 4, 4] z) {
            c = Conv <pads = [1, 1, 1, 1]> (x, w)
            y = Relu (c)
            [choice] z = If (b) <then_branch = yes () => (float[1, 1, 4, 4] a) { a = Neg (c) },
                                 else_branch = no () => (float[1, 1, 4, 4] e) { e = Abs (x) }>
        }
        """,
        w=np.ones((1, 1, 3, 3), np.float32),
    )
    found = op.rule.find(View(model))
    assert found.matches == ()
    assert found.near[0].why == "the tensor 'c' inside it has a second consumer 'choice'"


def test_a_graph_the_rule_cannot_look_at(net: Model, kit) -> None:
    class Refusing(kit.ConvReluRule):
        def requires(self, view: View) -> str:
            return f"opset 20 is needed, and the graph has {view.opset}"

    (near,) = Refusing().find(View(net)).near
    assert near.sentence == "conv-relu: at 'conv-relu': opset 20 is needed, and the graph has 17"


def test_why_a_structure_is_nowhere(net: Model, kit, op) -> None:
    assert op.rule.find(View(net)).nowhere == ""

    class Away(kit.ConvReluRule):
        begins: ClassVar[str] = "Conv"
        anchored: ClassVar[tuple[str, ...]] = ("Conv",)

        def anchors(self, view: View):
            return view.nodes(*self.anchored)

        def match(self, anchor, view: View) -> Match:
            if anchor.name == "first":
                raise NotHere
            view.made_by(anchor.input[0], "Abs", "Neg")
            raise NotHere

    rule, view = Away(), View(net)
    conv = view.nodes("Conv")[1]
    before = view.index.producer(conv.input[0])
    others = len(view.nodes("Conv")) - 1
    assert rule.find(view).nowhere == (
        f"the Conv {label(conv)!r} does not belong to one: {before.op_type} {label(before)!r} is where Abs or Neg "
        f"would be; nor do {others} others"
    )
    rule.anchored = ("Softmax",)
    assert rule.find(view).nowhere == "the graph has no Conv"


def test_a_tensor_goes_to_the_first_match_only(net: Model) -> None:
    class Pair(Rule):
        """A node and the one behind it."""

        name: ClassVar[str] = "pair"

        def anchors(self, view):
            return view.graph.node

        def match(self, anchor, view):
            behind = view.readers(anchor.output[0])
            if len(behind) != 1:
                raise NotHere
            (result,) = behind[0].output
            return Match("pair", label(anchor), (), (result,), (anchor.output[0],))

    matches = Pair().find(View(net)).matches
    taken = [name for match in matches for name in match.swallowed]
    assert len(taken) == len(set(taken))
    assert [match.at for match in matches] == ["first", "second_relu", "sigmoid"]


def test_constants_in_every_place(tmp_path) -> None:
    """An initializer, one in a file, a Constant node; and what is none of them."""
    outside = np.arange(2000, dtype=np.float32)
    nodes = [
        helper.make_node("Constant", [], ["three"], value=numpy_helper.from_array(np.array([3.0], np.float32))),
        helper.make_node("Mul", ["x", "three"], ["m"]),
        helper.make_node("Add", ["m", "outside"], ["y"]),
    ]
    info = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [2000]) for name in "xy"]
    graph = helper.make_graph(nodes, "n", info[:1], info[1:], [numpy_helper.from_array(outside, "outside")])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "n.onnx", save_as_external_data=True, location="n.bin", size_threshold=0)
    proto = onnx.load(tmp_path / "n.onnx", load_external_data=False)
    view = View(Model(proto, tmp_path))
    assert view.constant_shape("outside") == view.shape("outside") == (2000,)
    assert view.scalar("three") == 3.0
    assert view.scalar("outside") is None
    np.testing.assert_array_equal(view.value("outside"), outside)
    assert view.value("m") is view.constant_shape("m") is view.scalar("m") is None
    assert view.shape("x") == (2000,) and view.shape("m") is None  # shapes are those the model states
    (tmp_path / "n.bin").unlink()
    assert View(Model(proto, tmp_path)).constant_shape("outside") == (2000,)  # not read


def test_producers_and_attributes(net: Model) -> None:
    view = View(net)
    assert label(view.made_by("r0", "Relu", "Clip")) == "first_relu"
    for tensor, operator in (("r0", "Conv"), ("x", "Relu"), ("w0", "Constant")):
        with pytest.raises(NotHere):
            view.made_by(tensor, operator)
    foreign = helper.make_node("Relu", ["a"], ["b"], domain="com.microsoft", mode="slow", factors=[1, 2], ratio=0.5)
    assert not is_op(foreign, "Relu")
    assert [attribute(foreign, name) for name in ("mode", "factors", "ratio")] == ["slow", [1, 2], 0.5]
    assert attribute(foreign, "epsilon") is None and attribute(foreign, "epsilon", 1e-5) == 1e-5
