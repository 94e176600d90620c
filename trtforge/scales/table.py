"""Scales are data: tensor name -> the range seen in calibration, with a receipt of how it was seen.

A table is a property of model and data, never of a device. Scale means amax / 127 (symmetric INT8).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorRange:
    """Smallest and largest value seen of one tensor over ``count`` samples. ``count`` 0: known only as amax."""

    min: float
    max: float
    count: int

    @property
    def amax(self) -> float:
        return max(abs(self.min), abs(self.max))

    @property
    def scale(self) -> np.float32:
        """amax / 127, rounded once to float32."""
        return np.float32(np.float32(self.amax) / np.float32(127.0))


@dataclass(frozen=True)
class Receipt:
    """How a table came to be. All fields JSON-able; digests are hex sha256.

    ``samples``: sample id -> digest. ``set_digest`` does not depend on their order. ``uncovered``: float
    activations of the graph for which no range was seen.
    """

    method: str
    samples: Mapping[str, str]
    set_digest: str
    preprocessing: Mapping[str, Any]
    model_graph: str
    model_weights: str
    tools: Mapping[str, str]
    uncovered: tuple[str, ...] = ()


@dataclass(frozen=True)
class ScaleTable:
    ranges: Mapping[str, TensorRange]
    receipt: Receipt | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
