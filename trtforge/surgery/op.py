"""What a plugin is to trtforge: one meaning, written as an ONNX function, and the ways to lower it for a target."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from onnx import FunctionProto, NodeProto, TensorProto, helper, numpy_helper

from trtforge.graph.passes.base import Pass
from trtforge.recipe.models import LoweringName
from trtforge.surgery.rules import Array, Match, Rule, View

__all__ = [
    "DOMAIN",
    "DOMAIN_VERSION",
    "Creator",
    "Lowered",
    "Lowering",
    "LoweringName",
    "Names",
    "Op",
    "Plugin",
    "Ranges",
    "Situation",
    "call",
    "function_proto",
    "missing_range",
    "stock_missing",
    "why_not_ours",
]

DOMAIN = "trtforge"
"""Domain of the functions, and namespace of our TensorRT plugins."""

DOMAIN_VERSION = 1

Ranges = Mapping[str, float]
"""Tensor name -> amax, the largest absolute value calibration saw."""


@dataclass(frozen=True)
class Creator:
    """A plugin in a TensorRT registry."""

    name: str
    version: str
    namespace: str = ""


@dataclass(frozen=True)
class Situation:
    """What a lowering may ask about the build. ``creators``: the registry's plugins; ``probed``: it was asked itself
    (else the list is what that release is documented to have). ``ranges`` is None without INT8."""

    backend: str
    precision: str
    sm: str | None
    dla: bool = False
    tensorrt: str | None = None
    creators: frozenset[Creator] = frozenset()
    probed: bool = False
    ranges: Ranges | None = None


@dataclass(frozen=True)
class Lowered:
    """Nodes that take the place of a match, in order, with all they need.

    They read the match's ``inputs`` and make its ``outputs``; every other tensor they make is new (``Names``).
    ``plugin``: what the engine's manifest says about a TensorRT plugin among them.
    """

    nodes: tuple[NodeProto, ...]
    initializers: tuple[TensorProto, ...] = ()
    functions: tuple[FunctionProto, ...] = ()
    opsets: Mapping[str, int] = field(default_factory=dict)
    plugin: Plugin | None = None


@dataclass(frozen=True)
class Plugin:
    """One plugin node: its creator, its op's folder (""; stock plugins have none) and its fields, JSON-able, long
    arrays as digests."""

    creator: Creator
    op: str
    fields: Mapping[str, Any]


class Names:
    """New tensor names, and weights under them, for one replacement."""

    def __init__(self, taken: set[str]) -> None:
        self._taken = taken
        self.initializers: list[TensorProto] = []

    def fresh(self, wish: str) -> str:
        name, number = wish, 1
        while name in self._taken:
            name, number = f"{wish}_{number}", number + 1
        self._taken.add(name)
        return name

    def weight(self, wish: str, values: Array) -> str:
        """A new initializer; returns its name. Scalars stay rank 0."""
        name = self.fresh(wish)
        self.initializers.append(numpy_helper.from_array(np.asarray(values), name))
        return name


class Lowering(ABC):
    """One way to compute the meaning on a target."""

    name: ClassVar[LoweringName]
    only_if_named: ClassVar[bool] = False
    """Chosen only where the recipe names it: what it needs cannot be seen from here."""

    @abstractmethod
    def refuses(self, match: Match, view: View, situation: Situation) -> str:
        """A sentence why this lowering cannot serve this match in this situation, "" when it can."""

    @abstractmethod
    def lower(self, match: Match, view: View, situation: Situation, names: Names) -> Lowered:
        """Called only when ``refuses`` returned "". In INT8 the nodes begin with QuantizeLinear and end with
        DequantizeLinear, so that the graph around them stays float."""


class Op(ABC):
    """A plugin of ours: its rule, its function, its lowerings in order of preference.

    ``plain``, the graph as it is, needs no class: it always works and comes last.
    """

    name: ClassVar[str]
    rule: ClassVar[Rule]
    lowerings: ClassVar[tuple[Lowering, ...]] = ()
    before: ClassVar[Pass | None] = None
    """A float pass that runs in the op's place of `surgery`, before calibration: it makes the plain form of the op."""

    @property
    def summary(self) -> str:
        """The first sentence of the class docstring: what it replaces."""
        return inspect.cleandoc(type(self).__doc__ or "").split("\n\n")[0].replace("\n", " ")

    @property
    def offers(self) -> tuple[LoweringName, ...]:
        """Lowerings by name, in order of preference."""
        return (*(lowering.name for lowering in self.lowerings), "plain")

    @abstractmethod
    def function(self, match: Match, view: View, names: Names) -> Lowered:
        """The match as one call of a model-local function in float: the op's meaning, which onnxruntime runs."""


def call(operator: str, inputs: Sequence[str], outputs: Sequence[str], name: str, **attributes: Any) -> NodeProto:
    """A node of our domain."""
    return helper.make_node(operator, list(inputs), list(outputs), name=name, domain=DOMAIN, **attributes)


def function_proto(
    operator: str,
    inputs: Sequence[str],
    outputs: Sequence[str],
    nodes: Iterable[NodeProto],
    *,
    attributes: Sequence[str] = (),
    opset: int = 18,
    doc: str = "",
) -> FunctionProto:
    """A function of our domain whose body is standard ONNX."""
    function = helper.make_function(
        DOMAIN,
        operator,
        list(inputs),
        list(outputs),
        list(nodes),
        [helper.make_opsetid("", opset)],
        list(attributes),
    )
    function.doc_string = doc
    return function


def missing_range(match: Match, situation: Situation) -> str:
    """A sentence that names a tensor without a range, of those the INT8 form needs; "" before there are any ranges."""
    lacking = [name for name in match.ranges if situation.ranges is not None and name not in situation.ranges]
    more = f", and {len(lacking) - 1} more" if len(lacking) > 1 else ""
    return f"calibration has no range for the tensor {lacking[0]!r} inside it{more}" if lacking else ""


def why_not_ours(situation: Situation, precisions: Sequence[str]) -> str:
    """A sentence why a TensorRT plugin of ours cannot be built in; "" when it can."""
    if situation.backend == "onnxruntime":
        return "onnxruntime runs the graph as it is, without TensorRT plugins"
    if situation.dla:
        return "plugins run on the GPU, not on a DLA"
    if situation.backend == "tensorrt" and not any(each.namespace == DOMAIN for each in situation.creators):
        return f"TensorRT {situation.tensorrt or '(release not stated)'} takes no plugins in Python: 10 is the first to"
    if situation.precision not in precisions:
        return f"its kernels compute in {' and '.join(precisions)}, and the recipe's precision is {situation.precision}"
    return ""


def stock_missing(situation: Situation, name: str, versions: Sequence[str]) -> str:
    """A sentence why NVIDIA's plugin ``name`` is not to be had in any of ``versions``; "" when it is."""
    if situation.backend == "onnxruntime":
        return "onnxruntime runs the graph as it is, without TensorRT plugins"
    if situation.dla:
        return "plugins run on the GPU, not on a DLA"
    here = {each.version for each in situation.creators if each.name == name and not each.namespace}
    if here & set(versions):
        return ""
    release = situation.tensorrt or "(release not stated)"
    whose = "TensorRT-RTX" if situation.backend == "tensorrt_rtx" else f"TensorRT {release}"
    known = f"it has version {', '.join(sorted(here))}" if here else "it has none of that name"
    how = "its registry was asked" if situation.probed else "by NVIDIA's documents; the device was not asked"
    return f"{whose} has no {name} of version {' or '.join(versions)}: {known} ({how})"
