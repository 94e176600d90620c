"""What a quantized model comes apart into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from trtforge.graph.model import Model
from trtforge.scales.table import ScaleTable

Array = np.ndarray[Any, Any]
NOTE = "qdq_asymmetric"
"""Key of the note that lists tensors whose range was asymmetric: their symmetric scale is a new one."""

CLIPPED_INPUTS = "qdq_clipped_inputs"
"""Key of the note that lists inputs of the graph whose negative values the quantized model cut off, and the plain one
does not."""

OnConflict = Literal["refuse", "widest"]
Read = tuple[str, int]
"""(first output of a node of the plain graph, position of one of its inputs)"""


@dataclass(frozen=True)
class QuantizedWeight:
    """A constant that was quantized. ``scales``: float, shape [] or [channels along ``axis``]. ``stored``: its type."""

    tensor: str
    scales: Array
    axis: int | None
    symmetric: bool
    stored: str = "int8"


@dataclass(frozen=True)
class Conflict:
    """One tensor that the model quantizes with several scales. ``nodes``: the pairs, ``amax``: their ranges."""

    tensor: str
    nodes: tuple[str, ...]
    amax: tuple[float, ...]


@dataclass(frozen=True)
class Extraction:
    """A quantized model taken apart.

    ``reads``: the inputs of the plain graph's nodes that came through a DequantizeLinear; ``outputs``: the graph
    outputs that did. ``conflicts``: tensors that had several scales, of which ``table`` has the widest. ``relus``: what
    the ReLUs and Clips make that were hidden in zero points and are nodes of ``model``. ``clipped_inputs``: inputs of
    the graph that a zero point clips below zero; there is no node for these.
    """

    model: Model
    table: ScaleTable
    reads: frozenset[Read]
    outputs: frozenset[str]
    weights: tuple[QuantizedWeight, ...]
    conflicts: tuple[Conflict, ...]
    relus: tuple[str, ...] = ()
    clipped_inputs: tuple[str, ...] = ()

    @property
    def asymmetric(self) -> tuple[str, ...]:
        return tuple(self.table.notes.get(NOTE, ()))
