"""Which structures become plugins on a target, and how: probed, decided once, recorded with every reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from trtforge.errors.graph import NoLowering, PluginsOverlap
from trtforge.graph.io import default_opset
from trtforge.graph.model import Model
from trtforge.graph.passes.registry import run
from trtforge.graph.passes.upgrade_opset import UpgradeOpset
from trtforge.graph.shapes import freeze_inputs
from trtforge.recipe.models import LoweringName
from trtforge.surgery.op import Lowered, Lowering, Op, Situation
from trtforge.surgery.rules import Match, NearMiss, View
from trtforge.surgery.swap import names_of, swap

Preferences = Mapping[str, tuple[LoweringName, ...]]
"""Op name -> lowerings in the recipe's order; an op it does not name has all of its own, ``plain`` last."""


@dataclass(frozen=True)
class Choice:
    """One match and what becomes of it. ``lowering`` None: ``plain``, the graph as it is.

    ``refused``: why each lowering that comes before the chosen one cannot serve, in order of preference.
    """

    op: Op
    match: Match
    lowering: Lowering | None
    refused: tuple[tuple[LoweringName, str], ...] = ()

    @property
    def lowering_name(self) -> LoweringName:
        return "plain" if self.lowering is None else self.lowering.name

    def to_json(self) -> dict[str, Any]:
        return {
            "plugin": self.op.name,
            "at": self.match.at,
            "outputs": list(self.match.outputs),
            "lowering": self.lowering_name,
            "refused": [{"lowering": name, "why": why} for name, why in self.refused],
        }


@dataclass(frozen=True)
class Plan:
    """What the rules found in one model for one target. ``nowhere``: plugins without a match, and a clause why."""

    choices: tuple[Choice, ...] = ()
    near: tuple[NearMiss, ...] = ()
    nowhere: Mapping[str, str] = field(default_factory=dict)

    @property
    def swapped(self) -> tuple[Choice, ...]:
        """The choices that change the graph."""
        return tuple(choice for choice in self.choices if choice.lowering is not None)

    def to_json(self) -> dict[str, Any]:
        """For reports: JSON-able, with every reason."""
        return {
            "matches": [choice.to_json() for choice in self.choices],
            "near_misses": [{"plugin": miss.rule, "at": miss.at, "why": miss.why} for miss in self.near],
            "nowhere": [{"plugin": name, "why": why} for name, why in self.nowhere.items()],
        }


def planned(
    model: Model,
    shapes: Mapping[str, Sequence[int]],
    ops: Sequence[Op],
    preferences: Preferences,
    situation: Situation,
) -> tuple[Plan, Model]:
    """The plan for a float model in the sizes the engine is built for, and the model in these sizes.

    ``shapes``: of the inputs. Raises what `choose` raises, and ONX errors of the shapes.
    """
    fixed = freeze_inputs(model, {name: tuple(shape) for name, shape in shapes.items()})
    shaped, _ = run(fixed, ["fold-constants", "infer-shapes"])  # sizes that exporters compute are constants now
    return choose(shaped, ops, preferences, situation), shaped


def choose(model: Model, ops: Sequence[Op], preferences: Preferences, situation: Situation) -> Plan:
    """Find each op's structure in a float model and choose how to lower it. The model is not changed.

    ``model`` has its shapes inferred for the sizes the engine is built for (``graph.shapes.freeze_inputs``).
    Raises PluginsOverlap, NoLowering; the errors of ``trtforge.graph.weights.read_tensor``.
    """
    view = View(model)
    choices: list[Choice] = []
    near: list[NearMiss] = []
    nowhere: dict[str, str] = {}
    owner: dict[str, Choice] = {}
    for op in ops:
        found = op.rule.find(view)
        near += found.near
        if found.nowhere:
            nowhere[op.name] = found.nowhere
        for match in found.matches:
            choice = _choice(op, match, view, preferences.get(op.name), situation)
            for tensor in sorted(match.swallowed):
                if choice.lowering is not None and tensor in owner:
                    raise _overlap(owner[tensor], choice, tensor)
            choices.append(choice)
            if choice.lowering is not None:
                owner.update(dict.fromkeys(match.swallowed, choice))
    return Plan(tuple(choices), tuple(near), nowhere)


def _choice(op: Op, match: Match, view: View, wanted: Sequence[LoweringName] | None, situation: Situation) -> Choice:
    offered = {lowering.name: lowering for lowering in op.lowerings}
    refused: list[tuple[LoweringName, str]] = []
    usual = [lowering.name for lowering in op.lowerings if not lowering.only_if_named]
    for name in wanted if wanted is not None else (*usual, "plain"):
        if name == "plain":
            return Choice(op, match, None, tuple(refused))
        if name not in offered:
            refused.append((name, f"{op.name} has no lowering {name!r}; it has {', '.join((*offered, 'plain'))}"))
        elif why := offered[name].refuses(match, view, situation):
            refused.append((name, why))
        else:
            return Choice(op, match, offered[name], tuple(refused))
    raise NoLowering(
        f"the plugin {op.name} at {match.at!r} cannot be built in any way the recipe allows",
        where=f"plugins.{op.name}",
        why="; ".join(f"{name}: {why}" for name, why in refused),
        next=f"append `plain` to `plugins.{op.name}` to leave the graph as it is there, or build for another target",
    )


def _overlap(first: Choice, second: Choice, tensor: str) -> PluginsOverlap:
    return PluginsOverlap(
        f"two plugins claim the node that makes {tensor!r}",
        where=f"surgery: {first.op.name}, {second.op.name}",
        why=f"{first.op.name} at {first.match.at!r} and {second.op.name} at {second.match.at!r} both replace it",
        next=f"remove one of them from `surgery`, or write `plugins: {{{second.op.name}: [plain]}}`",
    )


def apply(source: Model, graph: Model, plan: Plan, situation: Situation) -> tuple[Model, list[Lowered]]:
    """The chosen lowerings put into ``graph``: the float model the plan was made for, or the Q/DQ graph made of it.

    ``source``: that float model, where lowerings read weights and shapes.
    """
    view, names = View(source), names_of(graph)
    replacements = []
    for choice in plan.swapped:
        assert choice.lowering is not None
        names.initializers = []
        lowered = choice.lowering.lower(choice.match, view, situation, names)
        replacements.append((choice.match, lowered))
    made = [lowered for _, lowered in replacements]
    return swap(_with_opset(graph, made), replacements), made


def _with_opset(graph: Model, made: Sequence[Lowered]) -> Model:
    """The graph converted to the standard operators that the lowerings are written in."""
    needed = max((lowered.opsets.get("", 0) for lowered in made), default=0)
    if needed <= (default_opset(graph.proto) or 0):
        return graph
    return run(graph, [UpgradeOpset(needed)])[0]


def as_functions(model: Model, ops: Sequence[Op]) -> Model:
    """The float model with every match as a call of its function, which onnxruntime runs as it is."""
    from trtforge.graph.shapes import infer_shapes

    inferred = infer_shapes(model)
    view, names = View(inferred), names_of(model)
    replacements: list[tuple[Match, Lowered]] = []
    taken: set[str] = set()
    for op in ops:
        for match in op.rule.find(view).matches:
            if taken.isdisjoint(match.swallowed):
                taken |= match.swallowed
                names.initializers = []
                replacements.append((match, op.function(match, view, names)))
    return swap(model, replacements)
