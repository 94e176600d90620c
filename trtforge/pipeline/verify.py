"""The recipe's bound, measured before anything is published: on the engine itself, or on what stands for it here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from trtforge.backends.base import CompileResult, Session
from trtforge.evaluate.labels import LabelsReport, compare_labels, compare_with_labels
from trtforge.evaluate.parity import ParityReport, compare
from trtforge.evaluate.reference import reference_session, simulated_session
from trtforge.pipeline.job import Job
from trtforge.pipeline.kit_samples import Answers, Kept
from trtforge.pipeline.prepare import Prepared
from trtforge.progress import Progress
from trtforge.samples.volumes import VolumeSamples

# Manifests and kits travel, so that "here" would be another machine where they are read.
BY_ENGINE = "the machine that built it, by the engine itself"
SIMULATED = "the CPU that built it: the graph given to the compiler, by onnxruntime; the engine itself has not run"
ELSEWHERE = "the machine that wrote the kit, on its graph computed by onnxruntime; the engine itself was not measured"
PLANNED = "the CPU that wrote the kit: its graph{}, computed by onnxruntime; no engine exists yet"


def compiled(job: Job, result: CompileResult, progress: Progress) -> dict[str, Any] | None:
    """Measure a compiled engine; None without a bound. Raises VerificationMissed (VER101) and what loading raises."""
    if job.engine.verify is None:
        return None
    session, measured_on = _engine(job, result)
    return _measure(job, session, measured_on, progress)


def kept(job: Job, result: CompileResult, samples: Kept, progress: Progress) -> dict[str, Any] | None:
    """Measure an engine compiled from a kit, with the samples in it; None when it has none. Raises as `compiled`."""
    if (verify := job.engine.verify) is None or not samples.verify:
        return None
    session, measured_on = _engine(job, result)
    report: ParityReport | LabelsReport
    if verify.metric == "dice":
        ((name, _),) = job.engine.inputs.items()
        labelled = ((each.sample.id, each.sample.inputs[name], each.outputs["labels"]) for each in samples.verify)
        report = compare_with_labels(session, labelled, job.engine, verify.at_least, progress=progress)
    else:
        given = [each.sample for each in samples.verify]
        reference = Answers(samples.verify)
        report = compare(reference, session, given, verify.metric, verify.at_least, progress=progress)
    if len(samples.verify) < samples.total:
        measured_on += f"; on the first {len(samples.verify)} of {samples.total} of the set, which the kit keeps"
    return _passed(job, report, measured_on)


def _engine(job: Job, result: CompileResult) -> tuple[Session, str]:
    """The engine, or what stands for it where it cannot run, and what that is called."""
    if job.backend.availability().can_run:
        folder = next(iter(result.files.values())).parent
        return job.backend.load(folder, result.report), BY_ENGINE
    assert result.graph is not None, f"{job.backend.name} cannot run here and gave no graph to simulate"
    return simulated_session(result.graph), SIMULATED


def prepared(job: Job, ready: Prepared, workdir: Path, progress: Progress) -> dict[str, Any] | None:
    """Measure what a kit holds, as the graph that the device's compiler will make of it. Raises as `compiled`."""
    if job.engine.verify is None:
        return None
    from trtforge.graph.io import save
    from trtforge.graph.shapes import freeze_inputs
    from trtforge.scales.codecs.qdq import insert

    model = freeze_inputs(ready.model, {name: spec.shape for name, spec in job.engine.inputs.items()})
    if ready.scales is not None:
        model, _ = insert(model, ready.scales, job.engine.quantize, for_dla=job.target.is_dla)
    graph = workdir / "simulated" / "model.onnx"
    save(model, graph)
    how = " with its scales as Q/DQ" if ready.scales is not None else " in FP32"
    return _measure(job, simulated_session(graph), PLANNED.format(how), progress)


def _measure(job: Job, candidate: Session, measured_on: str, progress: Progress) -> dict[str, Any]:
    verify, samples = job.engine.verify, job.verify_set
    assert verify is not None and samples is not None
    reference = reference_session(job.model.path)
    report: ParityReport | LabelsReport
    if verify.metric == "dice":
        assert isinstance(samples, VolumeSamples)
        report = compare_labels(reference, candidate, samples.cases(), job.engine, verify.at_least, progress=progress)
    else:
        report = compare(reference, candidate, samples, verify.metric, verify.at_least, progress=progress)
    return _passed(job, report, measured_on)


def _passed(job: Job, report: ParityReport | LabelsReport, measured_on: str) -> dict[str, Any]:
    if missed := report.missed(where=f"{job.name} for {job.target.key}"):
        raise missed
    return report.to_json() | {"measured_on": measured_on}
