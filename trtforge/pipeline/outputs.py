"""Where a run's outputs go: one `.npz` a sample in a folder, or beside it; or one JSON file that Polygraphy reads.

The last form is what `polygraphy run --load-outputs` compares another runtime's results with.
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.files import atomic_open, write_bytes
from trtforge.samples.base import Sample

Write = Callable[[Sample, Mapping[str, np.ndarray[Any, Any]]], None]


def places(out: Path, ids: Iterable[str]) -> list[Path]:
    """The files that `writer` makes for samples of these ids."""
    return [out] if out.suffix == ".json" else [_npz(out, name) for name in ids]


def is_npz(out: Path) -> bool:
    """Whether the place is the file of one sample, and no folder of this name."""
    return out.suffix == ".npz" and not out.is_dir()


@contextmanager
def writer(out: Path, runner: str) -> Iterator[Write]:
    """A function that takes each sample's outputs. ``out``: a folder, a `.json` file, or the only sample's `.npz`.

    Raises OSError.

    The JSON form holds all outputs in memory until the end; ``runner`` is the name Polygraphy shows for them.
    """
    if out.suffix != ".json":
        yield lambda sample, outputs: _write_npz(out, sample, outputs)
        return
    from polygraphy.comparator import IterationResult, RunResults
    from polygraphy.logger import G_LOGGER

    iterations: list[Any] = []
    yield lambda _, outputs: iterations.append(IterationResult(outputs=dict(outputs), runner_name=runner))
    results = RunResults([(runner, iterations)])
    with tempfile.TemporaryDirectory() as folder, G_LOGGER.verbosity(logging.CRITICAL):
        whole = Path(folder) / "outputs.json"
        results.save(str(whole))
        write_bytes(out, whole.read_bytes())


def _write_npz(out: Path, sample: Sample, outputs: Mapping[str, np.ndarray[Any, Any]]) -> None:
    with atomic_open(_npz(out, sample.id)) as stream:
        np.savez(stream, **dict(outputs))  # type: ignore[arg-type]  # the names are the file's keys


def _npz(out: Path, sample_id: str) -> Path:
    if is_npz(out):
        return out
    return out / f"{sample_id.replace('/', '_').replace(':', '_')}.npz"
