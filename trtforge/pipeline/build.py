"""Build one engine: nothing when an engine of the same inputs exists, else prepare, compile, verify, publish."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from trtforge.pipeline.job import Job, tool_versions
from trtforge.progress import QUIET, Progress

if TYPE_CHECKING:
    from trtforge.backends.base import CompileRequest, CompileResult
    from trtforge.engines.kit import Kit
    from trtforge.engines.signature import Signer
    from trtforge.engines.store import EngineVersion
    from trtforge.pipeline.prepare import Prepared
    from trtforge.samples.base import Sample

PROBES, PROBE_WINDOWS = 4, 1  # samples handed to a backend for its self-checks; a window has millions of values


@dataclass(frozen=True)
class Outcome:
    """What a build did. ``path``: the version folder, or the kit. ``facts``: lines for a person.

    Of a kit only: ``there``: an earlier build wrote it. ``signed_by``: the key's fingerprint; empty without one.
    """

    job: Job
    status: Literal["built", "up-to-date", "republished", "kit"]
    path: Path
    version: int | None
    seconds: float
    why: str = ""
    parity: Mapping[str, Any] | None = None
    facts: list[str] = field(default_factory=list)
    there: bool = False
    signed_by: str = ""


@dataclass(frozen=True)
class KitWish:
    """What is said about kits. ``wanted``: one is, also where this machine could compile. ``path``: another place than
    beside the store's engines. ``signer``: who signs it. ``samples``: it may keep some, for the device to measure by.
    """

    wanted: bool = False
    path: Path | None = None
    signer: Signer | None = None
    samples: bool = True


NO_WISH = KitWish()


def build(job: Job, *, force: bool = False, kit: KitWish = NO_WISH, progress: Progress = QUIET) -> Outcome:
    """Build, verify and publish the engine of a job; a kit when one is wanted or only the device can compile it.

    Two builds of one engine at once wait for each other; the second finds the first's engine.
    Raises ONX, CAL, BLD, ENG, VER and ENV errors; then nothing was published.
    """
    started = time.monotonic()
    _ = job.key  # digested before the work: it tells of the files that the work begins with
    if not force and (found := _existing(job, kit, started)):
        return found
    with job.store.build_lock(job.name, progress=progress):
        if not force and (found := _existing(job, kit, started) or _again(job, kit, started, progress)):
            return found
        return _build(job, kit, started, progress)


def _existing(job: Job, kit: KitWish, started: float) -> Outcome | None:
    """What an earlier build of the same inputs left: an engine, or a kit that waits for its device."""
    from trtforge.pipeline import reference

    if not kit.wanted and (found := newest(job, started) or _finished_elsewhere(job, started)):
        reference.remember(job)
        return found
    if kit.wanted or needs_device(job):
        path = kit.path or job.kit_path
        if _has_kit(job, path, kit):
            return _kit_outcome(job, path, started, kit, there=True)
    return None


def newest(job: Job, started: float) -> Outcome | None:
    """The engine of a job's inputs, when it is the newest version."""
    found = job.store.find(job.name, job.key)
    if found is None or found.version != job.store.versions(job.name)[-1]:
        return None
    return _up_to_date(job, found, started)


def _up_to_date(job: Job, found: EngineVersion, started: float) -> Outcome:
    seconds = time.monotonic() - started
    return Outcome(job, "up-to-date", found.path, found.version, seconds, parity=found.manifest.parity)


def _finished_elsewhere(job: Job, started: float) -> Outcome | None:
    """The newest version, when a device made it of these inputs: its key has that device's tools, unknown here."""
    if not needs_device(job) or not (versions := job.store.versions(job.name)):
        return None
    from trtforge.errors.engine import ManifestChanged, ManifestUnreadable

    try:
        version = job.store.get(job.name, versions[-1])
    except (ManifestChanged, ManifestUnreadable):
        return None
    theirs, ours = dict(version.manifest.key_inputs), dict(job.key_inputs)
    tools, prepared_with = theirs.pop("tools", {}), tool_versions()
    ours.pop("tools")
    made = str(tools.get("trtforge", "")).partition(";")[0]  # behind it, another source that finished it
    same = theirs == ours and {**tools, "trtforge": made}.items() >= prepared_with.items()
    return _up_to_date(job, version, started) if same and job.store.find(job.name, version.manifest.key) else None


def _again(job: Job, kit: KitWish, started: float, progress: Progress) -> Outcome | None:
    from trtforge.pipeline import reference

    if kit.wanted or (found := republished(job, started, progress)) is None:
        return None
    reference.remember(job)
    return found


def republished(job: Job, started: float, progress: Progress) -> Outcome | None:
    """An older version of the same inputs, published again: whoever asks for the engine gets the newest version."""
    from trtforge.engines.load import check_files
    from trtforge.errors.engine import EngineFileChanged, EngineFileMissing

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
    facts = [f"the same inputs gave version {older.version}: published again, nothing was compiled"]
    seconds = time.monotonic() - started
    return Outcome(job, "republished", new.path, new.version, seconds, "", new.manifest.parity, facts)


def _kit_at(path: Path) -> Kit | None:
    """The kit there; None for one that is not sound, too: it is made again."""
    from trtforge.engines.kit import read_kit
    from trtforge.errors.base import TrtforgeError

    try:
        return read_kit(path) if path.exists() else None
    except TrtforgeError:
        return None


def _has_kit(job: Job, path: Path, wish: KitWish) -> bool:
    from trtforge.backends.tensorrt_.backend import TIMING_FILE
    from trtforge.digest import sha256_file

    found = _kit_at(path)
    if found is None or found.info.key != job.key or found.info.facts.get("samples") != wish.samples:
        return False
    times = found.info.members.get(TIMING_FILE)
    if (times and times.sha256) != (job.timing and sha256_file(job.timing)):
        return False
    return (found.signature and found.signature.key) == (wish.signer and wish.signer.public)


def needs_device(job: Job) -> bool:
    """Native TensorRT compiles on the device only: here there can be a kit, no engine."""
    return job.backend.name == "tensorrt" and not job.backend.availability().can_compile


def _build(job: Job, wish: KitWish, started: float, progress: Progress) -> Outcome:
    from trtforge.engines.signature import claimed
    from trtforge.pipeline import kit, reference, verify
    from trtforge.pipeline.prepare import prepare
    from trtforge.pipeline.workdir import workdir

    for_device = wish.wanted or needs_device(job)
    if for_device and job.backend.name == "tensorrt" and job.engine.precision == "int8":
        kit.tensorrt_version(job)  # what it raises is better raised before the calibration
    prepared = prepare(job, progress=progress)
    with workdir() as folder:
        if for_device:
            parity = verify.prepared(job, prepared, folder, progress)  # first: a kit that misses its bound is none
            path = wish.path or job.kit_path
            before = _kit_at(path) if wish.signer is None else None
            kit.write(
                job,
                prepared,
                folder,
                path=path,
                engine_files=window_files(job, folder, progress),
                # Only onnxruntime checks itself by them, and samples are the user's data: no more than needed.
                probes=_probes(job) if job.backend.name == "onnxruntime" else [],
                parity=parity,
                samples=wish.samples,
                signer=wish.signer,
                progress=progress,
            )
            if before is not None and before.signature is not None:
                progress.warn(f"{path}: was signed by {claimed(before.signature)}; the new kit is not signed")
            return _kit_outcome(job, path, started, wish, parity, _facts(prepared, {}, parity))
        outcome = produce(
            job,
            prepared,
            folder,
            probes=_probes(job),
            beside=window_files(job, folder, progress),
            measure=lambda result: verify.compiled(job, result, progress),
            started=started,
            progress=progress,
        )
    reference.remember(job)
    return outcome


def _kit_outcome(
    job: Job,
    path: Path,
    started: float,
    wish: KitWish,
    parity: Mapping[str, Any] | None = None,
    facts: Sequence[str] = (),
    there: bool = False,
) -> Outcome:
    why = "" if wish.wanted else job.backend.availability().why
    signed_by = "" if wish.signer is None else wish.signer.fingerprint
    return Outcome(job, "kit", path, None, time.monotonic() - started, why, parity, list(facts), there, signed_by)


def produce(
    job: Job,
    prepared: Prepared,
    folder: Path,
    *,
    probes: Sequence[Sample],
    beside: Mapping[str, Path],
    measure: Callable[[CompileResult], dict[str, Any] | None],
    started: float,
    progress: Progress,
) -> Outcome:
    """Compile what was prepared, measure the engine, publish it.

    Args:
        probes: samples for the backend's self-checks.
        beside: further files of the engine's folder.
        measure: the verdict on the engine; raises when it misses its bound.
    """
    from trtforge.pipeline import record

    result = job.backend.compile(_request(job, prepared, folder, probes, progress))
    parity = measure(result)
    files = dict(result.files) | dict(beside)
    if prepared.scales_path is not None:
        files["scales.json"] = prepared.scales_path
    manifest = record.manifest(job, prepared, result, parity)
    published = job.store.publish(job.name, files, manifest, progress=progress)
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


def _request(
    job: Job, prepared: Prepared, workdir: Path, probes: Sequence[Sample], progress: Progress
) -> CompileRequest:
    from trtforge.backends.base import CompileRequest

    return CompileRequest(
        model=prepared.model,
        scales=prepared.scales,
        engine=job.engine,
        target=job.target,
        workdir=workdir,
        plugins=prepared.planned.plan,
        situation=prepared.planned.situation,
        probes=probes,
        timing=job.timing,
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
        from trtforge.evaluate.bounds import told

        value, bound = told(parity["value"], parity["at_least"])
        lines.append(f"parity: {parity['metric']} {value}, bound {bound}; {parity['measured_on']}")
    return lines
