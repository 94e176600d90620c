"""Run a published engine on samples, and hold it against the FP32 model it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.backends import registry
from trtforge.backends.base import Session
from trtforge.backends.batching import results
from trtforge.engines.machine import Machine
from trtforge.engines.machine import this_machine as look
from trtforge.engines.manifest import Manifest
from trtforge.engines.store import EngineVersion
from trtforge.errors.usage import OutIsNoFolder
from trtforge.errors.verify import VerificationMissed
from trtforge.evaluate.parity import ParityReport, compare, largest
from trtforge.evaluate.reference import reference_session
from trtforge.pipeline import reference
from trtforge.pipeline.job import in_types
from trtforge.pipeline.outputs import Write, is_npz, places, writer
from trtforge.pipeline.overwrite import engine_files, refuse_overwriting
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Engine, InputSpec, Verify
from trtforge.samples.base import SampleSet
from trtforge.samples.load import FileSamples, open_files, open_set


@dataclass(frozen=True)
class RunReport:
    """What a run gave. ``parity`` is None when nothing was compared; ``missed``: the bound that was not kept.

    ``seen_in_calibration``: ids of samples whose content was calibrated on, which flatters the comparison.
    ``traffic``: bytes that were copied to and from the device, and executions; None on the CPU.
    """

    version: EngineVersion
    rows: list[dict[str, Any]]
    parity: ParityReport | None
    missed: VerificationMissed | None
    seen_in_calibration: list[str]
    traffic: dict[str, int] | None

    def to_json(self) -> dict[str, Any]:
        parity = None if self.parity is None else self.parity.to_json()
        if parity is not None:
            del parity["rows"]
        return {
            "engine": str(self.version.path),
            "backend": self.version.manifest.backend,
            "precision": self.version.manifest.recipe["precision"],
            "samples": len(self.rows),
            "seen_in_calibration": self.seen_in_calibration,
            "traffic": self.traffic,
            "rows": self.rows,
            "parity": parity,
            "passed": None if self.parity is None else self.parity.passed,
        }


def this_machine() -> Machine:
    """This machine, as far as it decides which engines run here."""
    return look(registry.get(name) for name in registry.names())


def run(
    version: EngineVersion,
    paths: Sequence[Path],
    *,
    compare_with_fp32: bool = True,
    model: Path | None = None,
    out: Path | None = None,
    progress: Progress = QUIET,
) -> RunReport:
    """Execute an engine, already checked by ``open_engine``, on files or on one sample set.

    ``model``: the FP32 model, when it is not where it was at build time. ``out``: where the outputs go, see
    `outputs.writer`. Raises CAL, ENG, ENV, USE107, USE108, USE111, VER102 to VER105.
    """
    manifest = version.manifest
    engine = Engine.model_validate(manifest.recipe)
    backend = registry.get(manifest.backend)  # type: ignore[arg-type]  # checked by open_engine
    session = backend.load(version.path, manifest.report)
    samples = _samples(paths, in_types(engine.inputs, {spec.name: spec.dtype for spec in session.inputs}))
    if out is not None:
        if is_npz(out) and len(samples) > 1:
            raise OutIsNoFolder(
                f"{out.name} is one file, and there are {len(samples)} samples",
                where=str(out),
                why="a .npz has the outputs of one sample",
                next=f"--out {out.with_suffix('')}, a folder with one .npz each",
            )
        _refuse_overwriting(version, paths, samples, model, out)
    seen = _seen(manifest, samples)
    with nullcontext() if out is None else writer(out, f"trtforge {manifest.backend}") as write:
        if not compare_with_fp32:
            return RunReport(version, _execute(session, samples, write, progress), None, None, seen, _traffic(session))
        parity = _compare(session, manifest, samples, engine.verify, model, write, progress)
    rows = [row.to_json() for row in parity.rows]
    return RunReport(version, rows, parity, parity.missed(where=str(version.path)), seen, _traffic(session))


def _refuse_overwriting(
    version: EngineVersion, paths: Sequence[Path], samples: FileSamples, model: Path | None, out: Path
) -> None:
    files = [file.path for item in samples.listed for file in item.files.values()]
    inputs = [*(("SAMPLES", path) for path in paths), *(("a sample", path) for path in files)]
    refuse_overwriting(
        [("the outputs", place) for place in places(out, [item.id for item in samples.listed])],
        [*inputs, *engine_files(version, model)],
    )


def _traffic(session: Session) -> dict[str, int] | None:
    counted: dict[str, int] | None = getattr(session, "traffic", None)
    return counted


def _compare(
    session: Session,
    manifest: Manifest,
    samples: SampleSet,
    bound: Verify | None,
    model: Path | None,
    write: Write | None,
    progress: Progress,
) -> ParityReport:
    metric = bound.metric if bound else "cosine"
    assert metric != "dice"  # which is for volumes
    return compare(
        reference_session(reference.find(manifest, model)),
        session,
        samples,
        metric,
        bound.at_least if bound else None,
        progress=progress,
        on_outputs=write,
    )


def _samples(paths: Sequence[Path], inputs: Mapping[str, InputSpec]) -> FileSamples:
    if len(paths) == 1 and paths[0].suffix in (".yaml", ".yml"):
        samples = open_set(paths[0], inputs)
        assert isinstance(samples, FileSamples)  # an engine for volumes is run by `run_volumes`
        return samples
    return open_files(paths, inputs)


def _seen(manifest: Manifest, samples: SampleSet) -> list[str]:
    calibrated = set((manifest.calibration or {}).get("samples", {}).values())
    return [name for name, digest in samples.identities() if digest in calibrated]


def _execute(session: Session, samples: SampleSet, write: Write | None, progress: Progress) -> list[dict[str, Any]]:
    rows = []
    with progress.task("running", len(samples)) as task:
        for sample, outputs in results(session, samples):
            if write is not None:
                write(sample, outputs)
            rows.append({"id": sample.id, "outputs": {name: _summary(array) for name, array in outputs.items()}})
            task.advance()
    return rows


def _summary(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    """Shape, type and the largest values of an output: a volume of labels does not belong on a terminal."""
    top = [{"index": score.index, "value": score.value} for score in largest(array)]
    return {"shape": list(array.shape), "dtype": str(array.dtype), "largest": top}
