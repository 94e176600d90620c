"""Build one engine: nothing when an engine of the same inputs exists, else prepare, compile, verify, publish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtforge.pipeline.job import Job
from trtforge.progress import QUIET, Progress

if TYPE_CHECKING:
    from trtforge.backends.base import CompileRequest
    from trtforge.pipeline.prepare import Prepared
    from trtforge.samples.base import Sample

PROBES, PROBE_WINDOWS = 4, 1  # samples handed to a backend for its self-checks; a window has millions of values


@dataclass(frozen=True)
class Outcome:
    """What a build did. ``path``: the version folder, or the kit. ``facts``: lines for a person."""

    job: Job
    status: Literal["built", "up-to-date", "republished", "kit"]
    path: Path
    version: int | None
    seconds: float
    why: str = ""
    parity: Mapping[str, Any] | None = None
    facts: list[str] = field(default_factory=list)


def build(job: Job, *, force: bool = False, progress: Progress = QUIET) -> Outcome:
    """Build, verify and publish the engine of a job; a kit when only the device can compile it.

    Two builds of one engine at once wait for each other; the second finds the first's engine.
    Raises ONX, CAL, BLD, ENG, VER and ENV errors; then nothing was published.
    """
    started = time.monotonic()
    _ = job.key  # digested before the work: it tells of the files that the work begins with
    if not force and (found := _existing(job, started)):
        return found
    with job.store.build_lock(job.name, progress=progress):
        if not force and (found := _existing(job, started) or _republished(job, started, progress)):
            return found
        return _build(job, started, progress)


def _existing(job: Job, started: float) -> Outcome | None:
    """What an earlier build of the same inputs left: an engine, or a kit that waits for its device."""
    from trtforge.pipeline import reference

    found = job.store.find(job.name, job.key)
    if found and found.version == job.store.versions(job.name)[-1]:
        reference.remember(job)
        parity = found.manifest.parity
        return Outcome(job, "up-to-date", found.path, found.version, time.monotonic() - started, parity=parity)
    if needs_device(job) and _has_kit(job):
        why = job.backend.availability().why
        return Outcome(job, "kit", job.kit_path, None, time.monotonic() - started, why, facts=["already there"])
    return None


def _republished(job: Job, started: float, progress: Progress) -> Outcome | None:
    """An older version of the same inputs, published again: whoever asks for the engine gets the newest version."""
    from trtforge.engines.load import check_files
    from trtforge.errors.engine import EngineFileChanged, EngineFileMissing
    from trtforge.pipeline import reference

    older = job.store.find(job.name, job.key)
    if older is None:
        return None
    try:
        check_files(older)
    except (EngineFileChanged, EngineFileMissing):
        return None  # built again
    names = sorted(older.manifest.files, key=lambda name: name != older.manifest.engine_file)
    files = {name: older.path / name for name in names}
    new = job.store.publish(job.name, files, older.manifest, progress=progress)
    reference.remember(job)
    facts = [f"the same inputs gave version {older.version}: published again, nothing was compiled"]
    seconds = time.monotonic() - started
    return Outcome(job, "republished", new.path, new.version, seconds, "", new.manifest.parity, facts)


def _has_kit(job: Job) -> bool:
    from trtforge.engines.kit import read_kit
    from trtforge.errors.engine import KitDamaged, KitUnsafe

    try:
        return job.kit_path.exists() and read_kit(job.kit_path).key == job.key
    except (KitDamaged, KitUnsafe):
        return False  # it is made again


def needs_device(job: Job) -> bool:
    """Native TensorRT compiles on the device only: here there can be a kit, no engine."""
    return job.backend.name == "tensorrt" and not job.backend.availability().can_compile


def _build(job: Job, started: float, progress: Progress) -> Outcome:
    from trtforge.pipeline import kit, record, reference, verify
    from trtforge.pipeline.prepare import prepare
    from trtforge.pipeline.workdir import workdir

    if needs_device(job) and job.engine.precision == "int8":
        kit.tensorrt_version(job)  # what it raises is better raised before the calibration
    prepared = prepare(job, progress=progress)
    with workdir() as folder:
        if needs_device(job):
            parity = verify.prepared(job, prepared, folder, progress)  # first: a kit that misses its bound is none
            path = kit.write(job, prepared, folder, window_files(job, folder, progress))
            facts = _facts(prepared, {}, parity)
            why = job.backend.availability().why
            return Outcome(job, "kit", path, None, time.monotonic() - started, why, parity, facts)
        result = job.backend.compile(_request(job, prepared, folder, progress))
        parity = verify.compiled(job, result, progress)
        files = dict(result.files) | window_files(job, folder, progress)
        if prepared.scales_path is not None:
            files["scales.json"] = prepared.scales_path
        manifest = record.manifest(job, prepared, result, parity)
        published = job.store.publish(job.name, files, manifest, progress=progress)
    reference.remember(job)
    facts = _facts(prepared, result.report, parity)
    seconds = time.monotonic() - started
    return Outcome(job, "built", published.path, published.version, seconds, "", parity, facts)


def window_files(job: Job, folder: Path, progress: Progress) -> dict[str, Path]:
    """What an engine that segments volumes keeps for its window loop; nothing for others."""
    if (name := job.engine.volume_input) is None:
        return {}
    from trtforge.runtime.windows import kept
    from trtforge.samples.volumes import window_of

    sm = None if job.target.is_dla else job.target.sm
    return kept.write(folder, job.engine.sliding, window_of(job.engine.inputs[name]), sm, progress=progress)


def _request(job: Job, prepared: Prepared, workdir: Path, progress: Progress) -> CompileRequest:
    from trtforge.backends.base import CompileRequest

    return CompileRequest(
        model=prepared.model,
        scales=prepared.scales,
        engine=job.engine,
        target=job.target,
        workdir=workdir,
        plugins=prepared.planned.plan,
        situation=prepared.planned.situation,
        probes=_probes(job),
        progress=progress,
    )


def _probes(job: Job) -> list[Sample]:
    """A few samples of the calibration set; of the verification set when the scales came from a file."""
    samples = job.calibration_set or job.verify_set
    count = PROBES if job.engine.volume_input is None else PROBE_WINDOWS
    return [] if samples is None or job.engine.precision != "int8" else list(islice(samples, count))


def _facts(prepared: Prepared, report: Mapping[str, Any], parity: Mapping[str, Any] | None) -> list[str]:
    """The result of a build in a few lines."""
    lines = []
    if prepared.scales is not None:
        receipt = prepared.scales.receipt
        over = f" over {len(receipt.samples)} samples" if receipt else ""
        how = "calibrated earlier" if prepared.reused else "calibrated now"
        lines.append(f"scales: {len(prepared.scales.ranges)} tensors{over}, {how}")
    if text := report.get("summary"):
        lines.append(str(text))
    if counts := Counter((choice.op.name, choice.lowering_name) for choice in prepared.planned.plan.choices):
        listed = ", ".join(f"{number} {name} ({lowering})" for (name, lowering), number in counts.items())
        ours = any(lowering == "trtforge" for _, lowering in counts)
        lines.append(f"plugins: {listed}" + ("; our kernels have not run on hardware" if ours else ""))
    if parity is not None:
        lines.append(
            f"parity: {parity['metric']} {parity['value']:.6f}, bound {parity['at_least']:g}; {parity['measured_on']}"
        )
    return lines
