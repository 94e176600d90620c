"""Outputs of convolutions that are read in float: a Q/DQ pair of their own, so that their kernels write integers."""

from __future__ import annotations

import math

import numpy as np
from onnx import NodeProto, helper

from trtforge.backends.onnxruntime_.rewrite import ACTIVATIONS, Rewrite, dequantizes
from trtforge.scales.table import ScaleTable, TensorRange

_COMMUTES = frozenset({"Concat", "MaxPool", "Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Slice"})


class Outputs:
    """``table``: ranges of the convolution outputs."""

    def __init__(self, rewrite: Rewrite, table: ScaleTable) -> None:
        self._rewrite = rewrite
        self._table = table
        self._added_after: dict[str, list[NodeProto]] = {}

    def quantize_outputs(self, slack: float) -> None:
        for node in self._rewrite.graph.node:
            if node.op_type == "Conv" and dequantizes(self._rewrite.index.producer(node.input[0])):
                self._quantize_output(self._fused_output(node), slack)
        self._rewrite.replace_nodes(
            added for node in self._rewrite.graph.node for added in [node, *self._added_after.get(node.output[0], [])]
        )

    def _fused_output(self, node: NodeProto) -> str:
        """The tensor a convolution's kernel writes: behind the activation function that only it feeds."""
        user = self._rewrite.index.only_consumer(node.output[0])
        if user is not None and user.op_type in ACTIVATIONS and user.output[0] in self._rewrite.nonnegative:
            output: str = user.output[0]
            return output
        written: str = node.output[0]
        return written

    def _quantize_output(self, tensor: str, slack: float) -> None:
        """Give the float readers of a tensor its dequantized form, when that is possible and fine enough."""
        readers = [node for node in self._rewrite.index.consumers_of(tensor) if node.op_type != "QuantizeLinear"]
        if not readers or tensor in self._rewrite.index.outputs or tensor in self._added_after:
            return
        own = self._quantizer(tensor)
        borrowed = self._commuting_quantizer(readers) if own is None else None
        if borrowed is not None:
            scale, zero, step = borrowed.input[1], borrowed.input[2], 0.0
        elif own is not None:
            scale, zero, step = own.input[1], own.input[2], self._rewrite.step(own)
        elif tensor in self._table.ranges:
            step, offset = _affine(self._table.ranges[tensor])
            scale = zero = ""
        else:
            return
        if math.isfinite(slack) and any(step > slack * self._reader_step(node) for node in readers):
            return
        if not scale:
            scale = self._rewrite.add(f"{tensor}_scale", np.asarray(step, np.float32))
            zero = self._rewrite.add(f"{tensor}_zero_point", np.asarray(offset, np.uint8))
        self._read_dequantized(tensor, readers, own, scale, zero)
        self._rewrite.report.extra_pairs.append(tensor)

    def _read_dequantized(
        self, tensor: str, readers: list[NodeProto], own: NodeProto | None, scale: str, zero: str
    ) -> None:
        if own is not None:
            output = self._rewrite.index.consumers_of(own.output[0])[0].output[0]
        else:
            middle = self._rewrite.fresh(f"{tensor}_QuantizeLinear_Output")
            output = self._rewrite.fresh(f"{tensor}_DequantizeLinear_Output")
            self._added_after[tensor] = [
                helper.make_node("QuantizeLinear", [tensor, scale, zero], [middle]),
                helper.make_node("DequantizeLinear", [middle, scale, zero], [output]),
            ]
        for node in readers:
            for slot, name in enumerate(node.input):
                if name == tensor:
                    node.input[slot] = output

    def _reader_step(self, reader: NodeProto) -> float:
        """The step a sum is rounded to itself: what a step of its inputs is measured against.

        0, so that no finite ``slack`` allows it, for other readers and for a sum that stays float.
        """
        quantizer = self._quantizer(reader.output[0])
        user = self._rewrite.index.only_consumer(reader.output[0])
        if quantizer is None and user is not None and user.op_type in ACTIVATIONS:
            quantizer = self._quantizer(user.output[0])
        return self._rewrite.step(quantizer) if quantizer is not None and reader.op_type == "Add" else 0.0

    def _commuting_quantizer(self, readers: list[NodeProto]) -> NodeProto | None:
        """The Q behind the one node that reads a tensor, where quantizing before it or behind it is the same.

        It is not where something else reads what that node makes in float.
        """
        if len(readers) != 1 or readers[0].op_type not in _COMMUTES:
            return None
        user = self._rewrite.index.only_consumer(readers[0].output[0])
        return user if user is not None and user.op_type == "QuantizeLinear" else None

    def _quantizer(self, tensor: str) -> NodeProto | None:
        users = (node for node in self._rewrite.index.consumers_of(tensor) if node.op_type == "QuantizeLinear")
        return next(users, None)


def _affine(seen: TensorRange) -> tuple[float, int]:
    """(scale, zero point) of uint8 over the range seen, widened to hold 0."""
    low, high = min(seen.min, 0.0), max(seen.max, 0.0)
    step = float(np.float32((high - low) / 255)) or 1.0
    return step, round(-low / step)
