"""What a loadable holds, in bytes: its weights, and the tensors that stay inside it."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Literal

from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from onnx import NodeProto

    from trtforge.lint.context import Context

_UNITS = (("GiB", 30), ("MiB", 20), ("KiB", 10))

Precision = Literal["int8", "fp16"]
BYTES: dict[Precision, int] = {"int8": 1, "fp16": 2}

VECTOR = 32
"""Bytes of a pixel's vector of channels: 32 in INT8, 16 in FP16; the last vector is padded (documented)."""

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
WIDE = 4
"""Bytes of a constant of any other layer: Orin stores them as FP19 in four bytes (documented, TensorRT 8.5)."""


def tensor_bytes(shape: Sequence[int], precision: Precision) -> int:
    """An activation as the DLA lays it out: channels, third from last, in whole vectors."""
    size = BYTES[precision]
    if len(shape) < 3:
        return -(-prod(shape) * size // VECTOR) * VECTOR
    *batch, channels, height, width = shape
    return prod(batch) * -(-channels * size // VECTOR) * VECTOR * height * width


def weight_bytes(context: Context, node: NodeProto, precision: Precision) -> int:
    """All constants of a node; 0 for those whose size is not known."""
    total = 0
    for position, name in enumerate(node.input):
        known = context.types.get(name)
        integral = known is not None and known.dtype.startswith(("int", "uint", "bool"))
        shape = context.shape(name) if name in context.constants and not integral else None
        if shape is not None:
            total += prod(shape) * (BYTES[precision] if position == 1 and node.op_type in WEIGHTED else WIDE)
    return total


def pool_bytes(text: str) -> int:
    """Bytes of a pool as recipes write it, e.g. `512MiB`."""
    return int(text[:-3]) << dict(_UNITS)[text[-3:]]


def pool_text(size: int) -> str:
    """The inverse: in the largest unit that leaves a whole number."""
    unit, shift = next((each for each in _UNITS if size % (1 << each[1]) == 0), _UNITS[-1])
    return f"{size >> shift}{unit}"


def sized(size: int | None) -> str:
    """Bytes for a person: `-` where there is nothing to store, `?` where it is not known."""
    if size is None:
        return "?"
    return human_bytes(size) if size else "-"
