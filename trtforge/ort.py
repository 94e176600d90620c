"""The one door to onnxruntime: telemetry is switched off before it is imported, and its log is kept quiet.

Since 1.31, onnxruntime on Linux keeps a telemetry database in the user's cache folder and may contact a
server; it reads its switch when it is imported. Nothing else in trtforge imports onnxruntime.
"""

from __future__ import annotations

import os
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from trtforge.errors.environment import MissingPackage

if TYPE_CHECKING:
    import onnx

_FATAL = 4  # onnxruntime severities: 0 verbose, 1 info, 2 warning, 3 error, 4 fatal; errors are raised as well


def import_onnxruntime() -> ModuleType:
    """The onnxruntime module, telemetry off and log level ``fatal``. Raises MissingPackage (ENV101)."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingPackage(
            "onnxruntime cannot be imported", why=str(error), next="pip install 'onnxruntime>=1.23,<2'"
        ) from error
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime  # type: ignore[no-any-return]


def session_options(*, threads: int | None = None) -> Any:
    """``SessionOptions`` with an explicit thread count and without the memory pattern.

    The pattern makes onnxruntime take a second arena of the peak size on the second run, at no gain in speed
    for one fixed shape. ``threads=None``: as many as this process may use.
    """
    options = import_onnxruntime().SessionOptions()
    options.intra_op_num_threads = threads or usable_cpus()
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False
    options.log_severity_level = _FATAL
    return options


def open_session(proto: onnx.ModelProto, folder: Path | None, options: Any) -> Any:
    """A CPU ``InferenceSession`` of a skeleton: ``folder`` is what external data is relative to.

    The graph goes in as bytes and the weights are mapped from their files by onnxruntime, so nothing is
    copied through Python and a model over 2 GB loads. Raises onnxruntime's own exceptions.
    """
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder.resolve()))
    return import_onnxruntime().InferenceSession(proto.SerializeToString(), options, ["CPUExecutionProvider"])


def usable_cpus() -> int:
    """CPUs this process may run on: its affinity where the system knows it, else all."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
