"""Signal to quantization noise, summed over as many arrays as there are."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

_CHUNK = 1 << 20  # values converted to float64 at a time: a volume's feature map must not be held in it as a whole


@dataclass
class Sqnr:
    """Running sums of signal and noise energy. ``values``: how many numbers were compared."""

    signal: float = 0.0
    noise: float = 0.0
    values: int = 0

    def add(self, reference: np.ndarray[Any, Any], candidate: np.ndarray[Any, Any]) -> None:
        """Count one pair of arrays of equal shape, summing in float64. Raises ValueError when the shapes differ."""
        if reference.shape != candidate.shape:
            raise ValueError(f"shapes differ: {reference.shape} and {candidate.shape}")
        expected, found = reference.ravel(), candidate.ravel()
        for start in range(0, expected.size, _CHUNK):
            signal = expected[start : start + _CHUNK].astype(np.float64)
            noise = signal - found[start : start + _CHUNK].astype(np.float64)
            self.signal += float(signal @ signal)
            self.noise += float(noise @ noise)
        self.values += expected.size

    @property
    def db(self) -> float:
        """10 log10(signal / noise). inf without noise (also 0 against 0), -inf for noise on a zero signal or infinite
        noise, NaN when any value was NaN or both arrays held the same infinity."""
        if math.isnan(self.signal) or math.isnan(self.noise):
            return math.nan
        if self.noise == 0:
            return math.inf
        if self.signal == 0 or math.isinf(self.noise):
            return -math.inf
        return 10 * math.log10(self.signal / self.noise)
