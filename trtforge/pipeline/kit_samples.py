"""What a kit keeps of the samples: a few to probe INT8 kernels with, and a few with the FP32 model's answers.

So the device can hold its engine to the recipe's bound without the model, the recipe or any sample set. The arrays lie
one behind the other in `samples.bin`, plain little-endian bytes, and `samples.json` says which is which: nothing in
them is a format that a reader could be attacked by.

Kept are the first samples of the verification set, at most 8 and at most 64 MiB; scans whole, with the labels of the
FP32 model. Of a set whose first sample alone is larger nothing is kept, and the device measures nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO

import numpy as np

from trtforge.backends.base import TensorSpec
from trtforge.backends.batching import results
from trtforge.engines.records import Doc, RecordError, from_json, parse, to_json
from trtforge.evaluate.reference import reference_session
from trtforge.files import atomic_open, write_json
from trtforge.samples.base import Sample
from trtforge.samples.volumes import VolumeSamples

if TYPE_CHECKING:
    from trtforge.pipeline.job import Job
    from trtforge.recipe.models import Engine

INDEX, DATA = "samples.json", "samples.bin"
MOST, MOST_BYTES = 8, 64 << 20
_DTYPE = re.compile("[<|][biuf][1248]")
"""Of numpy's types: whole numbers, truth values and floats; none of them is an object."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Stored:
    """An array in `samples.bin`."""

    dtype: Annotated[str, Doc("numpy's name with the byte order, such as <f4")]
    shape: tuple[int, ...]
    offset: int


@dataclass(frozen=True)
class Entry:
    """A sample. ``outputs``: of the FP32 model, by name; of a scan its labels, as `labels`; of a probe none."""

    id: str
    digest: str
    inputs: Mapping[str, Stored]
    outputs: Mapping[str, Stored] = field(default_factory=dict)


@dataclass(frozen=True)
class Index:
    """`samples.json`. ``total``: how many samples, or scans, the verification set has."""

    probes: tuple[Entry, ...] = ()
    verify: tuple[Entry, ...] = ()
    total: int = 0


@dataclass(frozen=True)
class Answered:
    """A sample, and what the FP32 model gave for it."""

    sample: Sample
    outputs: Mapping[str, Array]


@dataclass(frozen=True)
class Kept:
    """The samples of a kit."""

    probes: tuple[Sample, ...] = ()
    verify: tuple[Answered, ...] = ()
    total: int = 0


def write(job: Job | None, probes: Sequence[Sample], folder: Path) -> dict[str, Path]:
    """Write the two members into ``folder``; without a job there are no answers to keep.

    Raises what running the FP32 model and reading the samples raises.
    """
    with atomic_open(folder / DATA) as stream:
        data = _Data(stream)
        asked = tuple(data.entry(Answered(sample, {})) for sample in _fitting(probes, _size))
        answers = _fitting(_answers(job), _size_answered) if job is not None else ()
        answered = tuple(data.entry(each) for each in answers)
    total = _total(job) if job is not None else 0
    write_json(folder / INDEX, to_json(Index(asked, answered, total)))
    return {name: folder / name for name in (INDEX, DATA)}


def read(folder: Path, engine: Engine) -> Kept:
    """The samples of an unpacked kit. Raises RecordError for what does not fit together, or not the engine; OSError."""
    index = from_json(Index, parse((folder / INDEX).read_bytes()))
    _check(index, engine)
    data = np.memmap(folder / DATA, np.uint8, "r") if (folder / DATA).stat().st_size else np.empty(0, np.uint8)
    probes = tuple(_sample(entry, data) for entry in index.probes)
    verify = tuple(Answered(_sample(entry, data), _arrays(entry.outputs, data)) for entry in index.verify)
    return Kept(probes, verify, index.total)


def _check(index: Index, engine: Engine) -> None:
    """The samples are some of this engine, and those of the verification set have answers. Raises RecordError."""
    answers = {frozenset(entry.outputs) for entry in index.verify}
    if len(answers) > 1 or frozenset() in answers:
        raise RecordError("verify", "not every sample has answers of the same outputs")
    takes = {name: spec.shape[1:] for name, spec in engine.inputs.items()}
    scans = engine.verify is not None and engine.verify.metric == "dice"
    for entry, whole in (*((each, False) for each in index.probes), *((each, scans) for each in index.verify)):
        shapes = {name: stored.shape for name, stored in entry.inputs.items()}
        if whole:
            labels = {name: stored.shape for name, stored in entry.outputs.items()}
            fits = shapes.keys() == takes.keys() and labels == dict.fromkeys(["labels"], *shapes.values())
        else:
            fits = {name: shape[1:] for name, shape in shapes.items()} == takes
        if not fits or any(0 in shape for shape in shapes.values()):
            raise RecordError(entry.id, "it is no sample for this engine")


class Answers:
    """A session that gives the kept outputs one after the other, as the FP32 model would for the kept samples.

    ``inputs`` have an open batch, so that it is run with one sample at a time, in order.
    """

    def __init__(self, kept: Sequence[Answered]) -> None:
        self._next = iter(kept)
        first = kept[0]
        self.inputs = tuple(_spec(name, array) for name, array in first.sample.inputs.items())
        self.outputs = tuple(_spec(name, array) for name, array in first.outputs.items())

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        return dict(next(self._next).outputs)


def _spec(name: str, array: Array) -> TensorSpec:
    return TensorSpec(name, (None, *array.shape[1:]) if array.ndim else (), array.dtype.name)


def _answers(job: Job) -> Iterator[Answered]:
    """The first samples of the verification set with the FP32 model's outputs; of scans, with its labels."""
    samples, verify = job.verify_set, job.engine.verify
    if samples is None or verify is None:
        return
    reference = reference_session(job.model.path)
    if verify.metric != "dice":
        for sample, outputs in results(reference, islice(samples, MOST)):
            yield Answered(sample, outputs)
        return
    from trtforge.runtime.windows.loop import segment

    assert isinstance(samples, VolumeSamples)
    ((name, spec),) = job.engine.inputs.items()
    for case in islice(samples.cases(), MOST):
        volume = case.placed.array
        if volume.nbytes > MOST_BYTES:
            return  # not to be kept, so not worth a run
        labels = segment(reference, volume, spec.shape, job.engine.sliding).labels
        yield Answered(Sample(case.id, case.digest, {name: volume}), {"labels": labels})


def _total(job: Job) -> int:
    """What the verdict of a direct build is about: samples, or scans."""
    samples, verify = job.verify_set, job.engine.verify
    if samples is None or verify is None:
        return 0
    return len(samples.listed) if verify.metric == "dice" else len(samples)


def _fitting(each: Iterable[Any], size: Any) -> Iterator[Any]:
    """The first of them, as many as may be kept."""
    total = 0
    for one in islice(each, MOST):
        total += size(one)
        if total > MOST_BYTES:
            return
        yield one


def _size(sample: Sample) -> int:
    return sum(array.nbytes for array in sample.inputs.values())


def _size_answered(answered: Answered) -> int:
    return _size(answered.sample) + sum(array.nbytes for array in answered.outputs.values())


class _Data:
    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream

    def entry(self, each: Answered) -> Entry:
        inputs = {name: self._put(array) for name, array in each.sample.inputs.items()}
        outputs = {name: self._put(array) for name, array in each.outputs.items()}
        return Entry(each.sample.id, each.sample.digest, inputs, outputs)

    def _put(self, array: Array) -> Stored:
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        stored = Stored(little.dtype.str, array.shape, self._stream.tell())
        self._stream.write(little.tobytes())
        return stored


def _sample(entry: Entry, data: Array) -> Sample:
    return Sample(entry.id, entry.digest, _arrays(entry.inputs, data))


def _arrays(stored: Mapping[str, Stored], data: Array) -> dict[str, Array]:
    return {name: _array(name, each, data) for name, each in stored.items()}


def _array(name: str, stored: Stored, data: Array) -> Array:
    shape, offset = stored.shape, stored.offset
    try:
        if not _DTYPE.fullmatch(stored.dtype) or min(offset, *shape, 0) < 0:
            raise ValueError
        dtype = np.dtype(stored.dtype)
        if (size := dtype.itemsize * prod(shape)) > len(data) - offset:
            raise ValueError
        return np.frombuffer(data[offset : offset + size].tobytes(), dtype).reshape(shape)
    except (TypeError, ValueError, OverflowError) as error:  # numpy has no f1, and no array of 65 axes
        raise RecordError(name, f"no array of {stored.dtype[:9]} {list(shape)[:9]} lies at {offset}") from error
