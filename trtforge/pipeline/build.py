"""Build one engine: nothing when an engine of the same inputs exists, else prepare, compile, verify, publish."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtforge.cache import cache_dir
from trtforge.digest import sha256_file
from trtforge.engines.store import EngineVersion
from trtforge.pipeline.job import Job
from trtforge.progress import QUIET, Progress

if TYPE_CHECKING:
    from trtforge.backends.base import CompileResult
    from trtforge.engines.manifest import Manifest
    from trtforge.evaluate.parity import ParityReport
    from trtforge.pipeline.prepare import Prepared

PROBES = 4  # samples handed to a backend for its self-checks at build time


@dataclass(frozen=True)
class Outcome:
    """What a build did. ``path``: the version folder, or the kit. ``facts``: lines for a person."""

    job: Job
    status: Literal["built", "up-to-date", "kit"]
    path: Path
    version: int | None
    seconds: float
    why: str = ""
    parity: dict[str, Any] | None = None
    facts: list[str] = field(default_factory=list)


def build(job: Job, *, force: bool = False, progress: Progress = QUIET) -> Outcome:
    """Build, verify and publish the engine of a job; a kit when only the device can compile it.

    Two builds of one engine at once wait for each other; the second finds the first's engine.
    Raises ONX, CAL, BLD, ENG, VER and ENV errors; then nothing was published.
    """
    started = time.monotonic()
    if not force and (found := job.store.find(job.name, job.key)):
        return _up_to_date(job, found, started)
    with job.store.build_lock(job.name, progress=progress):
        if not force and (found := job.store.find(job.name, job.key)):
            return _up_to_date(job, found, started)
        return _build(job, started, progress)


def _build(job: Job, started: float, progress: Progress) -> Outcome:
    from trtforge.backends.base import CompileRequest
    from trtforge.pipeline import kit, record, verify
    from trtforge.pipeline.prepare import prepare

    here = job.backend.availability()
    if not here.can_compile and job.backend.name != "tensorrt":
        raise_unavailable(job, here.why, here.next)
    prepared = prepare(job, progress=progress)
    if not here.can_compile:
        path = kit.write(job, prepared)
        facts = _scale_facts(prepared)
        return Outcome(job, "kit", path, None, time.monotonic() - started, here.why, None, facts)
    with _workdir() as workdir:
        probes = [] if job.calibration_set is None else list(islice(job.calibration_set, PROBES))
        request = CompileRequest(
            model=prepared.model,
            scales=prepared.scales,
            engine=job.engine,
            target=job.target,
            workdir=workdir,
            probes=probes,
            progress=progress,
        )
        result = job.backend.compile(request)
        parity = verify.after_compile(job, result, workdir, progress)
        manifest = record.manifest(job, prepared, result, parity)
        files = dict(result.files)
        if prepared.scales_path is not None:
            files["scales.json"] = prepared.scales_path
        published = job.store.publish(job.name, files, manifest)
    return Outcome(
        job,
        "built",
        published.path,
        published.version,
        time.monotonic() - started,
        parity=manifest.parity,
        facts=_facts(prepared, result, parity, manifest),
    )


def _up_to_date(job: Job, found: EngineVersion, started: float) -> Outcome:
    return Outcome(
        job, "up-to-date", found.path, found.version, time.monotonic() - started, parity=found.manifest.parity
    )
