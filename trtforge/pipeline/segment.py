"""One scan through an engine: read, place, window by window, back onto the scan's grid, compared and shown."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from trtforge import memory
from trtforge.backends.base import Session
from trtforge.errors.verify import TruthBeyondClasses
from trtforge.errors.windows import NotEnoughMemory
from trtforge.evaluate.amounts import millilitres
from trtforge.evaluate.dice import Labels, dice
from trtforge.evaluate.labels import class_names
from trtforge.pipeline.case import AGAINST, CaseResult, Request
from trtforge.pipeline.room import advice
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Engine, InputSpec
from trtforge.recipe.preprocess import VolumePreprocess
from trtforge.runtime.windows.choose import Loop
from trtforge.runtime.windows.loop import Window
from trtforge.volumes.protocols import place_once, shape_of
from trtforge.volumes.read import load, open_scan, read_labels
from trtforge.volumes.scan import Scan
from trtforge.volumes.volume import Volume, by
from trtforge.volumes.windows import WindowGrid
from trtforge.volumes.write import write_labels, write_probabilities

if TYPE_CHECKING:
    from trtforge.report.case import SegmentedCase


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
        try:
            return self._run(request, progress)
        except MemoryError as error:
            raise NotEnoughMemory(
                "memory ran out", where=str(request.scan), why=str(error), next="free memory, or use a larger machine"
            ) from error

    def _run(self, request: Request, progress: Progress) -> CaseResult:
        started = time.perf_counter()
        request.check()
        wanted = request.probabilities is not None
        scan = open_scan(request.scan)
        taken = self._check_memory(scan, wanted, request, progress)
        volume = load(scan)
        names = class_names(self.engine, self.window.classes)
        truth = None if request.truth is None else _truth(request.truth, volume, names)
        for warning in volume.warnings:
            progress.warn(f"{request.name}: {warning}")
        placed = place_once(volume, self.preprocess, self.window.size)
        shape = self.spec.shape
        found = self.loop.run(self.session, placed.array, shape, probabilities=wanted, progress=progress)
        labels = placed.labels_back(found.labels)
        reference = None
        if self.reference is not None:
            reference = placed.labels_back(self.loop.run(self.reference, placed.array, shape, progress=progress).labels)
        scores = {
            against: dict(zip(names[1:], dice(labels, other, len(names)), strict=True))
            for against, other in zip(AGAINST, (truth, reference), strict=True)
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
            loop=found.where,
            seconds=found.seconds,
            engine_seconds=found.engine_seconds,
            whole_seconds=time.perf_counter() - started,
            memory=taken,
            millilitres={name: round(ml, 3) for name, ml in millilitres(labels, names, volume.affine).items()},
            dice=scores,
            outputs=request.outputs(),
            warnings=volume.warnings,
        )
        if request.picture is not None or request.page is not None:
            _show(request, self._case(volume, labels, truth, reference, names, result))
        return result

    def _check_memory(self, scan: Scan, probabilities: bool, request: Request, progress: Progress) -> dict[str, int]:
        """Bytes by name, from the header, before a voxel is read. Raises NotEnoughMemory (ENV103)."""
        window = self.window
        shape, overlap = shape_of(scan, self.preprocess, window.size), self.loop.options.overlap

        def of_loop(overlap: float) -> dict[str, int]:
            return self.loop.memory(
                self.session, window, WindowGrid.of(shape, window.size, overlap), probabilities=probabilities
            )

        grid = WindowGrid.of(shape, window.size, overlap)
        taken = of_loop(overlap)
        voxels = prod(scan.shape)
        taken["scan, and its copy while it is resampled"] = 2 * voxels * scan.kept_dtype.itemsize
        taken["labels on the scan's grid"] = (2 + (request.truth is not None) + (self.reference is not None)) * voxels
        if probabilities:
            taken["probabilities on the scan's grid"] = voxels * window.classes * 4
        needed, free = sum(taken.values()), memory.available()
        progress.log(
            f"{request.name}: {by(scan.shape)} voxels, on the network's grid {by(grid.shape)}; {len(grid)} windows of "
            f"{by(window.size)}; at most {memory.human_bytes(needed)} beside the network"
        )
        if free is not None and needed > free:
            parts = [f"{name} {memory.human_bytes(size)}" for name, size in taken.items()]
            raise NotEnoughMemory(
                f"the scan needs {memory.human_bytes(needed)}, and {memory.human_bytes(free)} are free",
                where=str(request.scan),
                why=", ".join(parts),
                next=advice(
                    scan,
                    self.preprocess,
                    overlap,
                    lambda overlap: sum(of_loop(overlap).values()),
                    needed=needed,
                    free=free,
                    probabilities=probabilities,
                ),
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
        high = max(high, low + 1)  # a scan may hold one value only
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
