"""The loop around an engine: what goes in, what comes out, whatever the engine's batch, and what is refused."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

from trtforge.backends.base import TensorSpec
from trtforge.errors.windows import NotVoxelwise, ScoresNotFinite
from trtforge.recipe.models import Windows
from trtforge.runtime.windows.loop import Window, segment
from trtforge.runtime.windows.memory import predict
from trtforge.runtime.windows.weights import WindowWeights
from trtforge.volumes.windows import WindowGrid

SIZE = (8, 6, 10)
SHAPE = (1, 1, *SIZE)


class Network:
    """A voxelwise function of the window that is not alike under flips, with ``channels`` scores."""

    def __init__(self, channels: int = 3, batch: int | None = 1, open_channels: bool = False) -> None:
        self.inputs = (TensorSpec("volume", (batch, 1, *SIZE), "float32"),)
        self.outputs = (TensorSpec("scores", (batch, None if open_channels else channels, *SIZE), "float32"),)
        self._ramp = np.arange(np.prod(SIZE), dtype=np.float32).reshape(SIZE) / 400
        self._channels, self.batches = channels, []

    def run(self, inputs):
        batch = inputs["volume"]
        self.batches.append(batch.copy())
        scores = [np.sin(batch[:, 0] * (c + 1) + self._ramp * (3 * c + 1)) * 3 for c in range(self._channels)]
        return {"scores": np.stack(scores, axis=1).astype(np.float32)}


def volume(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def expected(formula: SimpleNamespace, network: Network, array: np.ndarray, options: Windows) -> np.ndarray:
    grid = WindowGrid.of(array.shape, SIZE, options.overlap)
    logits = {k: network.run({"volume": array[grid.slices(k)][None, None]})["scores"][0] for k in grid}
    return formula.averaged(grid, WindowWeights.of(options.weights, SIZE), logits)


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_whatever_the_batch_the_labels_are_the_same(formula: SimpleNamespace, batch: int) -> None:
    array, options = volume(13, 12, 21), Windows(overlap=0.5)
    network = Network(batch=batch)
    found = segment(network, array, (batch, *SHAPE[1:]), options)
    scores = expected(formula, Network(), array, options)
    assert (found.labels == scores.argmax(axis=0))[formula.gap(scores) > 1e-5].all()
    assert found.windows == len(WindowGrid.of(array.shape, SIZE, 0.5))
    assert {len(group) for group in network.batches} == {batch}
    assert len(network.batches) == -(-found.windows // batch)


def test_probabilities_are_the_softmax_of_the_mean(formula: SimpleNamespace) -> None:
    array, options = volume(9, 9, 12), Windows(overlap=0.3, weights="monai")
    found = segment(Network(), array, SHAPE, options, probabilities=True)
    scores = expected(formula, Network(), array, options)
    soft = np.exp(scores) / np.exp(scores).sum(axis=0)
    assert found.probabilities is not None and found.probabilities.shape == (3, *array.shape)
    assert np.abs(found.probabilities - soft).max() < 1e-5


def test_one_channel_is_a_yes_or_no(formula: SimpleNamespace) -> None:
    array = volume(10, 6, 10)
    found = segment(Network(channels=1), array, SHAPE, Windows(), probabilities=True)
    scores = expected(formula, Network(channels=1), array, Windows())
    assert set(np.unique(found.labels)) == {0, 1}
    assert (found.labels == (scores[1] > 0))[np.abs(scores[1]) > 1e-5].all()
    assert found.probabilities is not None
    assert np.allclose(found.probabilities.sum(axis=0), 1, atol=1e-6)
    assert np.allclose(found.probabilities[1], 1 / (1 + np.exp(-scores[1])), atol=1e-5)


def test_mirrored_runs_are_turned_back_and_averaged(formula: SimpleNamespace) -> None:
    array, network = volume(*SIZE), Network()
    options = Windows(mirror=("d", "w"), weights="constant")
    total = np.zeros((3, *SIZE))
    for flip in [(), (2,), (4,), (2, 4)]:
        out = network.run({"volume": np.flip(array[None, None], flip)})["scores"]
        total += np.flip(out, flip)[0]
    found = segment(Network(), array, SHAPE, options)
    assert (found.labels == total.argmax(axis=0))[formula.gap(total) > 1e-4].all()
    assert (found.labels != segment(Network(), array, SHAPE, Windows()).labels).any()


def test_channels_that_the_session_leaves_open_are_found_by_running_it() -> None:
    array = volume(8, 6, 14)
    found = segment(Network(open_channels=True), array, SHAPE, Windows())
    assert (found.labels == segment(Network(), array, SHAPE, Windows()).labels).all()


def test_the_volume_is_left_as_it_was() -> None:
    array = volume(12, 9, 12)
    before = array.copy()
    segment(Network(), array, SHAPE, Windows(mirror=("h",)))
    assert (array == before).all()


@pytest.mark.parametrize(
    "output",
    [
        TensorSpec("labels", (1, 1, *SIZE), "int64"),
        TensorSpec("half", (1, 3, 4, 3, 5), "float32"),
        TensorSpec("vector", (1, 3), "float32"),
    ],
)
def test_an_output_that_is_not_voxelwise_is_refused(output: TensorSpec) -> None:
    network = Network()
    network.outputs = (output,)
    with pytest.raises(NotVoxelwise) as caught:
        segment(network, volume(*SIZE), SHAPE, Windows())
    assert output.name in caught.value.why and "[N, classes, 8, 6, 10]" in caught.value.why


def test_a_size_that_only_a_run_tells_is_held_to_the_window() -> None:
    """Half the resolution, with sizes that the session leaves open."""
    network = Network()
    network.outputs = (TensorSpec("scores", (None, 3, None, None, None), "float32"),)
    run = network.run
    network.run = lambda inputs: {"scores": run(inputs)["scores"][..., ::2]}  # type: ignore[method-assign]
    with pytest.raises(NotVoxelwise, match="not one score") as caught:
        segment(network, volume(*SIZE), SHAPE, Windows())
    assert "[1, 3, 8, 6, 5]" in caught.value.why


def test_of_several_outputs_the_voxelwise_one_is_taken() -> None:
    network = Network()
    network.outputs = (TensorSpec("loss", (1,), "float32"), *network.outputs)
    assert Window.of(network, SHAPE).output == "scores"


def test_nan_is_refused_and_not_made_background() -> None:
    network = Network()
    run = network.run
    network.run = lambda inputs: {"scores": run(inputs)["scores"] * np.float32(np.nan)}  # type: ignore[method-assign]
    with pytest.raises(ScoresNotFinite, match="NaN"):
        segment(network, volume(12, 9, 12), SHAPE, Windows())


def test_an_engine_that_fails_ends_the_loop() -> None:
    network = Network()
    calls = []

    def run(inputs):
        calls.append(1)
        raise RuntimeError("out of memory")

    network.run = run  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match="out of memory"):
        segment(network, volume(20, 9, 12), SHAPE, Windows())
    assert len(calls) == 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("windows")]


def test_the_engine_does_not_wait_for_bookkeeping(monkeypatch: pytest.MonkeyPatch) -> None:
    """With an accumulator that takes as long as the engine, both work at once."""
    import trtforge.runtime.windows.loop as loop

    pause, network = 0.03, Network()
    run = network.run

    def slow_run(inputs):
        time.sleep(pause)
        return run(inputs)

    made = loop.accumulator

    class Slow:
        def __init__(self, *args, **kwargs) -> None:
            self.inner = made(*args, **kwargs)

        def push(self, *args) -> None:
            time.sleep(pause * 0.9)
            self.inner.push(*args)

        met_nan = False

    monkeypatch.setattr(loop, "accumulator", Slow)
    network.run = slow_run  # type: ignore[method-assign]
    array = volume(30, 9, 15)
    found = segment(network, array, SHAPE, Windows())
    assert found.windows >= 24
    assert found.where == "compiled" or found.where == "numpy"
    assert found.seconds < found.windows * pause * 1.6  # one after the other would be 1.9


def test_memory_is_told_beforehand() -> None:
    grid = WindowGrid.of((320, 448, 448), (128, 128, 128), 0.5)
    window = Window("x", "y", 1, (128, 128, 128), 3)
    parts = predict(grid, window)
    assert parts["labels"] == 320 * 448 * 448
    assert parts["labels"] + parts["accumulator"] <= 160 << 20
    assert predict(grid, window, probabilities=True)["probabilities"] == 320 * 448 * 448 * 3 * 4
