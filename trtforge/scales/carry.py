"""Scales carried over operators that keep values: the tensors around them need none of their own.

A quantized graph has a pair where a tensor is read in INT8, and its compiler moves pairs over max pooling, ReLU and
reshapes by itself. A calibration cache moves nothing: TensorRT wants a scale for every tensor that an INT8 layer makes
or reads. What is carried here is what the pair says about those tensors:

* forward, where the operator reads the quantized tensor: each result is one of the quantized values, or zero;
* backward, where everything that reads the result reads it quantized and nothing else reads the source: to quantize
  before the operator or after it comes to the same values;
* over Concat likewise; where its inputs have several scales, the joined tensor gets the widest, which rounds the others
  onto a coarser grid, as TensorRT does.
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import NodeProto

from trtforge.graph.index import Index
from trtforge.graph.labels import label
from trtforge.scales.codecs.extraction import Extraction
from trtforge.scales.table import ScaleTable, TensorRange

_BOTH_WAYS = (
    "DepthToSpace",
    "Flatten",
    "Identity",
    "MaxPool",
    "Relu",
    "Reshape",
    "SpaceToDepth",
    "Squeeze",
    "Transpose",
    "Unsqueeze",
)
_BACKWARD_ONLY = ("Clip",)  # forward, its bounds need not be quantized values
_FORWARD_ONLY = ("Expand", "Gather", "Slice", "Split", "Tile")  # backward, the parts they drop would be quantized too


@dataclass(frozen=True)
class Carried:
    """``table``: the given ranges and the carried ones. ``via``: carried tensor -> what its scale comes from and how.

    ``on_grid``: carried tensors whose every value is a quantized one already.
    """

    table: ScaleTable
    via: dict[str, str]
    on_grid: frozenset[str]


def carry(found: Extraction) -> Carried:
    """Scales for the tensors between the quantized ones, as far as operators keep values. Given scales stay."""
    return _Carrier(found).run()


class _Carrier:
    def __init__(self, found: Extraction) -> None:
        self._found = found
        self._index = Index(found.model.proto.graph)
        self._outputs = set(self._index.outputs)
        self._ranges: dict[str, TensorRange] = dict(found.table.ranges)
        self._via: dict[str, str] = {}
        self._on_grid: set[str] = set()

    def run(self) -> Carried:
        nodes = [node for node in self._index.graph.node if node.domain in ("", "ai.onnx")]
        known = -1
        while known != len(self._ranges):  # a scale that came backward may go forward again, and so on
            known = len(self._ranges)
            for node in nodes:
                self._forward(node)
            for node in reversed(nodes):
                self._backward(node)
        table = ScaleTable(self._ranges, self._found.table.receipt, self._found.table.notes)
        return Carried(table, self._via, frozenset(self._on_grid))

    def _forward(self, node: NodeProto) -> None:
        missing = [name for name in node.output if name and name not in self._ranges]
        if node.op_type == "MaxPool":
            missing = [name for name in missing if name == node.output[0]]  # the second output holds positions
        if not missing:
            return
        if node.op_type in (*_BOTH_WAYS, *_FORWARD_ONLY):
            if self._is_quantized_read(node, 0):
                for name in missing:
                    self._give(name, node.input[0], f"{node.input[0]}, through {node.op_type} {label(node)}", grid=True)
        elif node.op_type == "Concat" and all(self._is_quantized_read(node, slot) for slot in range(len(node.input))):
            widest = max(node.input, key=lambda name: self._ranges[name].amax)
            alike = len({self._ranges[name].scale.tobytes() for name in node.input}) == 1
            how = widest if alike else f"{widest}, the widest that is joined"
            self._give(missing[0], widest, f"{how}, through Concat {label(node)}", grid=alike)

    def _backward(self, node: NodeProto) -> None:
        result = node.output[0] if node.output else ""
        if result not in self._ranges or not self._read_in_int8_only(result):
            return
        if node.op_type in (*_BOTH_WAYS, *_BACKWARD_ONLY):
            sources = list(node.input[:1])
        else:
            sources = list(node.input) if node.op_type == "Concat" else []
        for source in sources:
            free = source not in self._ranges and self._index.constant(source) is None
            if free and self._index.only_consumer(source) is not None and list(node.input).count(source) == 1:
                self._give(source, result, f"{result}, back through {node.op_type} {label(node)}", grid=False)

    def _is_quantized_read(self, node: NodeProto, slot: int) -> bool:
        name = node.input[slot]
        through_pair = (next(filter(None, node.output), ""), slot) in self._found.reads
        return name in self._ranges and (through_pair or name in self._on_grid)

    def _read_in_int8_only(self, name: str) -> bool:
        """Everything that reads the tensor reads what a pair, or an operator that keeps values, made of it."""
        if name in self._outputs and name not in self._found.outputs:
            return False
        for reader in self._index.consumers_of(name):
            output = next(filter(None, reader.output), "")
            slots = [slot for slot, read in enumerate(reader.input) if read == name]
            moved = name in self._via and (output in self._ranges) and reader.op_type in (*_BOTH_WAYS, "Concat")
            if not slots or not (moved or all((output, slot) in self._found.reads for slot in slots)):
                return False
        return True

    def _give(self, name: str, source: str, how: str, *, grid: bool) -> None:
        self._ranges[name] = self._ranges[source]
        self._via[name] = how
        if grid:
            self._on_grid.add(name)
