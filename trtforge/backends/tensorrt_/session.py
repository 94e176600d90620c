"""Loading a plan of native TensorRT on the device it was built on. Not yet run on hardware."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from trtforge.backends.nvidia.log import last_words_logger
from trtforge.backends.nvidia.plugins import for_this_gpu, needed, register_all
from trtforge.backends.nvidia.session import PlanSession
from trtforge.errors.engine import CannotDeserialize


def load(plan: Path, report: Mapping[str, Any]) -> PlanSession:
    """``report``: of the build. Raises PluginNotHere, ForeignGpu, CannotDeserialize, ExecutionFailed."""
    trt, log = _tensorrt()
    return loaded(trt, log, plan, report)


def loaded(trt: Any, log: Any, plan: Path, report: Mapping[str, Any]) -> PlanSession:
    """With a module that is given."""
    dla = report.get("dla")
    if dla is not None and dla["standalone"]:
        raise _refusal(plan, "it is a loadable for cuDLA, which TensorRT does not run", "load it with cuDLA")
    if not trt.init_libnvinfer_plugins(log, ""):
        raise _refusal(plan, "NVIDIA's own plugins could not be loaded: " + log.last_words())
    kinds = needed(report, plan)
    for_this_gpu(kinds, plan)
    creators = register_all(trt, kinds, plan)
    runtime = trt.Runtime(log)
    if dla is not None:
        if runtime.num_DLA_cores <= dla["core"]:
            raise _refusal(plan, f"it is for DLA core {dla['core']}, and this machine has {runtime.num_DLA_cores}")
        runtime.DLA_core = dla["core"]
    if report.get("version_compatible"):
        runtime.engine_host_code_allowed = True  # such a plan brings a part of TensorRT with it
    engine = runtime.deserialize_cuda_engine(plan.read_bytes())
    if engine is None:
        raise _refusal(plan, log.last_words() or "TensorRT gave no reason")
    session = PlanSession(
        trt, log, engine, str(plan), scales=report["scales"], outside=report["outside"], dla=dla is not None
    )
    session.kept = (runtime, creators)  # TensorRT wants them alive as long as the engine
    return session


@cache
def _tensorrt() -> tuple[Any, Any]:
    """The module, and one logger for the process."""
    trt = import_module("tensorrt")
    return trt, last_words_logger(trt)


def _refusal(plan: Path, why: str, next_: str = "") -> CannotDeserialize:
    return CannotDeserialize(
        "TensorRT does not load the engine",
        where=str(plan),
        why=why,
        next=next_ or "build it again on this device: trtforge build RECIPE",
    )
