"""One scan through an engine: read, place, window by window, back onto the scan's grid, compared and shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trtforge import memory
from trtforge.backends.base import Session
from trtforge.errors.verify import TruthBeyondClasses
from trtforge.errors.windows import NotEnoughMemory
from trtforge.evaluate.dice import Labels, confusion, dice, mean
from trtforge.evaluate.labels import class_names
from trtforge.files import check_place
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Engine, InputSpec, VolumePreprocess
from trtforge.runtime.windows.choose import Loop
from trtforge.runtime.windows.loop import Window
from trtforge.runtime.windows.memory import predict
from trtforge.samples.volumes import window_of
from trtforge.volumes.protocols import place_once
from trtforge.volumes.read import read_labels, read_volume
from trtforge.volumes.volume import Volume
from trtforge.volumes.windows import WindowGrid
from trtforge.volumes.write import check_writable, write_labels, write_probabilities

if TYPE_CHECKING:
    from trtforge.report.case import SegmentedCase


@dataclass(frozen=True)
class Request:
    """A scan, its truth if there is one, and where results go; what is None is not made."""

    scan: Path
    name: str
    truth: Path | None = None
    labels: Path | None = None
    probabilities: Path | None = None
    picture: Path | None = None
    page: Path | None = None

    def outputs(self) -> dict[str, Path]:
        places = {name: getattr(self, name) for name in ("labels", "probabilities", "picture", "page")}
        return {name: path for name, path in places.items() if path is not None}

    def check(self) -> None:
        """Can every result be written? Raises VOL301, ENV101, ENV102, OSError."""
        for path in (self.labels, self.probabilities):
            if path is not None:
                check_writable(path)
        for path in (self.picture, self.page):
            if path is not None:
                check_place(path)


@dataclass(frozen=True)
class CaseResult:
    """What a scan gave. ``dice``: "truth", "FP32" -> class -> Dice, on the scan's grid.

    ``seconds``: in the loop, of which ``engine_seconds`` in the engine; ``whole_seconds``: reading and writing too.
    """

    name: str
    scan: Path
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    windows: int
    seconds: float
    engine_seconds: float
    whole_seconds: float
    memory: Mapping[str, int]
    millilitres: Mapping[str, float]
    dice: Mapping[str, Mapping[str, float]]
    outputs: Mapping[str, Path]
    warnings: tuple[str, ...] = ()
    reused: bool = field(default=False, compare=False)

    @property
    def composite(self) -> dict[str, float]:
        """MLPerf's score of a case: the mean of Dice over the classes."""
        return {against: mean(list(scores.values())) for against, scores in self.dice.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.name,
            "scan": str(self.scan),
            "shape": list(self.shape),
            "grid": list(self.grid),
            "windows": self.windows,
            "seconds": round(self.seconds, 3),
            "engine_seconds": round(self.engine_seconds, 3),
            "whole_seconds": round(self.whole_seconds, 3),
            "memory": dict(self.memory),
            "millilitres": dict(self.millilitres),
            "dice": {against: dict(scores) for against, scores in self.dice.items()},
            "composite": self.composite,
            "outputs": {name: str(path) for name, path in self.outputs.items()},
            "warnings": list(self.warnings),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseResult:
        """A result written earlier. Raises KeyError, TypeError, ValueError."""
        plain = {key: value[key] for key in ("windows", "seconds", "engine_seconds", "whole_seconds", "millilitres")}
        return cls(
            name=value["case"],
            scan=Path(value["scan"]),
            shape=tuple(value["shape"]),
            grid=tuple(value["grid"]),
            memory=value["memory"],
            dice=value["dice"],
            outputs={name: Path(path) for name, path in value["outputs"].items()},
            warnings=tuple(value["warnings"]),
            reused=True,
            **plain,
        )


@dataclass(frozen=True)
class Segmenter:
    """An engine ready for scans. ``reference``: the FP32 model's session, to compare with.

    ``title``: the engine as a picture names it; ``facts``: more about it, for the page.
    """

    session: Session
    engine: Engine
    loop: Loop
    reference: Session | None = None
    title: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> InputSpec:
        (spec,) = self.engine.inputs.values()
        return spec

    @cached_property
    def window(self) -> Window:
        return Window.of(self.session, self.spec.shape)

    @property
    def preprocess(self) -> VolumePreprocess:
        assert self.spec.preprocess.kind == "volume"
        return self.spec.preprocess

    def run(self, request: Request, *, progress: Progress = QUIET) -> CaseResult:
        """Segment a scan and write what is asked for; outputs appear whole or not at all.

        Raises VOL, ENG304, ENG305, ENV103, VER106, and what the session raises.
        """
        started = time.perf_counter()
        request.check()
        volume = read_volume(request.scan)
        names = class_names(self.engine, self.window.classes)
        truth = None if request.truth is None else _truth(request.truth, volume, names)
        for warning in volume.warnings:
            progress.warn(f"{request.name}: {warning}")
        placed = place_once(volume, self.preprocess, window_of(self.spec))
        wanted = request.probabilities is not None
        taken = self._check_memory(volume, placed.array.shape, wanted, request, progress)
        shape = self.spec.shape
        found = self.loop.run(self.session, placed.array, shape, probabilities=wanted, progress=progress)
        labels = placed.labels_back(found.labels)
        reference = None
        if self.reference is not None:
            reference = placed.labels_back(self.loop.run(self.reference, placed.array, shape, progress=progress).labels)
        scores = {
            against: dict(zip(names[1:], dice(labels, other, len(names)), strict=True))
            for against, other in (("truth", truth), ("FP32", reference))
            if other is not None
        }
        if request.labels is not None:
            write_labels(request.labels, labels, volume, classes=names)
        if request.probabilities is not None and found.probabilities is not None:
            write_probabilities(request.probabilities, placed.probabilities_back(found.probabilities), volume)
        result = CaseResult(
            name=request.name,
            scan=request.scan,
            shape=volume.shape,
            grid=placed.array.shape,
            windows=found.windows,
            seconds=found.seconds,
            engine_seconds=found.engine_seconds,
            whole_seconds=time.perf_counter() - started,
            memory=taken,
            millilitres=_millilitres(labels, names, volume),
            dice=scores,
            outputs=request.outputs(),
            warnings=volume.warnings,
        )
        if request.picture is not None or request.page is not None:
            _show(request, self._case(volume, labels, truth, reference, names, result))
        return result

    def _check_memory(
        self, volume: Volume, grid: tuple[int, ...], probabilities: bool, request: Request, progress: Progress
    ) -> dict[str, int]:
        """Bytes by name, told before the loop starts. Raises NotEnoughMemory (ENV103)."""
        window = self.window
        depth, height, width = grid
        lattice = WindowGrid.of((depth, height, width), window.size, self.loop.options.overlap)
        taken = predict(lattice, window, probabilities=probabilities)
        taken["labels on the scan's grid"] = 2 * prod(volume.shape)
        if probabilities:
            taken["probabilities on the scan's grid"] = prod(volume.shape) * window.classes * 4
        more = sum(taken.values()) - taken["volume"]  # which is there already
        size = " x ".join(map(str, window.size))
        progress.log(
            f"{request.name}: {' x '.join(map(str, volume.shape))} voxels, on the network's grid "
            f"{' x '.join(map(str, grid))}; {len(lattice)} windows of {size}; "
            f"{memory.human_bytes(sum(taken.values()))} beside the scan and the network"
        )
        free = memory.available()
        if free is not None and more > free:
            parts = [f"{name} {memory.human_bytes(size)}" for name, size in taken.items() if name != "volume"]
            raise NotEnoughMemory(
                f"the scan needs {memory.human_bytes(more)}, and {memory.human_bytes(free)} are free",
                where=str(request.scan),
                why=", ".join(parts),
                next="free memory"
                + (", or leave out --probabilities" if probabilities else "")
                + ", or run it on a larger machine",
            )
        return taken

    def _case(
        self,
        volume: Volume,
        labels: Labels,
        truth: Labels | None,
        reference: Labels | None,
        names: tuple[str, ...],
        result: CaseResult,
    ) -> SegmentedCase:
        from trtforge.report.case import SegmentedCase

        low, high = self.preprocess.clip or (float(volume.voxels.min()), float(volume.voxels.max()))
        rate = f"{result.windows} in {result.seconds:.1f} s, {result.windows / result.seconds:.2f}/s"
        facts = {"engine": self.title, **self.facts, "windows": rate}
        return SegmentedCase(
            name=result.name,
            scan=volume.voxels,
            affine=volume.affine,
            prediction=labels,
            truth=truth,
            reference=reference,
            classes=names,
            window=(low, high),
            facts=facts,
            dice=result.dice,
        )


def _show(request: Request, case: SegmentedCase) -> None:
    from trtforge.report.page import write_page
    from trtforge.report.picture import write_picture

    if request.picture is not None:
        write_picture(request.picture, case)
    if request.page is not None:
        write_page(request.page, case)


def _truth(path: Path, volume: Volume, names: tuple[str, ...]) -> Labels:
    """True labels of a scan, all of them classes of the network. Raises VOL, TruthBeyondClasses (VER106)."""
    labels: Labels = read_labels(path, volume)
    if (largest := int(labels.max())) >= len(names):
        raise TruthBeyondClasses(
            f"the truth has label {largest}, which the network does not know",
            where=str(path),
            why=f"its classes are {', '.join(f'{at} {name}' for at, name in enumerate(names))}",
            next="map the labels to these classes, 0 for what is to count as background",
        )
    return labels


def _millilitres(labels: Labels, names: tuple[str, ...], volume: Volume) -> dict[str, float]:
    """Volume of each class but the background: voxels times the volume of one, by the affine."""
    each = abs(float(np.linalg.det(volume.affine[:3, :3]))) / 1000
    counts = confusion(labels, labels, len(names)).diagonal()
    return {name: round(float(count) * each, 3) for name, count in zip(names[1:], counts[1:], strict=True)}
