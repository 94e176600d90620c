"""One build by TensorRT-RTX, for GPUs that need not be here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from trtforge.backends.nvidia.answer import CompileJob, Compiler
from trtforge.backends.nvidia.options import Options
from trtforge.backends.tensorrt_rtx_ import environment


def job(
    onnx: Path,
    plan: Path,
    compute_capabilities: Sequence[str],
    workspace: int,
    label: str,
    plugins: Sequence[str] = (),
) -> CompileJob:
    """``compute_capabilities`` in TensorRT-RTX's spelling, "SM80"; ``workspace`` in bytes.

    ``plugins``: names of ours that the graph has.
    """
    compiler = Compiler(
        "tensorrt_rtx", "TensorRT-RTX", environment.INSTALL + " --force-reinstall", environment.child_environment()
    )
    options = Options(workspace, compute_capabilities=tuple(compute_capabilities))
    return CompileJob(compiler, onnx, plan, options, label, tuple(plugins))
