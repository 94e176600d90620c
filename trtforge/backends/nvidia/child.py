"""The compiler's own process: ``python -m trtforge.backends.nvidia.child JOB.json EVENT_FD [SAMPLE_FD]``.

It parses, configures, builds, writes the plan, and reports events as JSON lines on the descriptor it is given; whatever
the compiler prints by itself stays on stderr. It is a process because the parser can abort. The ``done`` event comes
when the plan is whole on disk; a ``failed`` one says at which stage.
"""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from trtforge.backends.nvidia.build import Failed, build

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> int:
    job = json.loads(Path(arguments[0]).read_text())
    _die_with_parent(job["parent"])
    with os.fdopen(int(arguments[1]), "w", buffering=1) as events:

        def emit(event: str, **facts: Any) -> None:
            events.write(json.dumps({"event": event, **facts}) + "\n")

        samples = int(arguments[2]) if len(arguments) > 2 else None
        return _run(job, emit, samples)


def _run(job: dict[str, Any], emit: Callable[..., None], samples: int | None) -> int:
    try:
        trt = import_module(job["module"])
    except ImportError as error:
        emit("failed", stage="import", message=str(error))
        return 1
    started = time.perf_counter()
    creators = _register(trt, job["plugins"])  # the registry does not keep them alive
    try:
        facts = build(trt, job, emit, samples)
    except Failed as failed:
        emit("failed", stage=failed.stage, message=str(failed), **failed.facts)
        return 1
    del creators
    emit("done", version=trt.__version__, seconds=round(time.perf_counter() - started, 3), **facts)
    return 0


def _register(trt: Any, names: list[str]) -> list[Any]:
    """Put the plugins of ours that the graph has into the registry."""
    if not names:
        return []
    from trtforge import plugins
    from trtforge.kernels.tensorrt import register

    return [register(trt, plugins.kinds()[name], {}) for name in names]


def _die_with_parent(parent: int) -> None:
    """A build whose caller was killed outright must not go on alone. Linux only; elsewhere it runs to its end."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before the line above
            sys.exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
