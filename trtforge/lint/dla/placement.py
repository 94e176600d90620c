"""Which node of the float graph runs on the DLA, which on the GPU and why, and the loadables that this makes.

An estimate: `can_run_on_DLA` of the device's own TensorRT has the last word. It is the one that follows from what
NVIDIA documents about layers, and from what build logs show of how TensorRT cuts a network. Two examples that it
reproduces, both TensorRT 10.3 on AGX Orin: a ResNet-50 with GlobalAveragePool and Flatten in front of its Gemm makes
two loadables, the trunk and the Gemm; a DETR fills the 16 loadables of a core, and the GPU gets the rest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from trtforge.graph.index import used_names
from trtforge.graph.labels import first_output, label
from trtforge.lint.dla.fusions import Fusion, expected
from trtforge.lint.dla.grouping import convex_groups
from trtforge.lint.dla.obstacle import Obstacle
from trtforge.lint.dla.obstacles import IGNORED, obstacles
from trtforge.lint.dla.precision import precision_of, remark
from trtforge.lint.dla.sizes import WEIGHTED, Precision, tensor_bytes, weight_bytes
from trtforge.targets.dla_layers import READ_FOR
from trtforge.targets.load import dla_support, version_tuple

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

Device = Literal["dla", "gpu", "refused", "folded"]
"""``refused``: not on the DLA, and GPU fallback is off. ``folded``: known when the engine is built."""

LOADABLES: tuple[tuple[tuple[int, ...], int], ...] = (((8, 4), 16), ((8, 0), 4))
"""Loadables a core holds at once, from a TensorRT on, newest first (documented: 8.2's guide has 4, 8.4's has 16)."""

READ_UP_TO = (10, 3)

VIEWS = ("Flatten", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class NodePlace:
    """``loadable``: its number, from 1. ``precision``: what a DLA node computes in. ``reasons``: all that keeps it off
    the DLA. ``doubts``: what may keep it off, and was not enough to say so. ``cuts``: it lies between DLA nodes.
    ``remark``: what is to be known of its precision, may be empty.
    """

    node: NodeProto
    device: Device
    loadable: int | None = None
    precision: Precision | None = None
    reasons: tuple[Obstacle, ...] = ()
    doubts: tuple[Obstacle, ...] = ()
    cuts: bool = False
    remark: str = ""

    @property
    def name(self) -> str:
        return label(self.node)

    @property
    def idle(self) -> bool:
        """A view at an end of the network, which the GPU has for nothing: no finding is about it."""
        return self.device == "gpu" and self.node.op_type in VIEWS and not self.cuts

    @property
    def why(self) -> Obstacle | None:
        """What keeps it off the DLA, of several the one to say."""
        return self.reasons[0] if self.reasons else None

    @property
    def reason(self) -> str:
        """Why it is not on the DLA, or what is to be known of it there; a clause, may be empty."""
        if self.device == "folded":
            return "" if self.node.op_type in IGNORED else "known when the engine is built"
        if self.why is not None:
            return self.why.sentence + ("; no finding: at an end of the network it moves no data" if self.idle else "")
        said = [self.remark] if self.remark else []
        return "; ".join([*said, *(f"may fall back: {doubt.sentence}" for doubt in self.doubts)])

    def to_json(self) -> dict[str, Any]:
        return {
            "node": self.name,
            "output": first_output(self.node),
            "op": self.node.op_type,
            "device": self.device,
            "loadable": self.loadable,
            "precision": self.precision,
            "cuts": self.cuts,
            "why": [reason.to_json() for reason in self.reasons],
            "doubts": [doubt.to_json() for doubt in self.doubts],
        }


@dataclass(frozen=True)
class Loadable:
    """One piece of the network that the DLA's compiler compiles. Bytes are estimates in the loadable's precision.

    ``largest``, ``total``: of the tensors that stay inside and are stored; ``total`` counts each for itself. None where
    the size of one is not known.
    """

    number: int
    nodes: tuple[NodeProto, ...]
    weights: int
    largest: int | None
    total: int | None
    batch: int | None

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "nodes": len(self.nodes),
            "first": label(self.nodes[0]),
            "last": label(self.nodes[-1]),
            "weight_bytes": self.weights,
            "largest_tensor_bytes": self.largest,
            "internal_bytes": self.total,
            "batch": self.batch,
        }


@dataclass(frozen=True)
class Placement:
    """``limit``: loadables a core holds. ``wanted``: how many the network would make without it."""

    places: tuple[NodePlace, ...]
    loadables: tuple[Loadable, ...]
    fusions: tuple[Fusion, ...]
    limit: int
    wanted: int
    note: str

    @cached_property
    def by_node(self) -> dict[int, NodePlace]:
        """By the id of the node, for nodes of the context's graph."""
        return {id(place.node): place for place in self.places}

    def of(self, node: NodeProto) -> NodePlace | None:
        """None for a node inside the body of a control flow operator: it goes with that one."""
        return self.by_node.get(id(node))

    def together(self, one: NodeProto, other: NodeProto) -> bool:
        """Whether both are in one loadable."""
        places = [self.of(node) for node in (one, other)]
        numbers = {None if place is None else place.loadable for place in places}
        return len(numbers) == 1 and None not in numbers

    @property
    def counts(self) -> dict[str, int]:
        """Nodes by device."""
        return dict(Counter(place.device for place in self.places))

    @property
    def weighted(self) -> tuple[int, int]:
        """Layers with weights or products, on the DLA and in all: what the arithmetic of a network is in."""
        layers = [place for place in self.places if place.device != "folded" and place.node.op_type in WEIGHTED]
        return sum(place.device == "dla" for place in layers), len(layers)

    def to_json(self) -> dict[str, Any]:
        return {
            "note": self.note,
            "limit": self.limit,
            "wanted": self.wanted,
            "nodes": [place.to_json() for place in self.places],
            "loadables": [loadable.to_json() for loadable in self.loadables],
            "fusions": [fusion.to_json() for fusion in self.fusions],
        }


def place(context: Context) -> Placement:
    """The placement of the context's graph on its DLA target. Raises ONX errors where a constant cannot be read."""
    nodes = list(context.model.proto.graph.node)
    active = {id(node) for node in context.active_nodes}
    off: dict[int, tuple[Obstacle, ...]] = {}
    doubts: dict[int, tuple[Obstacle, ...]] = {}
    unavailable = _unavailable(context)
    for node in context.active_nodes:
        if node.op_type in IGNORED:
            continue
        found = (unavailable,) if unavailable is not None else tuple(obstacles(context, node))
        doubts[id(node)] = tuple(one for one in found if not one.certain)
        if deciding := tuple(one for one in found if one.certain):
            off[id(node)] = deciding

    bound = _limit(context.tensorrt)
    groups = _groups(context, nodes, active, off)
    wanted = len({group for group in groups if group is not None})
    for node, group in zip(nodes, groups, strict=True):
        if group is not None and group >= bound:
            why = f"the core's {bound} loadables are taken by what comes before it"
            fix = "fewer cuts: see the layers in between"
            off[id(node)] = (Obstacle("limit", why, "observed", "8.5 to 10.3", fix),)
    groups = [None if group is not None and group >= bound else group for group in groups]

    cutting = _cutting(nodes, groups)
    fallback: Device = "gpu" if context.gpu_fallback else "refused"
    places = []
    for node, group in zip(nodes, groups, strict=True):
        if id(node) not in active or (node.op_type in IGNORED and group is None):
            places.append(NodePlace(node, "folded"))
        elif group is not None:
            precision = precision_of(context, node)
            said = remark(context, node, precision)
            places.append(NodePlace(node, "dla", group + 1, precision, doubts=doubts.get(id(node), ()), remark=said))
        else:
            places.append(NodePlace(node, fallback, reasons=off[id(node)], cuts=id(node) in cutting))
    return _measured(context, tuple(places), bound, wanted)


def _unavailable(context: Context) -> Obstacle | None:
    """No DLA at all with this TensorRT; a range of versions is not judged."""
    if context.tensorrt is not None and version_tuple(context.tensorrt) is None:
        return None
    supported, why = dla_support(context.target.key, context.tensorrt, context.jetpack)
    if supported:
        return None
    fix = f"another TensorRT, or target: {context.target.device}/gpu"
    return Obstacle("unavailable", why, versions=context.tensorrt or "of this JetPack", fix=fix)


def _limit(tensorrt: str | None) -> int:
    version = version_tuple(tensorrt or "")
    if version is None:
        return LOADABLES[0][1]
    return next((most for since, most in LOADABLES if version >= since[: len(version)]), LOADABLES[-1][1])


def _groups(context: Context, nodes: list[NodeProto], active: set[int], off: Collection[int]) -> list[int | None]:
    """The loadable of each node, from 0; nodes that TensorRT drops connect their neighbours and are in none."""
    makers: dict[str, list[int]] = {}
    predecessors: list[list[int]] = []
    for number, node in enumerate(nodes):
        sources = list(dict.fromkeys(source for name in used_names(node) for source in makers.get(name, ())))
        predecessors.append(sources)
        passing = node.op_type in IGNORED and id(node) in active
        for name in node.output:
            makers[name] = sources if passing else [number] if id(node) in active else []
    chosen = [id(node) in active and id(node) not in off and node.op_type not in IGNORED for node in nodes]
    return convex_groups(predecessors, chosen, [_batch(context, node) for node in nodes])


def _batch(context: Context, node: NodeProto) -> int | None:
    """The DLA's batch: all that is left of C, H and W, or the first axis of a tensor that has fewer."""
    shape = context.shape(node.output[0]) if node.output else None
    if not shape:
        return None
    return prod(shape[:-3]) if len(shape) > 3 else shape[0]


def _cutting(nodes: list[NodeProto], groups: list[int | None]) -> set[int]:
    """Nodes that the DLA waits for and that wait for the DLA."""
    behind: set[str] = set()
    after: set[int] = set()
    for node, group in zip(nodes, groups, strict=True):
        reached = any(name in behind for name in used_names(node))
        if reached:
            after.add(id(node))
        if reached or group is not None:
            behind.update(node.output)
    before: set[str] = set()
    result = set()
    for node, group in zip(reversed(nodes), reversed(groups), strict=True):
        waited = any(name in before for name in node.output if name)
        if waited and group is None and id(node) in after:
            result.add(id(node))
        if waited or group is not None:
            before.update(used_names(node))
    return result


def _measured(context: Context, places: tuple[NodePlace, ...], bound: int, wanted: int) -> Placement:
    """The placement with its loadables weighed; tensors inside a fusion are never stored."""
    bare = Placement(places, (), (), bound, wanted, _note(context))
    fusions = tuple(expected(context, bare.together))
    fused = {name for fusion in fusions for name in fusion.inside}
    pieces: dict[int, list[NodePlace]] = {}
    for one in places:
        if one.loadable is not None:
            pieces.setdefault(one.loadable, []).append(one)
    loadables = tuple(_weighed(context, number, members, bare, fused) for number, members in sorted(pieces.items()))
    return Placement(places, loadables, fusions, bound, wanted, bare.note)


def _weighed(
    context: Context, number: int, members: list[NodePlace], placement: Placement, fused: set[str]
) -> Loadable:
    weights, inside, known = 0, [], True
    for one in members:
        assert one.precision is not None  # it is in a loadable
        weights += weight_bytes(context, one.node, one.precision)
        for name in one.node.output:
            readers = context.index.consumers_of(name)
            leaves = name in context.index.outputs or not all(placement.together(one.node, user) for user in readers)
            shape = context.shape(name)
            if name and not leaves and name not in fused:
                known = known and shape is not None
                inside.append(tensor_bytes(shape or (), one.precision))
    batch = next((found for one in members if (found := _batch(context, one.node)) is not None), None)
    largest, total = (max(inside, default=0), sum(inside)) if known else (None, None)
    return Loadable(number, tuple(one.node for one in members), weights, largest, total, batch)


def _note(context: Context) -> str:
    """What the table of layers was read for, when that is not this version."""
    version = version_tuple(context.tensorrt or "")
    if version is not None and version[:2] > READ_UP_TO and _unavailable(context) is None:
        return f"the table of layers was read for TensorRT {READ_FOR}; that {context.tensorrt} is alike is assumed"
    return ""
