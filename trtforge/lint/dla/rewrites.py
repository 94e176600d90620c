"""Surgery passes that bring a network closer to the DLA, and where in a recipe's list they belong."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtforge.graph.passes.registry import available
from trtforge.lint.dla.placement import VIEWS

if TYPE_CHECKING:
    from trtforge.lint.context import Context

SHAPES = ("upgrade-opset", "fold-constants", "infer-shapes")
"""What the others need before them: known sizes."""


@dataclass(frozen=True)
class Rewrite:
    """``operators``: it is worth a try where the graph has one of them. ``values``: it changes what is computed.

    ``judged`` False: what it brings is not seen in the placement, so that it helps wherever it applies.
    """

    name: str
    why: str
    operators: tuple[str, ...]
    values: bool = False
    judged: bool = True

    def concerns(self, context: Context) -> bool:
        return any(node.op_type in self.operators for node in context.active_nodes)


REWRITES = (
    Rewrite("global-average-pool", "the DLA averages with AveragePool only", ("GlobalAveragePool", "ReduceMean")),
    Rewrite("fc-as-conv", "the DLA keeps the layer in the loadable, without a view in front", ("Gemm", "MatMul")),
    Rewrite(
        "merge-sibling-convs", "one wider convolution for the heads of a scale", ("NonMaxSuppression",), judged=False
    ),
    Rewrite("relu6-to-relu", "the DLA fuses Relu with the convolution, and Clip not", ("Clip",), values=True),
)


def worth_trying(context: Context) -> list[Rewrite]:
    """Those that are not in the recipe's list yet and that the graph gives reason for."""
    return [one for one in REWRITES if one.name not in context.engine.surgery and one.concerns(context)]


def helps(rewrite: Rewrite, before: Context, after: Context) -> bool:
    """Whether the placement is better behind a rewrite. What costs more decides: a loadable is not saved by a layer."""
    return not rewrite.judged or _costs(after) < _costs(before)


def _costs(context: Context) -> tuple[int, int, int, int]:
    """What costs most first: layers off the DLA that do something, views that cut the network, loadables, tensors that
    no fusion keeps from being stored."""
    placement = context.placement
    off = [place for place in placement.places if place.reasons]
    views = [place for place in off if place.node.op_type in VIEWS]
    cutting = sum(place.cuts for place in views)
    return len(off) - len(views), cutting, placement.wanted, -sum(len(one.inside) for one in placement.fusions)


def merged(surgery: Sequence[str], more: Iterable[str]) -> list[str]:
    """A `surgery` list with more passes, each behind the last one that usually comes before it; plugins stay put."""
    usual = {name: position for position, name in enumerate(available())}
    result = list(surgery)
    for name in sorted(more, key=usual.__getitem__):
        if name not in result:
            before = [at for at, other in enumerate(result) if other in usual and usual[other] < usual[name]]
            result.insert(before[-1] + 1 if before else 0, name)
    return result


def with_shapes(names: Sequence[str]) -> list[str]:
    """The passes that a rewrite needs before it, added where they are missing."""
    return merged(names, SHAPES)
