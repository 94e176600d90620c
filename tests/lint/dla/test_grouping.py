"""Convex groups: whatever the graph, each can run as one call, and no two neighbours could be one."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trtforge.lint.dla.grouping import convex_groups


def groups(edges: dict[int, list[int]], chosen: str, alike: dict[int, int] | None = None) -> list[int | None]:
    """``chosen``: a letter a node, d for those chosen."""
    kinds = [(alike or {}).get(node) for node in range(len(chosen))]
    return convex_groups([edges.get(node, []) for node in range(len(chosen))], [one == "d" for one in chosen], kinds)


@pytest.mark.parametrize(
    ("edges", "chosen", "expected"),
    [
        ({}, "", []),
        ({1: [0], 2: [1]}, "ddd", [0, 0, 0]),
        ({1: [0], 2: [1]}, "dgd", [0, None, 1]),
        ({1: [0], 2: [0], 3: [1, 2]}, "dddd", [0, 0, 0, 0]),
        # around a node on the GPU leads a second way: the join waits for it, so it is no part of the first group
        ({1: [0], 2: [0], 3: [1, 2]}, "dgdd", [0, None, 0, 1]),
        # the GPU's node does not wait for the group, so there is no way back
        ({2: [0, 1]}, "gdd", [None, 0, 0]),
        ({1: [0], 2: [0]}, "gdd", [None, 0, 1]),
        # two that do not know each other become one where they meet
        ({2: [0, 1]}, "ddd", [0, 0, 0]),
    ],
)
def test_groups(edges: dict[int, list[int]], chosen: str, expected: list[int | None]) -> None:
    assert groups(edges, chosen) == expected


def test_another_batch_is_another_group() -> None:
    assert groups({1: [0], 2: [1]}, "ddd", {0: 1, 1: 1, 2: 2}) == [0, 0, 1]
    assert groups({1: [0], 2: [1]}, "ddd", {0: 1, 2: 1}) == [0, 0, 0], "an unknown one goes with any"
    assert groups({2: [0, 1]}, "ddd", {0: 1, 1: 2}) == [0, 1, 0]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[list[list[int]], list[bool]]:
    count = draw(st.integers(0, 14))
    sources = [
        draw(st.lists(st.integers(0, node - 1), unique=True, max_size=3)) if node else [] for node in range(count)
    ]
    return sources, draw(st.lists(st.booleans(), min_size=count, max_size=count))


@given(graphs())
def test_every_group_can_run_as_one_call(graph: tuple[list[list[int]], list[bool]]) -> None:
    sources, chosen = graph
    found = convex_groups(sources, chosen, [None] * len(sources))
    assert [group is not None for group in found] == chosen
    assert not cyclic(sources, found)


@given(graphs())
def test_no_two_neighbours_could_be_one(graph: tuple[list[list[int]], list[bool]]) -> None:
    sources, chosen = graph
    found = convex_groups(sources, chosen, [None] * len(sources))
    numbers = {
        (found[source], found[node])
        for node, reads in enumerate(sources)
        for source in reads
        if found[source] != found[node] and None not in (found[source], found[node])
    }
    for first, second in numbers:
        joined = [first if group == second else group for group in found]
        assert cyclic(sources, joined), f"{first} and {second} could be one"


def cyclic(sources: list[list[int]], found: list[int | None]) -> bool:
    """Whether the graph of the groups has a cycle, by trying to put it in order."""
    names = [("group", group) if group is not None else ("node", node) for node, group in enumerate(found)]
    needs = {name: set() for name in names}
    for node, reads in enumerate(sources):
        needs[names[node]] |= {names[source] for source in reads} - {names[node]}
    for _ in range(len(needs)):
        ready = [name for name, waiting in needs.items() if not waiting]
        for name in ready:
            del needs[name]
        for waiting in needs.values():
            waiting.difference_update(ready)
    return bool(needs)


def test_the_nodes_of_a_group_are_looked_through_once() -> None:
    """Each node is read a fixed number of times, however long the network is."""
    reads = 0

    class Counted(list[int]):
        def __iter__(self):
            nonlocal reads
            reads += 1
            return super().__iter__()

    count = 2000
    sources = [Counted(range(max(0, node - 3), node)) for node in range(count)]
    assert set(convex_groups(sources, [True] * count, [None] * count)) == {0}
    assert reads <= 4 * count


def test_long_networks_are_no_matter() -> None:
    count = 3000
    sources = [[] if node == 0 else [node - 1, max(0, node - 3)] for node in range(count)]
    chosen = [node % 7 != 0 for node in range(count)]
    found = convex_groups(sources, chosen, [None] * count)
    assert len(set(found) - {None}) == len(list(itertools.filterfalse(lambda node: node % 7, range(count))))
