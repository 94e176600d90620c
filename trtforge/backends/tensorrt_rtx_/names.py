"""Node names the compiler's layer list can be matched by, and which nodes it must run in INT8."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from onnx import ModelProto, NodeProto

from trtforge.backends.tensorrt_rtx_.ir import Layer
from trtforge.graph.index import used_names

_UNSAFE = re.compile(r'["\[\]{}\s]')  # the layer list writes names between these
_INT8_OPS = ("Conv", "Gemm", "MatMul")
_FUSED = "_gemm_mha"
"""How the names of kernels begin that hold both products of an attention and the softmax between them."""


def make_matchable(proto: ModelProto) -> None:
    """Give every node a name of its own without quotes, brackets or spaces; names that are so already stay."""
    taken: set[str] = set()
    for number, node in enumerate(proto.graph.node):
        name = _UNSAFE.sub("_", node.name) or f"{node.op_type}_{number}"
        while name in taken:
            name = f"{name}_{number}"
        taken.add(name)
        node.name = name


def int8_nodes(proto: ModelProto) -> dict[str, str]:
    """Node name -> operator, of the nodes that the Q/DQ graph means to run in INT8.

    Both data and weights come out of a DequantizeLinear. ConvTranspose is left out: TensorRT-RTX always computes it
    in floating point. So are nodes that no output depends on: the compiler drops them.
    """
    dequantized = {node.output[0] for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    return {
        node.name: node.op_type
        for node in _live(proto)
        if node.op_type in _INT8_OPS and dequantized.issuperset(node.input[:2])
    }


def _live(proto: ModelProto) -> list[NodeProto]:
    """The nodes that an output depends on, in graph order."""
    needed, live = {value.name for value in proto.graph.output}, []
    for node in reversed(proto.graph.node):
        if needed.intersection(node.output):
            needed.update(used_names(node))
            live.append(node)
    return live[::-1]


@dataclass(frozen=True)
class Int8Count:
    """``meant``: nodes the graph means to be INT8. ``float_``: those of them the compiler put in floating point, with
    the types it chose. ``unseen``: those that appear in no layer with weights (fused into something else)."""

    meant: dict[str, str]
    kept: tuple[str, ...]
    float_: dict[str, tuple[str, ...]]
    unseen: tuple[str, ...]

    def of(self, *operators: str) -> int:
        """How many nodes of these operators run in INT8."""
        return sum(self.meant[name] in operators for name in self.kept)

    def meant_of(self, *operators: str) -> int:
        """How many nodes of these operators should."""
        return sum(operator in operators for operator in self.meant.values())

    @property
    def lost(self) -> list[str]:
        """Nodes that must be INT8 and are not. A matrix product may hide in a fused layer, a convolution never does."""
        return [*self.float_, *(name for name in self.unseen if self.meant[name] == "Conv")]


def count_int8(meant: dict[str, str], layers: Sequence[Layer]) -> Int8Count:
    """Match the nodes to the compiled layers by the ONNX names the layers carry; merged nodes share a layer."""
    weighted = [layer for layer in layers if layer.has_weights]
    fused = [layer for layer in layers if layer.name.startswith(_FUSED)]
    in_int8 = {node for layer in (*weighted, *fused) if layer.is_int8 for node in layer.nodes}
    in_float = {
        node: tuple(tensor.type for tensor in layer.inputs[:2])
        for layer in weighted
        if not layer.is_int8
        for node in layer.nodes
    }
    return Int8Count(
        meant,
        kept=tuple(name for name in meant if name in in_int8),
        float_={name: in_float[name] for name in meant if name in in_float and name not in in_int8},
        unseen=tuple(name for name in meant if name not in in_int8 and name not in in_float),
    )
