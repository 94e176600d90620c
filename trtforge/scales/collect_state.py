"""Running minima and maxima of a calibration, and the checkpoint that lets a killed run continue."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.digest import digest_json
from trtforge.files import write_json
from trtforge.progress import Progress
from trtforge.scales.derive import Bounds

_FORMAT = 1
_SHARE = 0.05
"""Writing checkpoints may take this share of the time, however many samples they list."""


class Running:
    """Minimum, maximum and sample count of each measured tensor, and the samples already in them.

    Constant in size but for ``done`` (id -> digest, what the receipt needs anyway).
    """

    def __init__(self, tensors: Sequence[str]) -> None:
        self.tensors = tuple(tensors)
        self.low = np.full(len(tensors), np.inf)
        self.high = np.full(len(tensors), -np.inf)
        self.count = np.zeros(len(tensors), np.int64)
        self.done: dict[str, str] = {}

    def add(self, low: np.ndarray[Any, Any], high: np.ndarray[Any, Any], samples: Mapping[str, str]) -> None:
        """Take in the bounds seen on some samples (id -> digest). Empty tensors come as (inf, -inf) and count not."""
        np.minimum(self.low, low, out=self.low)
        np.maximum(self.high, high, out=self.high)
        self.count += np.where(low <= high, len(samples), 0)
        self.done.update(samples)

    def bounds(self) -> dict[str, Bounds | None]:
        """(min, max) of each tensor, None where no value was seen. -0.0 is 0.0."""
        return {
            name: (float(low) + 0.0, float(high) + 0.0) if low <= high else None
            for name, low, high in zip(self.tensors, self.low, self.high, strict=True)
        }

    def to_json(self) -> dict[str, Any]:
        ranges = zip(self.tensors, self.low, self.high, self.count, strict=True)
        return {
            "done": self.done,
            "ranges": {name: [float(low), float(high), int(n)] for name, low, high, n in ranges if n},
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], tensors: Sequence[str]) -> Running:
        running = cls(tensors)
        for position, name in enumerate(running.tensors):
            if name in data["ranges"]:
                running.low[position], running.high[position], running.count[position] = data["ranges"][name]
        running.done = dict(data["done"])
        return running


class Checkpoint:
    """A file that follows a :class:`Running`; ``path`` None: nothing is kept.

    Args:
        identity: what must be the same for a later run to continue: label -> value, both shown in messages.
        every: seconds between two writes.
    """

    def __init__(self, path: Path | None, identity: Mapping[str, str], progress: Progress, every: float) -> None:
        self._path = path
        self._identity = dict(identity)
        self._progress = progress
        self._every = every
        self._saved = 0
        self._due = time.monotonic() + every

    def resume(self, tensors: Sequence[str], samples: Mapping[str, str]) -> Running:
        """What an earlier run left, if it was the same calibration and all its samples are still in the set.

        Otherwise an empty Running; the reason goes to the log.
        """
        if self._path is None or not self._path.exists():
            return Running(tensors)
        try:
            running, reason = self._read(self._path, tensors, samples)
        except (OSError, ValueError, KeyError, TypeError) as error:
            running, reason = Running(tensors), f"it cannot be read ({error})"
        if reason:
            self._progress.warn(f"starting anew, not from {self._path}: {reason}")
            return Running(tensors)
        self._saved = len(running.done)
        self._progress.log(f"continuing from {self._path}: {len(running.done)} of {len(samples)} samples are done")
        return running

    def follow(self, running: Running) -> None:
        """Write when due."""
        if time.monotonic() >= self._due:
            self.write(running)

    def write(self, running: Running) -> None:
        """Write now, unless nothing is new. A full disk costs the checkpoint, not the calibration: it is warned of."""
        if self._path is None or len(running.done) == self._saved:
            return
        body = running.to_json()
        started = time.monotonic()
        try:
            write_json(
                self._path,
                {"format": _FORMAT, "identity": self._identity, "seal": digest_json(body), "state": body},
            )
        except OSError as error:
            self._progress.warn(f"no checkpoint: {self._path} cannot be written ({error}); a killed run starts anew")
            self._path = None
            return
        self._saved = len(running.done)
        ended = time.monotonic()
        self._due = ended + max(self._every, (ended - started) / _SHARE if self._every else 0.0)

    def _read(self, path: Path, tensors: Sequence[str], samples: Mapping[str, str]) -> tuple[Running, str]:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            return Running(tensors), f"its format is {data['format']}, this version writes {_FORMAT}"
        if data["seal"] != digest_json(data["state"]):
            return Running(tensors), "its content does not match its seal: it was damaged or edited"
        differing = [label for label, value in self._identity.items() if data["identity"].get(label) != value]
        if differing:
            return Running(tensors), f"it belongs to another calibration ({', '.join(differing)} differ)"
        running = Running.from_json(data["state"], tensors)
        for sample, digest in running.done.items():
            if samples.get(sample) != digest:
                known = "changed" if sample in samples else "is no longer in the set"
                return running, f"the sample {sample}, already counted, {known}"
        return running, ""
