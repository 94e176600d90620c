"""One build, from an ONNX file to a plan on disk, with the module that is given: the code of both compilers.

The bindings raise nothing when a build fails: they return None and log. So every answer is looked at.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from trtforge.backends.nvidia import configure
from trtforge.backends.nvidia.calibrator import from_cache, from_samples
from trtforge.backends.nvidia.configure import Unsupported
from trtforge.backends.nvidia.features import features
from trtforge.backends.nvidia.options import Options
from trtforge.backends.nvidia.readback import read_back

Emit = Callable[..., None]


class Failed(Exception):
    """``stage``: parse, options, timing, calibrate or build; ``facts``: more for the event."""

    def __init__(self, stage: str, message: str = "", **facts: Any) -> None:
        super().__init__(message)
        self.stage, self.facts = stage, facts


def build(trt: Any, job: Mapping[str, Any], emit: Emit, samples: int | None = None) -> dict[str, Any]:
    """Write ``job["plan"]``; what the ``done`` event says. Raises Failed.

    ``samples``: descriptor that calibration batches come from, see `trtforge.backends.nvidia.samples`.
    """
    options = Options.from_json(job["options"])
    logger = _logger(trt, emit)
    if options.stock_plugins and not trt.init_libnvinfer_plugins(logger, ""):
        raise Failed("options", "NVIDIA's own plugins could not be loaded")
    builder = trt.Builder(logger)
    started = time.perf_counter()
    try:
        network = builder.create_network(configure.network_flags(trt, options))
        parser = _parse(trt, network, logger, job["onnx"], options, emit)  # holds the weights until the build is over
        parsed = time.perf_counter()
        config = configure.configure(trt, builder, network, options)
        times = configure.use_timing_cache(trt, config, options)
    except Unsupported as error:
        raise Failed(error.stage, str(error)) from error
    if features(trt).progress:
        config.progress_monitor = _monitor(trt, emit)
    calibrator = _calibrator(trt, network, options, samples)
    if calibrator is not None:
        config.int8_calibrator = calibrator
    meant = configure.placement(trt, network, config) if options.dla is not None else []
    plan = builder.build_serialized_network(network, config)
    cache = _finish_calibration(calibrator, built=plan is not None)
    if plan is None:
        raise Failed("build")
    try:
        configure.keep_timing_cache(config, options, times)
    except Unsupported as error:
        raise Failed(error.stage, str(error)) from error
    _write(Path(job["plan"]), plan)
    del parser
    facts = {
        "parse_seconds": round(parsed - started, 3),
        "build_seconds": round(time.perf_counter() - parsed, 3),
        "inputs": [_tensor(tensor) for tensor in configure.inputs(network).values()],
        "outputs": [_tensor(tensor) for tensor in configure.outputs(network).values()],
        "placement": meant,
        "calibration": cache,
    }
    if options.inspect is not None:
        core = options.dla.core if options.dla is not None else None
        host_code = options.version_compatible
        engine = read_back(trt, logger, Path(job["plan"]), Path(options.inspect), dla_core=core, host_code=host_code)
        if engine is None:
            raise Failed("build", "the engine was built, and cannot be read back")
        facts["engine"] = engine
    return facts


def _parse(trt: Any, network: Any, logger: Any, onnx: str, options: Options, emit: Emit) -> Any:
    parser = trt.OnnxParser(network, logger)
    if options.stock_plugins and (options.version_compatible or options.hardware_compatibility != "none"):
        parser.set_flag(trt.OnnxParserFlag.NATIVE_INSTANCENORM)  # the plugin that 8.6 takes else is in no such engine
    for_dla = getattr(trt.OnnxParserFlag, "ADJUST_FOR_DLA", None)  # NVIDIA's advice for typed networks on a DLA
    if options.dla is not None and for_dla is not None:
        parser.set_flag(for_dla)
    emit("phase", name="Parsing ONNX", parent=None, steps=1)
    if not parser.parse_from_file(onnx):
        raise Failed("parse", problems=[_problem(parser.get_error(index)) for index in range(parser.num_errors)])
    emit("phase_end", name="Parsing ONNX")
    return parser


def _calibrator(trt: Any, network: Any, options: Options, samples: int | None) -> Any:
    wanted = options.calibration
    if wanted is None:
        return None
    if not features(trt).calibrators:
        raise Failed("options", f"TensorRT {trt.__version__} has no calibrators: INT8 ranges are Q/DQ nodes there")
    if "cache" in wanted:
        return from_cache(trt, wanted["algorithm"], Path(wanted["cache"]).read_bytes())
    from trtforge.backends.nvidia.memory import DeviceMemory
    from trtforge.backends.nvidia.samples import receive

    assert samples is not None
    types = {name: trt.nptype(tensor.dtype) for name, tensor in configure.inputs(network).items()}
    return from_samples(trt, wanted["algorithm"], receive(samples), DeviceMemory(), types)


def _finish_calibration(calibrator: Any, *, built: bool) -> dict[str, Any] | None:
    """What became of the ranges. Raises Failed: a calibration that ended early is worth nothing."""
    if calibrator is None:
        return None
    if hasattr(calibrator, "asked"):
        if calibrator.asked:
            raise Failed(
                "calibrate",
                "TensorRT did not take the calibration cache and wanted samples: the cache's first line must name this "
                "version and this calibrator",
            )
        return {"from": "cache"}
    calibrator.close()
    if calibrator.problem is not None:
        raise Failed("calibrate", f"batch {calibrator.given + 1}: {calibrator.problem}")
    if not built:
        return None  # the build failed for another reason, which the log has
    if not calibrator.written:
        raise Failed("calibrate", "TensorRT ended the calibration without giving its cache")
    return {"from": "samples", "batches": calibrator.given, "cache": calibrator.written.decode()}


def _logger(trt: Any, emit: Emit) -> Any:
    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                emit("log", severity=severity.name, message=message)

    return Logger()


def _monitor(trt: Any, emit: Emit) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            emit("phase", name=phase_name, parent=parent_phase, steps=num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            emit("step", name=phase_name, step=step)
            return True

        def phase_finish(self, phase_name: str) -> None:
            emit("phase_end", name=phase_name)

    return Monitor()


def _write(path: Path, data: Any) -> None:
    with path.open("wb") as stream:
        stream.write(memoryview(data))


def _problem(error: Any) -> dict[str, Any]:
    """``node_operator`` came after TensorRT 8."""
    return {
        "code": str(error.code()).rpartition(".")[2],
        "message": error.desc(),
        "node": error.node_name() if hasattr(error, "node_name") else "",
        "operator": error.node_operator() if hasattr(error, "node_operator") else "",
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}
