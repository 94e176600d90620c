"""The compiler's own process: ``python -m trtforge.backends.tensorrt_rtx_.child JOB.json EVENT_FD``.

It parses, builds, writes the plan, and reports events as JSON lines on the descriptor it is given; whatever the
compiler prints by itself stays on stderr. It is a process because the parser can abort. The ``done`` event comes when
the plan is whole on disk; a ``failed`` one says at which stage.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, TextIO

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    job = json.loads(Path(arguments[0]).read_text())
    _die_with_parent(job["parent"])
    with os.fdopen(int(arguments[1]), "w", buffering=1) as events:
        return _build(job, events)


def _build(job: dict[str, Any], events: TextIO) -> int:
    def emit(event: str, **facts: Any) -> None:
        events.write(json.dumps({"event": event, **facts}) + "\n")

    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        emit("failed", stage="import", message=str(error))
        return 1

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.INFO:
                emit("log", severity=severity.name, message=message)

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

    started = time.perf_counter()
    logger, monitor = Logger(), Monitor()
    creators = _register(trt, job["plugins"])  # the registry does not keep them alive
    builder = trt.Builder(logger)
    network = builder.create_network(0)  # always strongly typed
    parser = trt.OnnxParser(network, logger)
    emit("phase", name="Parsing ONNX", parent=None, steps=1)
    if not parser.parse_from_file(job["onnx"]):
        problems = [_problem(parser.get_error(index)) for index in range(parser.num_errors)]
        emit("failed", stage="parse", message="", problems=problems)
        return 1
    emit("phase_end", name="Parsing ONNX")
    parsed = time.perf_counter()

    config = builder.create_builder_config()
    config.progress_monitor = monitor
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, job["workspace"])
    config.num_compute_capabilities = len(job["compute_capabilities"])
    for index, name in enumerate(job["compute_capabilities"]):
        capability = getattr(trt.ComputeCapability, name, None)
        if capability is None or not config.set_compute_capability(capability, index):
            emit("failed", stage="capability", message=f"this TensorRT-RTX has no ComputeCapability.{name}")
            return 1

    plan = builder.build_serialized_network(network, config)
    if plan is None:  # the binding raises nothing: the reason is in the log
        emit("failed", stage="build", message="")
        return 1
    with Path(job["plan"]).open("wb") as stream:
        stream.write(memoryview(plan))
    del creators
    emit(
        "done",
        version=trt.__version__,
        parse_seconds=round(parsed - started, 3),
        build_seconds=round(time.perf_counter() - parsed, 3),
        inputs=[_tensor(network.get_input(index)) for index in range(network.num_inputs)],
        outputs=[_tensor(network.get_output(index)) for index in range(network.num_outputs)],
    )
    return 0


def _register(trt: Any, names: list[str]) -> list[Any]:
    """Put the plugins of ours that the graph has into the registry."""
    if not names:
        return []
    from trtforge import plugins
    from trtforge.kernels.tensorrt import register

    return [register(trt, plugins.kinds()[name], {}) for name in names]


def _problem(error: Any) -> dict[str, Any]:
    return {
        "code": str(error.code()).rpartition(".")[2],
        "message": error.desc(),
        "node": error.node_name(),
        "operator": error.node_operator(),
    }


def _tensor(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "shape": list(tensor.shape), "dtype": tensor.dtype.name}


def _die_with_parent(parent: int) -> None:
    """A build whose caller was killed outright must not go on alone. Linux only; elsewhere it runs to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
