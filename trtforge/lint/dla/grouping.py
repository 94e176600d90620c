"""Cutting a graph into connected pieces that can each run as one call: maximal convex groups of the nodes chosen.

A group runs when all its inputs are there, and its outputs are there when all of it has run. So no path may lead out
of a group and back into it: the node between would wait for the group, and the group for the node.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence


def convex_groups(
    predecessors: Sequence[Sequence[int]], chosen: Sequence[bool], alike: Sequence[Hashable | None]
) -> list[int | None]:
    """The number of each node's group, groups numbered by their first node; None for nodes that are not chosen.

    ``predecessors``: for each node, in topological order, the nodes it reads. ``alike``: nodes with different values
    are never in one group; None goes with any. Each node joins its predecessors' groups one after another, wherever
    that closes no cycle; so no two neighbouring groups of the result could be one.
    """
    groups = _Groups(predecessors)
    for node, sources in enumerate(predecessors):
        if not chosen[node]:
            continue
        groups.kind[node] = alike[node]
        for source in sources:
            if chosen[source]:
                groups.join(groups.of[source], groups.of[node])
    numbers: dict[int, int] = {}
    result: list[int | None] = []
    for node, wanted in enumerate(chosen):
        result.append(numbers.setdefault(groups.of[node], len(numbers)) if wanted else None)
    return result


class _Groups:
    """Every node is a group at first. Groups are known by one of their nodes."""

    def __init__(self, predecessors: Sequence[Sequence[int]]) -> None:
        self.before = [set(sources) for sources in predecessors]
        self.of = list(range(len(predecessors)))
        self.members = [[node] for node in range(len(predecessors))]
        self.kind: list[Hashable | None] = [None] * len(predecessors)
        self.first = list(range(len(predecessors)))
        self.last = list(range(len(predecessors)))

    def join(self, first: int, second: int) -> None:
        """Make one group of two, unless they are of different kinds or a path between them leads through a third."""
        kinds = {self.kind[first], self.kind[second]} - {None}
        if first == second or len(kinds) > 1:
            return
        if self._detour(first, second) or self._detour(second, first):
            return
        if len(self.members[first]) < len(self.members[second]):
            first, second = second, first
        for node in self.members[second]:
            self.of[node] = first
        self.members[first] += self.members[second]
        self.members[second] = []
        self.before[first] |= self.before[second]
        self.before[second] = set()
        self.kind[first] = next(iter(kinds), None)
        self.first[first] = min(self.first[first], self.first[second])
        self.last[first] = max(self.last[first], self.last[second])

    def _detour(self, start: int, end: int) -> bool:
        """Whether a path leads from one group to another through a third: a search backwards from the end."""
        seen = {end}
        waiting = [group for group in self._sources(end) if group != start]
        while waiting:
            group = waiting.pop()
            if group in seen or self.last[group] < self.first[start]:  # nothing earlier can come behind the start
                continue
            seen.add(group)
            for source in self._sources(group):
                if source == start:
                    return True
                waiting.append(source)
        return False

    def _sources(self, group: int) -> set[int]:
        """The groups that a group reads. They are kept, as looking through its nodes each time takes too long."""
        self.before[group] = {self.of[source] for source in self.before[group]} - {group}
        return self.before[group]
