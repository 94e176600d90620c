"""Run a published engine on scans: one, or a cohort; with Dice against the truth and the FP32 model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtforge import memory
from trtforge.backends import registry
from trtforge.digest import sha256_file
from trtforge.engines.store import EngineVersion
from trtforge.errors.base import TrtforgeError
from trtforge.errors.verify import VerificationMissed
from trtforge.evaluate.labels import LabelsReport, LabelsRow
from trtforge.evaluate.reference import reference_session
from trtforge.pipeline import reference
from trtforge.pipeline.case import Request
from trtforge.pipeline.cohort import Cohort, run_cohort
from trtforge.pipeline.segment import Segmenter
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Engine, Windows
from trtforge.runtime.windows.choose import Loop
from trtforge.samples.volumes import window_of


@dataclass(frozen=True)
class VolumesReport:
    """What a run over scans gave. ``peak_memory``: of this process, in bytes. ``missed``: the bound not kept."""

    version: EngineVersion
    cohort: Cohort
    options: Windows
    peak_memory: int | None
    missed: VerificationMissed | None
    seen_in_calibration: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        manifest = self.version.manifest
        return {
            "engine": str(self.version.path),
            "backend": manifest.backend,
            "precision": manifest.recipe["precision"],
            "windows": self.options.model_dump(mode="json", include={"overlap", "weights", "mirror"}),
            "peak_memory": self.peak_memory,
            "seen_in_calibration": list(self.seen_in_calibration),
            "passed": None if self.missed is None else False,
            **self.cohort.to_json(),
        }

    def error(self) -> TrtforgeError | None:
        """The error to end with: scans that failed first, then the missed bound."""
        return self.cohort.error(where=str(self.version.path)) or self.missed


def takes_volumes(version: EngineVersion) -> bool:
    """Whether the engine's recipe has an input that takes windows of a volume."""
    return _engine(version).volume_input is not None


def run_volumes(
    version: EngineVersion,
    wanted: Sequence[Request],
    *,
    out_dir: Path | None = None,
    overrides: dict[str, Any] | None = None,
    compare_with_fp32: bool = False,
    model: Path | None = None,
    progress: Progress = QUIET,
) -> VolumesReport:
    """Segment scans with an engine already checked by ``open_engine``.

    Args:
        out_dir: a cohort's folder; there one failing scan does not stop the rest, and finished ones are kept.
            None: the first error is raised.
        overrides: fields of `windows` that replace the recipe's.
        model: the FP32 model, when it is not where it was at build time.

    Raises VOL, ENG, ENV, VER104 to VER106.
    """
    manifest = version.manifest
    engine = _engine(version)
    options = Windows.model_validate(engine.sliding.model_dump() | (overrides or {}))
    (spec,) = engine.inputs.values()
    backend = registry.get(manifest.backend)  # type: ignore[arg-type]  # checked by open_engine
    found = reference.find(manifest, model) if compare_with_fp32 else None
    segmenter = Segmenter(
        session=backend.load(version.path, manifest.report),
        engine=engine,
        loop=Loop.of(version.path, options, window_of(spec)),
        reference=None if found is None else reference_session(found),
        title=f"{manifest.engine}, {manifest.recipe['precision']} by {manifest.backend}",
        facts={"target": manifest.target.key, "engine version": str(version.version)},
    )
    if out_dir is None:
        results = [
            replace(
                segmenter.run(request, progress=progress),
                digest=sha256_file(request.scan) if request.scan.is_file() else None,
            )
            for request in wanted
        ]
        cohort = Cohort(tuple(results), {})
    else:
        key = [manifest.seal, options.model_dump(mode="json"), compare_with_fp32]
        cohort = run_cohort(segmenter, wanted, out_dir, key=key, progress=progress)
    return VolumesReport(
        version=version,
        cohort=cohort,
        options=options,
        peak_memory=memory.peak(),
        missed=_missed(version, engine, cohort),
        seen_in_calibration=_seen(version, cohort),
    )


def _engine(version: EngineVersion) -> Engine:
    return Engine.model_validate(version.manifest.recipe)


def _missed(version: EngineVersion, engine: Engine, cohort: Cohort) -> VerificationMissed | None:
    """The recipe's bound on Dice against FP32, held against the mean over these scans."""
    verify, means = engine.verify, cohort.means.get("FP32")
    if verify is None or verify.metric != "dice" or means is None:
        return None
    rows = [LabelsRow(r.name, dict(r.dice["FP32"]), r.composite["FP32"]) for r in cohort.results if "FP32" in r.dice]
    return LabelsReport(means["mean"], verify.at_least, tuple(rows)).missed(where=str(version.path))


def _seen(version: EngineVersion, cohort: Cohort) -> tuple[str, ...]:
    """Scans whose content was calibrated on, which flatters the result."""
    calibrated = set((version.manifest.calibration or {}).get("samples", {}).values())
    return tuple(r.name for r in cohort.results if isinstance(r.digest, str) and r.digest in calibrated)
