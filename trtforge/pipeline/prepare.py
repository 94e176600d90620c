"""From a job to what a compiler needs: the float graph after surgery, and its scales, calibrated at most once.

A table is a property of model and data, so it is cached by those, outside any store: the A100's build reuses
the ranges that the host's build gathered.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from trtforge.cache import cache_dir
from trtforge.digest import digest_json
from trtforge.errors.base import TrtforgeError
from trtforge.errors.graph import UnknownPass
from trtforge.files import remove_leftovers
from trtforge.graph import io
from trtforge.graph.digests import digests
from trtforge.graph.model import Digests, Model
from trtforge.graph.surgery import SurgeryResult, perform
from trtforge.pipeline import linted, plugins
from trtforge.pipeline.classes import check_classes
from trtforge.pipeline.job import Job, tool_versions
from trtforge.pipeline.plugins import Planned
from trtforge.progress import QUIET, Progress
from trtforge.samples.listed import preprocessing
from trtforge.scales.codecs.qdq import refuse_quantized
from trtforge.scales.collect import collect
from trtforge.scales.table import ScaleTable, check_matches

RECALIBRATE = (
    "run `trtforge calibrate` on a recipe with this model, this `surgery` and a calibration set, and name its file here"
)


@dataclass(frozen=True)
class Prepared:
    """``scales_path`` is where the table lies (None without INT8); ``reused``: it was calibrated earlier.

    ``planned``: what becomes of the plugins in ``surgery``, and the graph that is decided for.
    """

    surgery: SurgeryResult
    digests: Digests
    scales: ScaleTable | None
    scales_path: Path | None
    reused: bool
    planned: Planned

    @property
    def model(self) -> Model:
        """The float graph to compile."""
        return self.planned.model


def surgery(job: Job, *, progress: Progress = QUIET) -> SurgeryResult:
    """Load the job's model and run its surgery passes. Raises ONX errors."""
    try:
        return perform(io.load(job.model.path), plugins.steps(job), progress=progress)
    except UnknownPass as error:
        raise plugins.unknown(job, error) from error


def measured(job: Job, model: Model) -> Model:
    """The graph that ranges are gathered on: ``model``, after surgery, but for passes that keep those before."""
    if job.engine.precision != "int8" or not plugins.late(job):
        return model
    return perform(io.load(job.model.path), plugins.steps(job, measured=True)).model


def known_scales(job: Job, model: Model) -> ScaleTable | None:
    """Ranges without calibrating for them: the recipe's file, or an earlier calibration's; None when there are none.

    ``model``: the graph after surgery. Samples that are not here (MLPerf's are fetched) were not calibrated on here.
    Raises CAL errors for a file that the recipe names.
    """
    if job.engine.precision != "int8":
        return None
    if job.scales_file is not None:
        return ScaleTable.load(job.scales_file)
    try:
        path = scales_path(job, digests(measured(job, model))) if job.calibration_set is not None else None
    except TrtforgeError:
        return None
    return ScaleTable.load(path) if path is not None and path.exists() else None


def prepare(job: Job, *, fresh: bool = False, progress: Progress = QUIET) -> Prepared:
    """Surgery, then calibration (or the table the recipe names). ``fresh`` ignores a cached table.

    Says first what lint finds. Raises LintFailed (LNT101), ONX, CAL errors; CAL232 for a model that is in INT8 already.
    """
    result = surgery(job, progress=progress)
    if job.engine.precision == "int8":
        refuse_quantized(result.model.proto)
    named = ScaleTable.load(job.scales_file) if job.scales_file is not None else None
    linted.check(job, result.model, named, progress)
    check_classes(job, result.model)
    source = measured(job, result.model)
    identity = digests(source)
    if (table := named) is not None and job.scales_file is not None:
        said = preprocessing(job.sample_inputs)
        check_matches(table, identity, preprocessing=said, where=str(job.scales_file), next=RECALIBRATE)
        return _planned(job, result, identity, table, job.scales_file, reused=True)
    if job.calibration_set is None:
        return _planned(job, result, identity, None, None, reused=False)
    path = scales_path(job, identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Builds for two targets may need the same table at once: the second waits and finds it made.
    with FileLock(path.with_suffix(".lock")):
        if not fresh and (cached := _cached(path, progress)) is not None:
            path.with_suffix(".part").unlink(missing_ok=True)  # of a run that was killed right behind its end
            return _planned(job, result, identity, cached, path, reused=True)
        made = _calibrate(job, source, path, fresh, progress)
    return _planned(job, result, identity, made, path, reused=False)


def _planned(
    job: Job, result: SurgeryResult, identity: Digests, table: ScaleTable | None, path: Path | None, *, reused: bool
) -> Prepared:
    return Prepared(result, identity, table, path, reused, plugins.plan(job, result.model, table))


def _calibrate(job: Job, model: Model, path: Path, fresh: bool, progress: Progress) -> ScaleTable:
    assert job.calibration_set is not None and job.engine.calibration is not None
    checkpoint = path.with_suffix(".part")
    for file in (path, checkpoint):
        remove_leftovers(file)
    if fresh:
        checkpoint.unlink(missing_ok=True)
    fused = job.engine.calibration.method == "minmax-fused"
    try:
        table = collect(model, job.calibration_set, progress=progress, checkpoint=checkpoint, fused=fused)
    except KeyboardInterrupt:
        if checkpoint.exists():
            progress.log(f"{job.name}: what is calibrated so far is kept; the same command goes on from there")
        raise
    table.save(path)
    checkpoint.unlink(missing_ok=True)
    return table


def _cached(path: Path, progress: Progress) -> ScaleTable | None:
    """The table calibrated earlier; a damaged one is said and made again, for it is only a cache."""
    if not path.exists():
        return None
    try:
        return ScaleTable.load(path)
    except TrtforgeError as error:
        progress.warn(f"calibrating again: {path} cannot be used ({error.what})")
        return None


def scales_path(job: Job, identity: Digests) -> Path:
    """Where the calibrated table of this model on these samples is cached."""
    assert job.calibration_set is not None and job.engine.calibration is not None
    tools = {name: version for name, version in tool_versions().items() if name in ("onnxruntime", "trtforge")}
    samples, method = job.calibration_set, job.engine.calibration.method
    key = digest_json([identity.graph, identity.weights, samples.identities(), samples.describe(), method, tools])
    return cache_dir() / "scales" / f"{key}.json"
