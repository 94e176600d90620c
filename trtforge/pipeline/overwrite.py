"""No result over a file that is read, nor over another result: asked before the work by every command that writes where
it is told to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge.errors.base import TrtforgeError
from trtforge.errors.usage import WouldOverwrite

if TYPE_CHECKING:
    from trtforge.engines.store import EngineVersion
    from trtforge.pipeline.job import Job

Named = tuple[str, Path | None]
"""What a file is, as a message calls it, and where it is; None for an option that was not given."""


def refuse_overwriting(results: Iterable[Named], inputs: Iterable[Named]) -> None:
    """Raises WouldOverwrite (USE111) when a result has the place of an input or of another result."""
    taken: dict[object, tuple[str, Path]] = {}
    for what, path in inputs:
        taken |= {key: (what, path) for key in _keys(path) if path is not None}
    for what, path in results:
        if path is None:
            continue
        keys = _keys(path)
        if (found := next((taken[key] for key in keys if key in taken), None)) is not None:
            other, there = found
            same_name = path.absolute() == there.absolute()
            raise WouldOverwrite(
                f"{what} would be written over {other}",
                where=str(path),
                why="both have this name" if same_name else f"it is the same file as {there}",
                next="name another file, or another folder that holds nothing else",
            )
        taken |= dict.fromkeys(keys, (what, path))


def model_files(what: str, path: Path) -> Iterator[Named]:
    """A model's own file and the data files of its weights. What cannot be read is told by what reads the model."""
    yield what, path
    from trtforge.graph.io import load
    from trtforge.graph.weights import external_range, is_external, model_tensors
    from trtforge.pipeline.job import may_be_external

    try:
        if not may_be_external(path):
            return
        model = load(path)
        stored = {external_range(tensor).location for tensor in model_tensors(model.proto) if is_external(tensor)}
    except (OSError, ValueError, TrtforgeError):
        return
    for location in sorted(stored):
        yield f"the weights of {what}", path.parent / location


def moved_weights(what: str, saved: Path | None, model: Iterable[Named]) -> Iterator[Named]:
    """Where the weights of a model go with it when it is written as ``saved``. ``model``: its files, itself first."""
    (_, source), *weights = model
    for _, path in weights:
        if saved is not None and source is not None and path is not None and path.is_relative_to(source.parent):
            place = saved.parent / path.relative_to(source.parent)
            if place != saved:  # `save` gives them another name then
                yield f"the weights of {what}", place


def engine_files(version: EngineVersion, model: Path | None) -> Iterator[Named]:
    """A published engine's files, and the FP32 model that is given for it."""
    yield from (("the engine", path) for path in version.path.iterdir())
    if model is not None:
        yield from model_files("the FP32 model", model)


def job_files(jobs: Sequence[Job], *, scales: bool = True) -> Iterator[Named]:
    """What the engines of a recipe are made from: its files, models, scales, sample sets and their samples.

    ``scales``: those that the recipe names too. A set that cannot be read is told by what reads it.
    """
    for job in jobs:
        yield from (("the recipe", path) for path in job.recipe.files)
        yield from model_files("the model", job.model.path)
        if scales:
            yield "the scales", job.scales_file
        for kind, block in (("calibration", job.engine.calibration), ("verify", job.engine.verify)):
            if block is None or block.set is None:
                continue
            yield f"the {kind} set", job.recipe.resolve(block.set)
            try:
                samples = job.calibration_set if kind == "calibration" else job.verify_set
            except TrtforgeError:
                continue
            for item in samples.listed if samples is not None else ():
                yield from (("a sample", file.path) for file in item.files.values())
                yield "the labels of a sample", item.labels


def _keys(path: Path | None) -> list[object]:
    """What two names of one file have in common: where they lead to, and for a file that is there its number.

    The second knows hard links, and names that a file system takes for one (upper and lower case).
    """
    if path is None:
        return []
    keys: list[object] = [os.path.realpath(path)]
    try:
        found = path.stat()
    except OSError:
        return keys
    return [*keys, (found.st_dev, found.st_ino)]
