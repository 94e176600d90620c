"""Where an INT8 graph is looked at: its outputs and its quantized activations, without disturbing what is fused."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import ModelProto, helper

from trtforge.graph.index import Index
from trtforge.graph.model import Model
from trtforge.graph.shapes import TensorType, tensor_types
from trtforge.graph.weights import read_tensor

BUDGET_BYTES = 64 << 20
"""Float activations kept of one probe, beyond those that must be looked at."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Checkpoint:
    """A float tensor and the Q output that stands for it; ``quantized`` is empty for a graph output.

    A quantized tensor is read as the integers it is: making the float tensor an output would keep it from being fused.
    """

    tensor: str
    quantized: str = ""

    @property
    def exposed(self) -> str:
        return self.quantized or self.tensor


def checkpoints(floating: Model, quantized: Model) -> list[Checkpoint]:
    """Graph outputs, the quantized activations nearest to them, and as many others as fit the budget, small first.

    Outputs are looked at if they are float and of a fixed shape: classes, indices and lists of detections are
    decisions, which the smallest difference may turn, and what they were made from is looked at.
    ``floating`` has the shapes of all tensors, see ``trtforge.graph.shapes.infer_shapes``.
    """
    index = Index(quantized.proto.graph)
    types = tensor_types(floating)
    found = [Checkpoint(name) for name in index.outputs if _is_comparable(types.get(name))] + _nearest(index)
    others = [
        (_nbytes(types.get(node.input[0])), Checkpoint(node.input[0], node.output[0]))
        for node in quantized.proto.graph.node
        if node.op_type == "QuantizeLinear"
    ]
    left = float(BUDGET_BYTES)
    for size, point in sorted(others, key=lambda entry: entry[0]):
        left -= size
        if left < 0:
            break
        found.append(point)
    return list(dict.fromkeys(found))


def exposing(proto: ModelProto, names: Sequence[str]) -> ModelProto:
    """A copy of a model whose outputs include the named tensors. Weights inside the model are copied."""
    present = {value.name for value in proto.graph.output}
    copy = ModelProto()
    copy.CopyFrom(proto)
    copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names if name not in present)
    return copy


def dequantizer(model: Model, point: Checkpoint) -> Callable[[Array], Array]:
    """What turns a checkpoint's values in this model into floats: the scale and zero point of its Q node.

    A Clip of integers may stand between the two, see ``activations``.
    """
    if not point.quantized:
        return lambda values: values
    index = Index(model.proto.graph)
    quantizer = index.producers[point.quantized]
    if quantizer.op_type == "Clip":
        quantizer = index.producers[quantizer.input[0]]
    scale, zero = (read_tensor(model, index.initializers[name]) for name in quantizer.input[1:3])
    return lambda values: (values.astype(np.float32) - np.float32(zero)) * np.float32(scale)


def _nearest(index: Index) -> list[Checkpoint]:
    """Quantized activations from which an output is reached through no other one."""
    found = []
    pending, seen = list(index.outputs), set(index.outputs)
    while pending:
        node = index.producer(pending.pop())
        if node is None:
            continue
        quantizer = index.producer(node.input[0]) if node.op_type == "DequantizeLinear" else None
        if quantizer is not None and quantizer.op_type == "QuantizeLinear":
            found.append(Checkpoint(quantizer.input[0], quantizer.output[0]))
            continue
        new = [name for name in node.input if name and name not in seen]
        seen.update(new)
        pending += new
    return found


def _is_comparable(kind: TensorType | None) -> bool:
    return kind is not None and kind.is_static and kind.dtype.startswith("float")


def _nbytes(kind: TensorType | None) -> float:
    """Bytes of a float tensor; inf where its size is not known."""
    if kind is None or kind.shape is None or not kind.is_static:
        return math.inf
    return 4.0 * math.prod(size for size in kind.shape if isinstance(size, int))
