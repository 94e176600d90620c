"""TensorRT's own INT8 calibrators, of TensorRT 8 to 10: one that hands out a cache, one that is fed samples.

The classes are made from the module that is given. TensorRT calls them from C++ and ignores exceptions there, or ends
the process; so none leaves a method: it is kept, the calibration is cut short, and `problem` says what it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

CLASSES = {"MinMaxCalibration": "IInt8MinMaxCalibrator", "EntropyCalibration2": "IInt8EntropyCalibrator2"}
"""Algorithm, as a cache's first line has it -> TensorRT's class. A DLA takes the second's caches only."""

Batch = Mapping[str, "np.ndarray[Any, Any]"]


class Memory(Protocol):
    """Device memory: as much as a calibrator needs."""

    def allocate(self, size: int) -> int:
        """Address of so many bytes."""

    def copy_in(self, address: int, array: np.ndarray[Any, Any]) -> None:
        """Waits until the bytes are there."""

    def free(self, address: int) -> None: ...


def from_cache(trt: Any, algorithm: str, cache: bytes) -> Any:
    """A calibrator that has the ranges already: TensorRT asks for no batch.

    ``asked``: batches that TensorRT wanted nevertheless, which it does when it does not accept the cache's first line.
    """
    base = getattr(trt, CLASSES[algorithm])

    class FromCache(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.cache, self.asked = cache, 0

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            self.asked += 1
            return None

        def read_calibration_cache(self) -> bytes:
            return self.cache

        def write_calibration_cache(self, cache: Any) -> None:
            """It is the one that was given."""

    return FromCache()


def as_typed(batch: Batch, types: Mapping[str, Any]) -> Batch:
    """In the network's types. Raises TypeError where that would lose more than width."""
    return {
        name: array.astype(types[name], casting="same_kind", copy=False) if name in types else array
        for name, array in batch.items()
    }


def from_samples(trt: Any, algorithm: str, batches: Iterator[Batch], memory: Memory, types: Mapping[str, Any]) -> Any:
    """A calibrator that is fed: each batch is checked, copied to the device and handed out; TensorRT counts ranges.

    ``types``: NumPy's, of the network's inputs; int64 indices become int32 where TensorRT has no wider ones.
    ``given``: batches so far. ``problem``: the exception that ended it early, None when all went well: then
    ``written`` is the cache. Buffers are made at the first batch, used again, and freed by ``close``.
    """
    base = getattr(trt, CLASSES[algorithm])

    class FromSamples(base):  # type: ignore[misc, valid-type]
        def __init__(self) -> None:
            base.__init__(self)
            self.given, self.written = 0, b""
            self.problem: BaseException | None = None
            self.buffers: dict[str, int] = {}
            self.shapes: dict[str, tuple[Any, ...]] = {}

        def get_batch_size(self) -> int:
            return 1  # with an explicit batch dimension this number is not used for anything

        def get_batch(self, names: Sequence[str]) -> list[int] | None:
            if self.problem is not None:
                return None
            try:
                batch = next(batches, None)
                if batch is None:
                    return None
                batch = as_typed(batch, types)
                self.check(names, batch)
                for name in names:
                    memory.copy_in(self.buffers[name], np.ascontiguousarray(batch[name]))
                self.given += 1
                return [self.buffers[name] for name in names]
            except Exception as error:  # see above: it would be lost in C++
                self.problem = error
                return None

        def check(self, names: Sequence[str], batch: Batch) -> None:
            """The first batch says what all must be: a longer one would be written behind its buffer."""
            found = {name: (batch[name].shape, batch[name].dtype.str) for name in names if name in batch}
            if missing := [name for name in names if name not in batch]:
                raise ValueError(f"TensorRT asks for the input {missing[0]!r}; the sample has {', '.join(batch)}")
            if not self.buffers:
                self.shapes = found
                self.buffers = {name: memory.allocate(batch[name].nbytes) for name in names}
            for name, seen in found.items():
                if seen != self.shapes[name]:
                    raise ValueError(f"{name!r} is {seen}; in the first batch it was {self.shapes[name]}")
                if not np.isfinite(batch[name]).all():
                    raise ValueError(f"{name!r} has NaN or Inf in it")

        def read_calibration_cache(self) -> bytes | None:
            return None  # always measured: what an earlier run left is not looked at

        def write_calibration_cache(self, cache: Any) -> None:
            self.written = bytes(cache)

        def close(self) -> None:
            while self.buffers:
                memory.free(self.buffers.popitem()[1])

    return FromSamples()
