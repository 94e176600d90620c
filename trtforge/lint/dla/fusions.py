"""Which layers of a loadable become one operation, as far as public sources tell; likely, never certain.

NVIDIA's RetinaNet sample shows the fused names Conv + BatchNormalization + Relu + MaxPool and Conv +
BatchNormalization + Add + Relu. The conditions are those of the open compiler of NVDLA v1: one reader between the
parts, no groups in front of a pooling. Orin's compiler is closed.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from trtforge.graph.labels import first_output
from trtforge.lint.dla.parameters import clip_bounds
from trtforge.lint.nodes import DEFAULT_DOMAINS, integer

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

CONVOLUTIONS = ("Conv", "ConvTranspose")
POOLINGS = ("MaxPool", "AveragePool")


@dataclass(frozen=True)
class Fusion:
    """``nodes``: the convolution first. They are told apart by what they are, as several may have one name."""

    nodes: tuple[NodeProto, ...]

    @property
    def operators(self) -> tuple[str, ...]:
        return tuple(node.op_type for node in self.nodes)

    @property
    def inside(self) -> tuple[str, ...]:
        """Tensors that are never stored."""
        return tuple(node.output[0] for node in self.nodes[:-1])

    def to_json(self) -> list[str]:
        """The first outputs of its nodes."""
        return [first_output(node) for node in self.nodes]


@dataclass(frozen=True)
class Unfused:
    """A convolution that could be fused with what follows, and why it is not. ``fix`` as in a finding."""

    node: NodeProto
    why: str
    fix: str


def expected(context: Context, together: Callable[[NodeProto, NodeProto], bool]) -> list[Fusion]:
    """Fusions in graph order. ``together``: whether two nodes are in one loadable."""
    fusions = []
    taken: set[int] = set()
    # backwards: of two convolutions in front of one Add the later one takes it, as it is there when the other waits
    for node in reversed(context.active_nodes):
        if node.op_type in CONVOLUTIONS and node.domain in DEFAULT_DOMAINS and id(node) not in taken:
            chain = _chain(context, node, taken, together)
            taken.update(map(id, chain))
            if len(chain) > 1:
                fusions.append(Fusion(tuple(chain)))
    return fusions[::-1]


def _chain(
    context: Context, start: NodeProto, taken: set[int], together: Callable[[NodeProto, NodeProto], bool]
) -> list[NodeProto]:
    chain = [start]
    wanted = ["BatchNormalization", "Add", "Relu", "MaxPool", "AveragePool"]
    while wanted:
        reader = context.index.only_consumer(chain[-1].output[0])
        if reader is None or reader.op_type not in wanted or id(reader) in taken or not together(start, reader):
            break
        if reader.op_type in POOLINGS and (integer(start, "group", 1) != 1 or _adds(chain)):
            break
        chain.append(reader)
        wanted = wanted[wanted.index(reader.op_type) + 1 :]
        if reader.op_type in POOLINGS:
            break
    return chain


def _adds(chain: list[NodeProto]) -> bool:
    return any(node.op_type == "Add" for node in chain)


def missed(context: Context, together: Callable[[NodeProto, NodeProto], bool]) -> list[Unfused]:
    """Convolutions that an activation or a pooling follows, and that are not fused with it."""
    found = []
    for node in context.active_nodes:
        if node.op_type not in CONVOLUTIONS or node.domain not in DEFAULT_DOMAINS:
            continue
        readers = [reader for reader in context.index.consumers_of(node.output[0]) if together(node, reader)]
        operators = {reader.op_type for reader in readers}
        alone = context.index.only_consumer(node.output[0])  # counts those on the GPU too
        if len(readers) > 1 and operators & {"Relu", "BatchNormalization"}:
            fix = "let the others read what comes behind the activation, where that is what the network means"
            found.append(Unfused(node, f"{len(readers)} layers read its output", fix))
        elif readers and alone is not None and (clip := _clip(context, alone, together)) is not None:
            fix = "nothing, or train it with Relu"
            if clip_bounds(context, clip) == (0, 6) and "relu6-to-relu" not in context.engine.surgery:
                fix = "surgery pass relu6-to-relu, and `verify`: it changes values above 6"
            found.append(Unfused(node, "Clip comes behind it, and only Relu is fused", fix))
        elif operators & set(POOLINGS) and integer(node, "group", 1) != 1:
            found.append(Unfused(node, "it has groups, and a pooling behind it", ""))
    return found


def _clip(context: Context, reader: NodeProto, together: Callable[[NodeProto, NodeProto], bool]) -> NodeProto | None:
    """A Clip, or the Clip that alone reads a batch norm."""
    if reader.op_type == "BatchNormalization":
        behind = context.index.only_consumer(reader.output[0])
        return behind if behind is not None and behind.op_type == "Clip" and together(reader, behind) else None
    return reader if reader.op_type == "Clip" else None
