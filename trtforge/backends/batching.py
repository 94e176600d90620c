"""Samples come one at a time, engines take a fixed batch: grouping, padding, and taking the results apart again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from trtforge.backends.base import Session, TensorSpec
from trtforge.errors.engine import SessionFailed
from trtforge.samples.base import Sample

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """``arrays`` have the engine's batch on axis 0; rows from ``len(samples)`` on repeat the last sample."""

    samples: tuple[Sample, ...]
    arrays: dict[str, Array]


def batch_size(inputs: Sequence[TensorSpec]) -> int:
    """How many samples one execution takes: the leading size of the inputs; 1 when it is open or there is none."""
    sizes = {spec.shape[0] for spec in inputs if spec.shape and spec.shape[0] is not None}
    return sizes.pop() if len(sizes) == 1 else 1


def batches(samples: Iterable[Sample], inputs: Sequence[TensorSpec]) -> Iterator[Batch]:
    """Samples in groups of the engine's batch, in order; the last group is padded by repeating its last sample."""
    size = batch_size(inputs)
    source = iter(samples)
    while group := tuple(islice(source, size)):
        rows = [*group, *[group[-1]] * (size - len(group))]
        names = [spec.name for spec in inputs]
        arrays = {name: _join([row.inputs[name] for row in rows if name in row.inputs]) for name in names}
        yield Batch(group, {name: array for name, array in arrays.items() if array is not None})


def results(session: Session, samples: Iterable[Sample]) -> Iterator[tuple[Sample, dict[str, Array]]]:
    """Each sample with its outputs, leading axis 1. Holds one batch at a time.

    Raises what the session raises; SessionFailed (ENG302) with the samples it was running.
    """
    size = batch_size(session.inputs)
    for batch in batches(samples, session.inputs):
        try:
            outputs = session.run(batch.arrays)
        except SessionFailed as error:
            where = "sample " + ", ".join(sample.id for sample in batch.samples)
            raise SessionFailed(error.what, where=where, why=error.why, next=error.next) from error
        for row, sample in enumerate(batch.samples):
            yield sample, _row(outputs, row, size)


def _join(arrays: list[Array]) -> Array | None:
    """None when a sample lacks the input: the session then says which, with what it was given."""
    if not arrays:
        return None
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


def _row(outputs: Mapping[str, Array], row: int, size: int) -> dict[str, Array]:
    """One sample's part of a batch's outputs; an output without the batch axis belongs to every sample."""
    return {
        name: array[row : row + 1] if array.ndim and array.shape[0] == size and size > 1 else array
        for name, array in outputs.items()
    }
