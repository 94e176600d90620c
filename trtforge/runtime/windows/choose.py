"""Which loop: on the GPU where the engine is one for a GPU and its kernels are here, else on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import cast

from trtforge.backends.base import Session
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Windows
from trtforge.runtime.windows import kept
from trtforge.runtime.windows.accumulate import Floats
from trtforge.runtime.windows.cubins import WINDOWS
from trtforge.runtime.windows.cuda import DeviceSession, run_on_gpu
from trtforge.runtime.windows.loop import Segmented, Window, segment
from trtforge.runtime.windows.memory import predict
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid


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
        return hasattr(session, "bind") and bool(self.cubins) and not probabilities and not self.options.mirror

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
        labels = run_on_gpu(device, volume, grid, self.weights, self.cubins, progress=progress)
        seconds = time.perf_counter() - started
        return Segmented(labels, None, len(grid), "gpu", seconds, seconds)
