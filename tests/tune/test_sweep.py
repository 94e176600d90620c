"""A sweep as a user runs it: on this CPU for real, stopped and begun again; and the parts of it."""

from __future__ import annotations

import json
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge.errors.tune import JournalOfAnother
from trtforge.recipe.load import load
from trtforge.tune.journal import Journal
from trtforge.tune.load import Stream, under_load
from trtforge.tune.report import draw, patch
from trtforge.tune.space import Combination, Measured, Setting

ONE = Combination.of({"cpu": Setting(1, 1)})
TWO = Combination.of({"cpu": Setting(2, 1)})


class TestJournal:
    def test_what_was_measured_is_not_measured_again(self, tmp_path: Path) -> None:
        asked: list[Combination] = []

        def measure(combination: Combination) -> Measured:
            asked.append(combination)
            return Measured(combination, {"cpu": 5.0}, 2.0)

        path = tmp_path / "m.jsonl"
        first = Journal(path, {"engine": "a"}).through(measure)
        assert first(ONE) == first(ONE)
        with path.open("a") as stream:
            stream.write('{"combination": {"cpu": {"ba')  # a kill in the middle of a line
        again = Journal(path, {"engine": "a"})
        assert list(again.done) == [ONE]
        assert again.through(measure)(TWO).rates == {"cpu": 5.0} and asked == [ONE, TWO]
        assert list(Journal(path, {"engine": "a"}).done) == [ONE, TWO]

    def test_of_something_else_is_refused(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        Journal(path, {"engine": "a", "seconds": 1}).through(lambda each: Measured(each, {}, 0.0))(ONE)
        with pytest.raises(JournalOfAnother) as caught:
            Journal(path, {"engine": "b", "seconds": 1})
        assert caught.value.why == "engine differs"

    def test_a_head_that_was_cut_off_is_of_something_else(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        path.write_text('{"key": "ab')
        with pytest.raises(JournalOfAnother):
            Journal(path, {"engine": "a"})


class TestLoad:
    def test_streams_run_at_once(self) -> None:
        """Each waits for the other: alone none would ever end."""
        both = threading.Barrier(2)

        class Waits:
            def run(self, inputs: Any) -> None:
                both.wait(5)

        try:
            rates, p99 = under_load({"a": [Stream(Waits(), {})], "b": [Stream(Waits(), {})]}, 0.1)
        except threading.BrokenBarrierError:  # one was through its time while the other waited once more
            return
        assert rates["a"] == pytest.approx(rates["b"], rel=0.5) and p99 < 1000

    def test_the_slowest_unit_counts(self) -> None:
        class Takes:
            def __init__(self, seconds: float) -> None:
                self.seconds = seconds

            def run(self, inputs: Any) -> None:
                time.sleep(self.seconds)

        fast, slow = Stream(Takes(0.001), {}), Stream(Takes(0.05), {})
        _, p99 = under_load({"gpu": [fast], "dla0": [slow]}, 0.3)
        assert p99 >= 50, "a bound on latency is one for every unit, however many executions the others had"

    def test_what_a_session_raises_comes_out(self) -> None:
        class Fails:
            def run(self, inputs: Any) -> None:
                raise ValueError("no")

        class Runs:
            def run(self, inputs: Any) -> None:
                np.ones(10).sum()

        with pytest.raises(ValueError, match="no"):
            under_load({"a": [Stream(Runs(), {}), Stream(Fails(), {})]}, 0.05)


def test_a_patch_is_yaml_that_a_recipe_takes(workshop: Any, tmp_path: Path) -> None:
    best = Measured(Combination.of({"cpu": Setting(4, 2)}), {"cpu": 12.34}, 3.0)
    text = patch("net", {"x": (1, 3, 16, 16)}, "cpu", best)
    assert text.startswith("# cpu: 2 at once; measured 12.3 samples/s in company\n")
    recipe = workshop.recipe("tuned", f"extends: host.yaml\n{text}")
    assert load(recipe).recipe.engines["net"].inputs["x"].shape == (4, 3, 16, 16)
    dla = Measured(Combination.of({"dla1": Setting(8, 1, 1 << 19)}), {"dla1": 1.0}, 3.0)
    assert "dla: {core: 1, sram: 512KiB}" in patch("net", {"0": (1, 3)}, "dla1", dla)
    assert '"0": {shape: [8, 3]}' in patch("net", {"0": (1, 3)}, "dla1", dla)


def test_the_drawing_is_sound_xml() -> None:
    done = [
        Measured(ONE, {"cpu": 10.0}, 4.0),
        Measured(TWO, {"cpu": 14.0}, 9.0),
        Measured(Combination.of({"cpu": Setting(4, 1)}), {}, 0.0, "BLD204 <no memory>"),
    ]
    root = ET.fromstring(draw(done, done[1], "a <net> & more"))
    circles = [each for each in root.iter() if each.tag.endswith("circle") and len(each)]
    assert len(circles) == 2 and circles[1].get("r") == "7"


def test_a_sweep_on_this_cpu(workshop: Any, tmp_path: Path) -> None:
    """Builds and measures for real; begun again it measures nothing, and its answer is the same."""
    options = ("--batches", "1,2", "--streams", "1", "--seconds", "0.2", "--out", str(tmp_path / "t"), "--json")
    done = workshop.forge("tune", "recipes/host.yaml", *options)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["measured"] == 2 and found["best"]["rate"] > 0
    assert (tmp_path / "t" / "cpu.yaml").exists() and (tmp_path / "t" / "result.svg").exists()
    assert len(json.loads((tmp_path / "t" / "result.json").read_text())["measurements"]) == 2
    lines = (tmp_path / "t" / "measurements.jsonl").read_text()
    again = workshop.forge("tune", "recipes/host.yaml", *options)
    assert json.loads(again.out)["best"] == found["best"]
    assert (tmp_path / "t" / "measurements.jsonl").read_text() == lines
    for change in ("precision=fp32", "calibration.samples=2", "quantize.skip=[conv1]"):
        other = workshop.forge("tune", "recipes/host.yaml", *options, "--set", f"engines.net.{change}")
        assert other.code == 7 and "ENG141" in other.err, change
    assert [path.name for path in sorted((tmp_path / "t/engines/cpu/net").iterdir()) if path.is_dir()] == ["1", "2"]


def test_what_cannot_be_tuned_is_told(workshop: Any, tmp_path: Path) -> None:
    wrong = workshop.forge("tune", "recipes/host.yaml", "--batches", "1,two")
    assert wrong.code == 2 and "whole numbers" in wrong.err
    slow = workshop.forge(
        "tune", "recipes/host.yaml", "--batches", "1", "--streams", "1", "--seconds", "0.1", "--latency", "0.0001",
        "--out", str(tmp_path / "s"),
    )  # fmt: skip
    assert slow.code == 7 and "ENG142" in slow.err and "everything is too slow" in slow.err
