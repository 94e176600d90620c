"""A calibration that is killed continues where it was, to the identical table, or says why it does not."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import pytest

from trtforge.errors.calibration import SampleUnreadable
from trtforge.graph.model import Model
from trtforge.progress import Quiet
from trtforge.recipe.models import InputSpec
from trtforge.samples.base import SampleSet
from trtforge.samples.load import open_set
from trtforge.scales.collect import collect

NET = """<ir_version: 8, opset_import: ["": 17]>
net (float[n, 3, 16, 16] x) => (float[n, 3, 16, 16] y) { a = Sin (x) b = Mul (a, x) c = Relu (b) y = Exp (c) }"""
SPEC = {"x": InputSpec(shape=(1, 3, 16, 16))}
COUNT = 12


class Log(Quiet):
    """A progress that remembers what was said and how far the bar went."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.steps: list[int] = []

    def log(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(message)

    @contextmanager
    def task(self, label: str, total: int | None) -> Iterator[Log]:  # type: ignore[override]
        yield self

    def advance(self, steps: int = 1) -> None:
        self.steps.append(steps)

    def note(self, text: str) -> None: ...


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(COUNT):
        values = np.random.default_rng(number).standard_normal((3, 16, 16)).astype(np.float32)
        np.save(tmp_path / f"{number:02}.npy", values)
    (tmp_path / "set.yaml").write_text("name: noise\nsamples: ['*.npy']\n")
    return tmp_path


def model(text: str = NET) -> Model:
    return Model(onnx.parser.parse_model(text))


def samples(folder: Path) -> SampleSet:
    return open_set(folder / "set.yaml", SPEC)


def interrupted(folder: Path, after: int) -> Path:
    """The checkpoint of a run that Ctrl-C ended after some samples."""

    class Stop(Log):
        def advance(self, steps: int = 1) -> None:
            super().advance(steps)
            if sum(self.steps) == after:
                raise KeyboardInterrupt

    checkpoint = folder / "state.part"
    with pytest.raises(KeyboardInterrupt):
        collect(model(), samples(folder), checkpoint=checkpoint, progress=Stop())
    return checkpoint


@pytest.mark.parametrize("after", [1, 5, COUNT])
def test_ctrl_c_keeps_what_is_done(folder: Path, after: int) -> None:
    expected = collect(model(), samples(folder))
    checkpoint = interrupted(folder, after)
    assert len(json.loads(checkpoint.read_text())["state"]["done"]) == after
    log = Log()
    assert collect(model(), samples(folder), checkpoint=checkpoint, progress=log) == expected
    assert sum(log.steps) == COUNT and log.steps[0] == after
    assert f"{after} of {COUNT}" in log.lines[0]


def test_an_error_in_the_middle_keeps_what_is_done(folder: Path) -> None:
    expected = collect(model(), samples(folder))
    broken = folder / "07.npy"
    content = broken.read_bytes()
    broken.write_bytes(b"")
    checkpoint = folder / "state.part"
    with pytest.raises(SampleUnreadable):
        collect(model(), samples(folder), checkpoint=checkpoint)
    broken.write_bytes(content)
    log = Log()
    assert collect(model(), samples(folder), checkpoint=checkpoint, progress=log) == expected
    assert log.steps[0] == 7


def test_a_set_that_grew_continues(folder: Path) -> None:
    checkpoint = interrupted(folder, 5)
    np.save(folder / "99.npy", np.full((3, 16, 16), 3.0, np.float32))
    log = Log()
    table = collect(model(), samples(folder), checkpoint=checkpoint, progress=log)
    assert log.steps[0] == 5
    assert table == collect(model(), samples(folder))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("model", "model graph"),
        ("sample", "00.npy"),
        ("removed", "00.npy"),
        ("preprocessing", "preprocessing"),
        ("garbage", "cannot be read"),
        ("truncated", "cannot be read"),
        ("edited", "seal"),
        ("format", "format"),
        ("list", "cannot be read"),
    ],
)
def test_a_run_that_differs_starts_anew_and_says_why(folder: Path, change: str, reason: str) -> None:
    checkpoint = interrupted(folder, 5)
    net, spec, text = model(), SPEC, checkpoint.read_text()
    if change == "model":
        net = model(NET.replace("Sin", "Cos"))
    elif change == "sample":
        np.save(folder / "00.npy", np.zeros((3, 16, 16), np.float32))
    elif change == "removed":
        (folder / "00.npy").unlink()
    elif change == "preprocessing":
        for path in folder.glob("*.npy"):
            np.save(path, np.load(path)[None])
        spec = {"x": InputSpec(shape=(1, 1, 3, 16, 16))}
        net = model(NET.replace("n, 3", "n, 1, 3"))
    else:
        edited = {
            "garbage": "\x00" + text,
            "truncated": text[: len(text) // 2],
            "edited": text.replace("00.npy", "0x.npy"),
            "format": text.replace('"format": 1', '"format": 2'),
            "list": "[]",
        }
        checkpoint.write_text(edited[change])
    log = Log()
    table = collect(net, open_set(folder / "set.yaml", spec), checkpoint=checkpoint, progress=log)
    assert len(log.lines) == 1 and "starting anew" in log.lines[0] and reason in log.lines[0]
    assert table == collect(net, open_set(folder / "set.yaml", spec))
    again = collect(net, open_set(folder / "set.yaml", spec), checkpoint=checkpoint)
    assert again == table, "the checkpoint now belongs to this run"


def test_a_checkpoint_that_cannot_be_written_costs_only_itself(folder: Path) -> None:
    (folder / "file").write_text("in the way")
    log = Log()
    table = collect(model(), samples(folder), checkpoint=folder / "file" / "x.part", progress=log, checkpoint_every=0)
    assert table == collect(model(), samples(folder))
    assert len(log.lines) == 1 and "cannot be written" in log.lines[0]


RUN = """
import sys, onnx
from pathlib import Path
from trtforge.graph.model import Model
from trtforge.recipe.models import InputSpec
from trtforge.samples.load import open_set
from trtforge.scales.collect import collect
folder, text = Path(sys.argv[1]), sys.argv[2]
samples = open_set(folder / "set.yaml", {"x": InputSpec(shape=(1, 3, 16, 16))})
table = collect(Model(onnx.parser.parse_model(text)), samples, checkpoint=folder / "state.part", checkpoint_every=0)
table.save(folder / "table.json")
"""


@pytest.mark.slow
def test_kill_at_random_points_ends_in_the_identical_table(folder: Path) -> None:
    """SIGKILL, again and again, at moments chosen by chance while checkpoints are written after every sample."""
    collect(model(), samples(folder)).save(folder / "expected.json")
    checkpoint, chance = folder / "state.part", random.Random(5)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    kills = 0
    while not (folder / "table.json").exists():
        process = subprocess.Popen([sys.executable, "-c", RUN, str(folder), NET], env=environment)
        before = _done(checkpoint)
        goal = before + chance.randint(1, 4) if kills < 4 else COUNT + 1
        while process.poll() is None and _done(checkpoint) < goal:
            time.sleep(0.0005)
        if process.poll() is None:
            time.sleep(chance.random() * 0.004)
            process.send_signal(signal.SIGKILL)
            kills += 1
        assert process.wait() in (0, -signal.SIGKILL)
        assert _done(checkpoint) >= before, "a kill never loses what was saved"
    assert kills >= 1
    assert (folder / "table.json").read_bytes() == (folder / "expected.json").read_bytes()


def _done(checkpoint: Path) -> int:
    return len(json.loads(checkpoint.read_text())["state"]["done"]) if checkpoint.exists() else 0
