"""Which loop: on the GPU where the engine is one for a GPU and its kernels are here, else on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any, cast

from trtforge.backends.base import Session
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Windows
from trtforge.runtime.windows import kept
from trtforge.runtime.windows.accumulate import Floats
from trtforge.runtime.windows.cubins import WINDOWS
from trtforge.runtime.windows.cuda import DeviceSession, run_on_gpu
from trtforge.runtime.windows.cuda_memory import Layout
from trtforge.runtime.windows.loop import Segmented, Window, segment
from trtforge.runtime.windows.memory import predict
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid


@dataclass(frozen=True)
class _Bound:
    """A session by the memory that is bound to it: INT8 in groups of channels where its arrays are plain floats."""

    session: DeviceSession
    layout: str
    scale: float | None
    outputs_linear: bool = True


def _bound(session: DeviceSession) -> _Bound:
    borders = getattr(session, "borders", None)
    if borders is None or len(session.inputs) != 1:
        return _Bound(session, "linear", None)
    taken = borders[session.inputs[0].name]
    scale = taken.scale if taken.dtype.name == "int8" else None
    linear = all(borders[spec.name].format == "linear" for spec in session.outputs)
    return _Bound(_Inside(session, borders), taken.format, scale, linear)


def _fits(bound: _Bound) -> bool:
    """The kernels write windows in these two orders, and read scores in floats."""
    scores = all(spec.dtype in ("float16", "float32") for spec in bound.session.outputs)
    return bound.layout in ("linear", "cdhw32") and bound.outputs_linear and scores


class _Inside:
    """A session whose tensors are said to be what the engine has inside."""

    def __init__(self, session: DeviceSession, borders: Mapping[str, Any]) -> None:
        self.run, self.bind = session.run, session.bind
        self.enqueue, self.capturable = session.enqueue, session.capturable
        self.inputs, self.outputs = (
            tuple(replace(spec, dtype=borders[spec.name].dtype.name) for spec in side)
            for side in (session.inputs, session.outputs)
        )


@dataclass(frozen=True)
class Loop:
    """The window loop of one engine, with what the engine keeps for it loaded before the first scan."""

    options: Windows
    weights: WindowWeights
    cubins: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path, options: Windows, window: tuple[int, int, int]) -> Loop:
        """``folder``: of the engine's version. Raises OSError."""
        cubins = {sm: path.read_bytes() for sm, path in WINDOWS.files(folder).items()}
        return cls(options, kept.weights(folder, options, window), cubins)

    def on_gpu(self, session: Session, *, probabilities: bool) -> bool:
        """The GPU's loop gives labels only, and runs each window once."""
        wanted = bool(self.cubins) and not probabilities and not self.options.mirror
        return wanted and hasattr(session, "bind") and _fits(_bound(cast(DeviceSession, session)))

    def memory(self, session: Session, window: Window, grid: WindowGrid, *, probabilities: bool) -> dict[str, int]:
        """Bytes of this machine's memory that a run takes, by name, beside scan and network; see `memory.predict`."""
        if self.on_gpu(session, probabilities=probabilities):
            return {"volume": 4 * prod(grid.shape), "labels": prod(grid.shape)}
        return predict(grid, window, mirrored=bool(self.options.mirror), probabilities=probabilities)

    def run(
        self,
        session: Session,
        volume: Floats,
        shape: Sequence[int],
        *,
        probabilities: bool = False,
        progress: Progress = QUIET,
    ) -> Segmented:
        """As `loop.segment`, whichever loop it is. Raises what that and `cuda.run_on_gpu` raise."""
        if not self.on_gpu(session, probabilities=probabilities):
            return segment(
                session,
                volume,
                shape,
                self.options,
                weights=self.weights,
                probabilities=probabilities,
                progress=progress,
            )
        started = time.perf_counter()
        device = cast(DeviceSession, session)
        depth, height, width = volume.shape
        grid = WindowGrid.of((depth, height, width), Window.of(session, shape).size, self.options.overlap)
        bound = _bound(device)
        labels = run_on_gpu(
            bound.session,
            volume,
            grid,
            self.weights,
            self.cubins,
            layout=cast(Layout, bound.layout),
            scale=bound.scale,
            progress=progress,
        )
        seconds = time.perf_counter() - started
        return Segmented(labels, None, len(grid), "gpu", seconds, seconds)
