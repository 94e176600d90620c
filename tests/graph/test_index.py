"""Producer, consumer and capture maps; ordering."""

from __future__ import annotations

from trtforge.graph.index import Index, captured_names, in_order, rename_tensors, subgraphs

BRANCHES = """
    <ir_version: 8, opset_import: ["": 17]>
    g (float[2] x, bool c) => (float[2] y) {
        k = Constant<value_ints = [1]>()
        v = Constant<value = float[2] {1, 2}>()
        r = Relu(x)
        y = If(c) <
            then_branch = p () => (float[2] t) { i = Neg(r)  t = Add(i, v) },
            else_branch = q () => (float[2] e) { e = If(c) <
                then_branch = p2 () => (float[2] t2) { t2 = Abs(x) },
                else_branch = q2 () => (float[2] e2) { e2 = Neg(r) }
            > }
        >
    }
"""


def test_captures_count_as_uses(parse) -> None:
    graph = parse(BRANCHES).proto.graph
    index = Index(graph)
    branch = graph.node[3]
    assert index.consumers_of("r") == [branch]
    assert index.consumers_of("x") == [graph.node[2], branch]
    assert index.only_consumer("r") is branch
    assert index.only_consumer("x") is None and index.only_consumer("y") is None
    assert [set(captured_names(inner)) for inner in subgraphs(branch)] == [{"r", "v"}, {"c", "x", "r"}]
    assert index.constant("v") is not None and index.constant("k") is None and index.constant("r") is None


def test_in_order_sorts_only_what_needs_it(parse) -> None:
    text = BRANCHES
    nodes = list(parse(text).proto.graph.node)
    assert in_order(nodes) == nodes
    moved = [nodes[3], nodes[1], nodes[0], nodes[2]]
    assert in_order(moved) == [nodes[2], nodes[1], nodes[3], nodes[0]]


def test_in_order_takes_long_chains_and_cycles(parse) -> None:
    body = " ".join(f"t{i + 1} = Neg(t{i})" for i in range(3000))
    nodes = list(
        parse(f'<ir_version: 8, opset_import: ["": 17]> g (float t0) => (float t3000) {{ {body} }}').proto.graph.node
    )
    assert in_order(nodes[::-1]) == nodes
    nodes[0].input[0] = "t3000"
    assert len(in_order(nodes)) == 3000


def test_rename_reaches_branches(parse) -> None:
    graph = parse(BRANCHES).proto.graph
    rename_tensors(graph, {"r": "renamed"})
    assert Index(graph).consumers_of("renamed") == [graph.node[3]]
    assert not Index(graph).consumers_of("r")
