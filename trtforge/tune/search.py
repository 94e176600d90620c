"""The search: every setting alone, then combinations of the best, one unit changed at a time.

Exhaustive search of three units with 24 settings each would be 15 625 measurements; this takes 48 alone and some dozens
together. It finds a combination that no change of one unit betters; that need not be the best of all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from trtforge.tune.space import Combination, Measured, Setting, Space, Unit

WORTH = 1.01
"""A combination must be better by this factor: below is noise."""

KEPT = 4
"""So many of a unit's settings, the best alone, are tried in combinations."""

Measure = Callable[[Combination], Measured]


def search(space: Space, measure: Measure) -> Measured | None:
    """The best combination found: that with the most samples a second, or, of those that noise cannot tell from it,
    that with the lowest p99. None when none runs within the latency.

    ``measure`` is called once for each combination, in an order that depends on results alone: a search that is begun
    again with the same measurements asks for the same.
    """
    seen: dict[Combination, Measured] = {}

    def noted(combination: Combination) -> Measured:
        seen[combination] = measured = measure(combination)
        return measured

    alone = _alone(space, noted)
    worth = {unit.name: _worth(space, unit, alone) for unit in space.units}
    for start in _starts(space, worth, alone):
        _climb(space, worth, noted, noted(start))
    allowed = [each for each in seen.values() if _allowed(space, each)]
    most = max((each.rate for each in allowed), default=0.0)
    return min((each for each in allowed if each.rate * WORTH >= most), key=lambda each: each.p99, default=None)


def _alone(space: Space, measure: Measure) -> dict[tuple[str, Setting], Measured]:
    """Each setting of one unit of each kind, with nothing else running."""
    return {
        (unit.like, setting): measure(Combination.of({unit.name: setting}))
        for unit in space.representatives()
        for setting in unit.settings
    }


def _worth(space: Space, unit: Unit, alone: dict[tuple[str, Setting], Measured]) -> list[Setting]:
    """The settings that are tried together: the best alone, and the best of each batch, so that small ones stay in."""
    ranked = sorted(
        (setting for setting in unit.settings if _allowed(space, alone[unit.like, setting])),
        key=lambda setting: -alone[unit.like, setting].rate,
    )
    by_batch = {setting.batch: setting for setting in reversed(ranked)}
    return list(dict.fromkeys([*ranked[:KEPT], *by_batch.values()]))


def _starts(
    space: Space, worth: dict[str, list[Setting]], alone: dict[tuple[str, Setting], Measured]
) -> Iterator[Combination]:
    """All units at their best, or at their quickest, for under a tight latency one unit leaves no time to the others;
    and each unit by itself: a fast unit may be better off without the others."""
    if any(worth.values()):
        yield Combination.of({name: chosen[0] for name, chosen in worth.items() if chosen})
    if space.latency is not None and any(worth.values()):
        like = {unit.name: unit.like for unit in space.units}
        yield Combination.of(
            {name: min(found, key=lambda each: alone[like[name], each].p99) for name, found in worth.items() if found}
        )
    for unit in space.representatives():
        if worth[unit.name]:
            yield Combination.of({unit.name: worth[unit.name][0]})


def _climb(space: Space, worth: dict[str, list[Setting]], measure: Measure, start: Measured) -> None:
    """Change one unit at a time, to another setting or to rest, as long as that is better."""
    best = start if _allowed(space, start) else None
    at, improved = start.combination, True
    while improved:
        improved = False
        for unit in space.units:
            for setting in (*worth[unit.name], None):
                combination = at.with_(unit.name, setting)
                if not combination.parts or combination == at:
                    continue
                tried = measure(combination)
                if _allowed(space, tried) and (best is None or tried.rate > best.rate * WORTH):
                    best, at, improved = tried, combination, True


def _allowed(space: Space, measured: Measured) -> bool:
    return not measured.problem and (space.latency is None or measured.p99 <= space.latency)
