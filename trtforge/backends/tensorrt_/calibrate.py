"""INT8 ranges gathered by TensorRT itself, on the device: its own calibrator, fed sample by sample.

The same min-max numbers as `trtforge calibrate` gathers on a CPU, of the tensors that TensorRT's parser makes of the
graph. TensorRT 8 to 10 only. Not yet run on hardware.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from trtforge.backends.nvidia.answer import CompileJob, Compiler
from trtforge.backends.nvidia.options import Options, memory_bytes
from trtforge.backends.nvidia.process import run, timeout_seconds
from trtforge.backends.tensorrt_ import environment
from trtforge.errors.native import NotOffered
from trtforge.graph.io import save
from trtforge.graph.shapes import freeze_inputs
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache

if TYPE_CHECKING:
    from trtforge.backends.base import CompileRequest
    from trtforge.backends.nvidia.features import Features
    from trtforge.samples.base import SampleSet


def calibrate(
    request: CompileRequest, samples: SampleSet, known: Features, *, algorithm: Algorithm = "MinMaxCalibration"
) -> CalibrationCache:
    """Build once, for the ranges; the engine is thrown away. A sample goes in alone, as batch of 1.

    Raises NotOffered (BLD221) where TensorRT has no calibrators, NativeCalibrationFailed (CAL241); what preparing a
    sample raises; compiler errors.
    """
    release = environment.version()
    if not known.calibrators:
        raise NotOffered(
            f"TensorRT {release} does not calibrate",
            where=f"target {request.target.key}",
            why="version 11 removed the INT8 calibrators",
            next="calibrate on a CPU, which gives the same ranges: trtforge calibrate RECIPE",
        )
    alone = {name: (1, *spec.shape[1:]) for name, spec in request.engine.inputs.items()}
    onnx, plan = request.workdir / "calibration" / "model.onnx", request.workdir / "calibration.plan"
    save(freeze_inputs(request.model, alone), onnx)
    options = Options(
        memory_bytes(request.engine.workspace),
        "int8",
        calibration={"samples": "", "algorithm": algorithm},
        stock_plugins=True,
    )
    compiler = Compiler("tensorrt", "TensorRT", environment.INSTALL, environment.child_environment())
    job = CompileJob(compiler, onnx, plan, options, f"calibrate {len(samples)} samples with TensorRT {release}")
    compiled = run(job, timeout=timeout_seconds(), progress=request.progress, samples=_fed(samples))
    assert compiled.calibration is not None  # `build` gives it whenever it was asked for
    _check_count(compiled.calibration["batches"], len(samples), request)
    return CalibrationCache.from_bytes(compiled.calibration["cache"].encode(), where="the cache TensorRT wrote")


def _fed(samples: SampleSet) -> Iterator[tuple[str, Any]]:
    for sample in samples:
        yield sample.id, sample.inputs


def _check_count(fed: int, there: int, request: CompileRequest) -> None:
    """TensorRT stops asking when it likes; then the ranges are of fewer samples than the receipt would say."""
    if fed == there:
        return
    from trtforge.errors.native import NativeCalibrationFailed

    raise NativeCalibrationFailed(
        "TensorRT did not ask for every sample",
        where=f"target {request.target.key}",
        why=f"it took {fed} of {there}",
        next="calibrate on a CPU: trtforge calibrate RECIPE",
    )
