"""Loading a TensorRT-RTX engine on a GPU; `trtforge.backends.nvidia.session` runs it.

Not yet run on hardware: the calls are checked against the installed bindings, and nothing here has executed an engine.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trtforge.backends.nvidia.log import last_words_logger
from trtforge.backends.nvidia.plugins import for_this_gpu, needed, register_all
from trtforge.backends.nvidia.session import PlanSession
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.errors.engine import CannotDeserialize
from trtforge.errors.environment import MissingPackage, NoGpu


class RtxSession(PlanSession):
    """A loaded engine on GPU 0.

    ``report``: of the build; it names the plugins that are registered before the engine is read, and whose kernels
    must be here for this GPU. Raises PluginNotHere, NoGpu, ForeignGpu, MissingPackage, CannotDeserialize.
    """

    def __init__(self, plan: Path, report: Mapping[str, Any]) -> None:
        kinds = needed(report, plan)
        if problem := environment.driver_problem():
            raise NoGpu(
                "the engine cannot run on this machine",
                where=str(plan),
                why=problem,
                next="run it on a machine with the GPU it was built for; here it can be inspected: trtforge inspect",
            )
        for_this_gpu(kinds, plan)
        trt, log = _tensorrt_rtx()
        creators = register_all(trt, kinds, plan)
        runtime = trt.Runtime(log)
        super().__init__(trt, log, _deserialize(trt, log, runtime, plan), str(plan))
        self.kept = (runtime, creators)  # TensorRT-RTX wants them alive as long as the engine


def _deserialize(trt: Any, log: Any, runtime: Any, plan: Path) -> Any:
    data = plan.read_bytes()
    validity, diagnostics = runtime.get_engine_validity(data[: runtime.engine_header_size])
    if validity == trt.EngineValidity.INVALID:
        reasons = trt.EngineInvalidityDiagnostics.__members__.values()
        flags = [reason.name for reason in reasons if int(diagnostics) & int(reason)]
        raise _refusal(plan, f"the runtime's check of the header says {', '.join(flags) or diagnostics}", log)
    engine = runtime.deserialize_cuda_engine(data)
    if engine is None:
        raise _refusal(plan, "", log)
    return engine


def _refusal(plan: Path, why: str, log: Any) -> CannotDeserialize:
    return CannotDeserialize(
        "TensorRT-RTX does not load the engine",
        where=str(plan),
        why=" | ".join(part for part in (why, log.last_words()) if part) or "the runtime gave no reason",
        next="rebuild it for the GPU and the TensorRT-RTX of this machine: trtforge build RECIPE",
    )


@cache
def _tensorrt_rtx() -> tuple[Any, Any]:
    """The module and the one logger of this process: TensorRT-RTX ignores a second one."""
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise MissingPackage(
            "running this engine needs TensorRT-RTX", why=str(error), next=environment.INSTALL
        ) from error
    return trt, last_words_logger(trt)
