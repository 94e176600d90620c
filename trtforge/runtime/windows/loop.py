"""A volume through an engine, window by window, on the CPU.

The engine never waits for bookkeeping: while it computes a batch of windows, one thread cuts the next batch out of the
volume and adds the last one's logits to the accumulator.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np

from trtforge.backends.base import Session, TensorSpec
from trtforge.backends.feeds import describe
from trtforge.errors.windows import NotVoxelwise, ScoresNotFinite
from trtforge.progress import QUIET, Progress
from trtforge.recipe.models import Windows
from trtforge.runtime.windows.accumulate import Accumulator, Floats, Labels, NumpyAccumulator, accumulator
from trtforge.runtime.windows.blocks import Blocks
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes import aligned
from trtforge.volumes.windows import Shape, WindowGrid

Where = Literal["compiled", "numpy", "gpu"]
"""Which loop it was: the accumulator on the CPU, compiled or in NumPy, or the kernels on the GPU."""

AXES = {"d": 2, "h": 3, "w": 4}
"""Axes of a batch of windows, [N, 1, D, H, W], by the letters of `mirror`."""


@dataclass(frozen=True)
class Segmented:
    """``labels``: uint8 [D, H, W]. ``probabilities``: float32 [classes, D, H, W] when asked for.

    ``engine_seconds``: the time in the engine, of ``seconds`` in all; on a GPU the two are not told apart.
    """

    labels: Labels
    probabilities: Floats | None
    windows: int
    where: Where
    seconds: float
    engine_seconds: float


@dataclass(frozen=True)
class Window:
    """How a network takes windows: names of its input and output, windows at once, their size, channels of output."""

    input: str
    output: str
    batch: int
    size: Shape
    channels: int

    @classmethod
    def of(cls, session: Session, shape: Sequence[int]) -> Window:
        """``shape``: [N, 1, D, H, W] of the recipe, for sizes that the session leaves open. Raises NotVoxelwise."""
        (taken,) = session.inputs
        batch = taken.shape[0] or shape[0]
        depth, height, width = shape[2:]
        size = (depth, height, width)
        fitting = [spec for spec in session.outputs if _is_voxelwise(spec, size)]
        if len(fitting) != 1:
            raise _not_voxelwise(session.outputs, size)
        (given,) = fitting
        channels = given.shape[1]
        if channels is None:  # only a run tells
            zeros = np.zeros((batch, 1, *size), taken.dtype)
            channels = session.run({taken.name: zeros})[given.name].shape[1]
        return cls(taken.name, given.name, batch, size, channels)

    @property
    def classes(self) -> int:
        """One channel is a logit for class 1 against class 0."""
        return max(self.channels, 2)


def segment(
    session: Session,
    volume: Floats,
    shape: Sequence[int],
    options: Windows,
    *,
    weights: WindowWeights | None = None,
    probabilities: bool = False,
    progress: Progress = QUIET,
) -> Segmented:
    """Labels of a volume.

    Args:
        volume: float32 [D, H, W], C-contiguous, preprocessed, no axis shorter than the window.
        shape: [N, 1, D, H, W]: windows at once and their size, where the session leaves them open.
        weights: those of ``options`` for this window; None: they are computed.
        probabilities: also the softmax of the averaged logits; of one channel, its sigmoid and the rest.

    Raises: ENG304 the output is not voxelwise, ENG305 it holds NaN, and what the session raises.
    """
    started = time.perf_counter()
    window = Window.of(session, shape)
    depth, height, width = volume.shape
    grid = WindowGrid.of((depth, height, width), window.size, options.overlap)
    labels = aligned.empty(volume.shape, np.uint8)
    soft = aligned.empty((window.classes, *volume.shape), np.float32) if probabilities else None
    weights = weights or WindowWeights.of(options.weights, window.size)
    sums = accumulator(Blocks.of(grid), weights, window.channels, labels=labels, probabilities=soft)
    predictor = _Predictor(session, window, options)
    _run(predictor, sums, volume, grid, progress)
    if sums.met_nan:
        raise scores_not_finite(window)
    where: Where = "numpy" if isinstance(sums, NumpyAccumulator) else "compiled"
    return Segmented(labels, soft, len(grid), where, time.perf_counter() - started, predictor.seconds)


def scores_not_finite(window: Window) -> ScoresNotFinite:
    return ScoresNotFinite(
        "the engine's scores are NaN",
        where=f"output {window.output!r}",
        why="NaN compares with nothing, so no class is the largest",
        next="compare with the FP32 model: --against fp32; calibrate on volumes like this one",
    )


def _run(predictor: _Predictor, sums: Accumulator, volume: Floats, grid: WindowGrid, progress: Progress) -> None:
    groups = list(_groups(grid, predictor.window.batch))
    batches = [aligned.empty((predictor.window.batch, 1, *grid.window), np.float32) for _ in range(2)]
    for batch in batches:
        batch.fill(0)  # the last one may have rows that no window fills

    def cut(turn: int) -> Floats:
        batch = batches[turn % 2]
        for row, index in enumerate(groups[turn]):
            batch[row, 0] = volume[grid.slices(index)]
        return batch

    def add(turn: int, logits: Floats) -> None:
        for row, index in enumerate(groups[turn]):
            sums.push(index, logits[row])

    with ThreadPoolExecutor(1, "windows") as helper, progress.task("windows", len(grid)) as task:
        coming, going = helper.submit(cut, 0), None
        for turn, group in enumerate(groups):
            batch = coming.result()
            if turn + 1 < len(groups):
                coming = helper.submit(cut, turn + 1)
            logits = predictor.run(batch)
            if going is not None:
                going.result()  # at most two batches of logits are alive, and an error is raised here
            going = helper.submit(add, turn, logits)
            task.advance(len(group))
        assert going is not None
        going.result()


def _groups(grid: WindowGrid, size: int) -> list[tuple[Shape, ...]]:
    """Windows in the order of the grid, ``size`` at once. What the last batch holds beyond its windows is ignored."""
    windows = iter(grid)
    return list(iter(lambda: tuple(itertools.islice(windows, size)), ()))


class _Predictor:
    """The engine, with test-time augmentation: the mean of the logits over all flips along the mirror axes."""

    def __init__(self, session: Session, window: Window, options: Windows) -> None:
        self.session, self.window, self.seconds = session, window, 0.0
        axes = sorted(AXES[letter] for letter in options.mirror)
        self._flips = [flip for count in range(len(axes) + 1) for flip in itertools.combinations(axes, count)]

    def run(self, batch: Floats) -> Floats:
        """float32 [N, channels, D, H, W], C-contiguous."""
        total = self._infer(batch)
        for flip in self._flips[1:]:
            total = total + np.flip(self._infer(np.ascontiguousarray(np.flip(batch, flip))), flip)
        return np.ascontiguousarray(total if len(self._flips) == 1 else total / np.float32(len(self._flips)))

    def _infer(self, batch: Floats) -> Floats:
        started = time.perf_counter()
        outputs = self.session.run({self.window.input: batch})
        self.seconds += time.perf_counter() - started
        logits: Floats = outputs[self.window.output].astype(np.float32, copy=False)
        if logits.shape[1:] != (self.window.channels, *self.window.size):  # sizes that the session left open
            given = TensorSpec(self.window.output, logits.shape, logits.dtype.name)
            raise _not_voxelwise([given], self.window.size)
        return logits


def _is_voxelwise(spec: TensorSpec, size: Shape) -> bool:
    if len(spec.shape) != 5 or not spec.dtype.startswith("float"):
        return False
    return all(given in (None, wanted) for given, wanted in zip(spec.shape[2:], size, strict=True))


def _not_voxelwise(outputs: Sequence[TensorSpec], size: Shape) -> NotVoxelwise:
    wanted = f"[N, classes, {', '.join(map(str, size))}]"
    found = [f"{spec.name!r} {describe(spec)}" for spec in outputs]
    return NotVoxelwise(
        "the network's output is not one score per class and voxel of the window",
        where=f"windows of {' x '.join(map(str, size))}",
        why=f"it gives {', '.join(found)}; windows are put together from one float output {wanted}",
        next="cut the model at the last node with such an output, and name it as the only one",
    )
