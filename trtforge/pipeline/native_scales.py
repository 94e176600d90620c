"""`trtforge calibrate --native`: a job's ranges gathered by TensorRT on the device, as a table with its receipt."""

from __future__ import annotations

from trtforge.backends.base import CompileRequest
from trtforge.digest import set_digest
from trtforge.errors.backend import NeedsDevice
from trtforge.errors.usage import OptionsContradict
from trtforge.graph.digests import digests
from trtforge.pipeline.job import Job, tool_versions
from trtforge.pipeline.prepare import measured, surgery
from trtforge.pipeline.workdir import workdir
from trtforge.progress import Progress
from trtforge.samples.listed import preprocessing
from trtforge.scales.codecs.trt_cache import NOTE
from trtforge.scales.table import Receipt, ScaleTable


def calibrate(job: Job, *, progress: Progress) -> ScaleTable:
    """Raises OptionsContradict (USE112) for another backend, NeedsDevice (KIT101) where TensorRT is not; what
    `backends.tensorrt_.calibrate` raises."""
    from trtforge.backends.tensorrt_.backend import NativeTensorRT, known_features
    from trtforge.backends.tensorrt_.calibrate import calibrate as gather

    backend = job.recipe.recipe.backend
    if backend != "tensorrt":
        raise OptionsContradict(
            f"{job.name} is not built by TensorRT itself, so its calibrator is not asked",
            where=f"--native, and the recipe's backend `{backend}`",
            why="native ranges are of the tensors that TensorRT's parser makes, for recipes with backend `tensorrt`",
            next=f"calibrate on this CPU: trtforge calibrate {job.recipe.path}",
        )
    here, samples = NativeTensorRT().availability(), job.calibration_set
    assert samples is not None
    if not here.can_compile:
        raise NeedsDevice(
            f"{job.name} cannot be calibrated by TensorRT on this machine",
            where=f"target {job.target.key}",
            why=here.why,
            next="run this on the device, or calibrate on this CPU: trtforge calibrate RECIPE",
        )
    model = measured(job, surgery(job, progress=progress).model)
    with workdir() as folder:
        request = CompileRequest(model, None, job.engine, job.target, folder, progress=progress)
        cache = gather(request, samples, known_features(here.version))
    table, identity, done = cache.to_table(), digests(model), dict(samples.identities())
    receipt = Receipt(
        method=f"{cache.algorithm} by TensorRT {here.version}",
        samples=done,
        set_digest=set_digest(list(done.values())),
        preprocessing=preprocessing(job.sample_inputs),
        model_graph=identity.graph,
        model_weights=identity.weights,
        tools=tool_versions() | {"tensorrt": here.version},
    )
    return ScaleTable(table.ranges, receipt, {NOTE: table.notes[NOTE]})
