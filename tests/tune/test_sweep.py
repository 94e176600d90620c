"""A sweep as a user runs it: on this CPU for real, stopped and begun again; and the parts of it."""

from __future__ import annotations

import json
import shlex
import threading
import time
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtforge.backends.onnxruntime_.backend import OnnxruntimeBackend
from trtforge.cli.tune import _recipe
from trtforge.engines.machine import compute_capability
from trtforge.errors.backend import BadThreads
from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import CannotDeserialize, StoreFull
from trtforge.errors.environment import NoGpu
from trtforge.errors.tune import JournalOfAnother
from trtforge.pipeline.tune import Tuned
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

    @pytest.mark.parametrize("head", [b"\x9f\x00", b"[1]", b'{"key": 1}', b'{"key": 1, "of": 2}', b"9" * 5000])
    def test_a_head_that_is_none(self, tmp_path: Path, head: bytes) -> None:
        path = tmp_path / "m.jsonl"
        path.write_bytes(head + b"\n")
        with pytest.raises(JournalOfAnother) as caught:
            Journal(path, {"engine": "a"})
        assert caught.value.why == "engine differs" and f"rm {path}" in caught.value.next

    def test_lines_that_are_no_measurements_are_measured_again(self, tmp_path: Path) -> None:
        path = tmp_path / "m.jsonl"
        Journal(path, {"engine": "a"}).through(lambda each: Measured(each, {"cpu": 1.0}, 2.0))(ONE)
        sound = path.read_bytes().splitlines()[1]
        with path.open("ab") as stream:
            for line in (
                b"\xff",
                b"[]",
                b"7",
                sound.replace(b"1.0", b'"x"'),
                sound.replace(b'batch": 1', b'batch": "2"'),
            ):
                stream.write(line + b"\n")
        assert list(Journal(path, {"engine": "a"}).done) == [ONE]


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


def test_a_patch_is_a_recipe(workshop: Any) -> None:
    best = Measured(Combination.of({"cpu": Setting(4, 2)}), {"cpu": 12.34}, 3.0)
    text = patch("net", {"x": (1, 3, 16, 16)}, "cpu", best, head=["extends: host.yaml"])
    assert text.startswith("# cpu: batch 4, 2 at once: 12.3 samples/s, p99 3.00 ms\n")
    assert load(workshop.recipe("tuned", text)).recipe.engines["net"].inputs["x"].shape == (4, 3, 16, 16)
    assert '"0": {shape: [4, 3]}' in patch("net", {"0": (1, 3)}, "cpu", best, head=[])


def test_a_patch_is_for_its_unit_whatever_the_recipe_is_for(workshop: Any) -> None:
    """A sweep of a recipe for the DLA measures the GPU too."""
    workshop.bend(
        "dla",
        ("target: host", "target: orin-agx-64gb/dla"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
        ("    precision", "    dla: {core: 0}\n    precision"),
    )
    tuned = Tuned(workshop.root / "recipes/dla.yaml", (), "net", workshop.root / "store", 1.0)
    both = Combination.of({"gpu": Setting(8, 1), "dla1": Setting(4, 1, 1 << 19)})
    best = Measured(both, {"gpu": 30.0, "dla1": 10.0}, 3.0)
    (workshop.root / "tune").mkdir()
    for unit, said in (("gpu", "/gpu"), ("dla1", "/dla")):
        path = workshop.root / "tune" / f"{unit}.yaml"
        path.write_text(_recipe(tuned, unit, path, best))
        recipe = load(path).recipe
        engine = recipe.engines["net"]
        assert recipe.target == f"orin-agx-64gb{said}" and "of 40.0 together" in path.read_text()
        assert (engine.dla and (engine.dla.core, engine.dla.sram)) == (None if unit == "gpu" else (1, "512KiB"))


def test_the_drawing_is_sound_xml() -> None:
    done = [
        Measured(ONE, {"cpu": 10.0}, 4.0),
        Measured(TWO, {"cpu": 14.0}, 9.0),
        Measured(Combination.of({"cpu": Setting(4, 1)}), {}, 0.0, "BLD204 <no memory>"),
    ]
    root = ET.fromstring(draw(done, done[1], "a <net> & more"))
    circles = [each for each in root.iter() if each.tag.endswith("circle") and len(each)]
    assert len(circles) == 2 and circles[1].get("r") == "7"
    texts = [each.text for each in root.iter() if each.tag.endswith("text")]
    assert str(TWO) in texts and "together" not in texts  # the best is named; no legend for what is not there


def test_a_sweep_on_this_cpu(workshop: Any, tmp_path: Path) -> None:
    """Builds and measures for real; begun again it measures nothing, and its answer is the same."""
    options = ("--batches", "1,2", "--streams", "1", "--seconds", "0.2", "--out", str(tmp_path / "t"), "--json")
    done = workshop.forge("tune", "recipes/host.yaml", *options)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["measured"] == 2 and found["best"]["rate"] > 0
    assert "cpu: building the engine of batch 2\n" in done.err
    assert (tmp_path / "t" / "result.svg").exists()
    assert "its recipe: recipes/host-net-cpu.yaml" not in done.out  # with --json, only its object
    assert (workshop.root / "recipes/host-net-cpu.yaml").read_text().splitlines()[2] == "extends: host.yaml"
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
    assert slow.code == 7 and "ENG142" in slow.err and "everything takes longer than 0.0001 ms" in slow.err


SHORT = ("--batches", "1,2", "--streams", "1", "--seconds", "0.1")


def test_the_recipe_it_writes_builds_what_was_measured(workshop: Any) -> None:
    done = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--set", "engines.net.precision=fp32")
    assert done.code == 0 and "its recipe: tune/host-net/cpu.yaml" in done.out
    written = (workshop.root / "tune/host-net/cpu.yaml").read_text()
    (command,) = [line.removeprefix("# Build it: ") for line in written.splitlines() if line.startswith("# Build it")]
    built = workshop.forge(*shlex.split(command)[1:], "--json")
    assert built.code == 0, built.err
    manifest = json.loads((workshop.root / built.json["engines"][0]["path"] / "manifest.json").read_text())
    result = json.loads((workshop.root / "tune/host-net/result.json").read_text())
    assert manifest["inputs"][0]["shape"][0] == result["best"]["combination"]["cpu"]["batch"]
    assert manifest["recipe"]["precision"] == "fp32"


def test_the_recipe_it_writes_has_a_store_of_its_own(workshop: Any) -> None:
    """Not `engines/cpu` of every `cpu.yaml`, nor the one that the tuned recipe names."""
    stores = {}
    workshop.bend("named", ("target: host", "target: host\nstore: theirs"))
    for name, out in (("host", "tune/host-net"), ("named", "tune/named-net"), ("named", "tune/a b")):
        done = workshop.forge("tune", f"recipes/{name}.yaml", *SHORT, "--out", out, "--set", "store=mine")
        assert done.code == 0, done.err
        written = workshop.root / out / "cpu.yaml"
        stores[out] = load(written).store.as_posix()
        command = next(line for line in written.read_text().splitlines() if line.startswith("# Build it: "))
        built = workshop.forge(*shlex.split(command.removeprefix("# Build it: "))[1:], "--json")
        assert built.json["engines"][0]["path"] == f"{stores[out]}/net/1"
    assert list(stores.values()) == ["engines/host-net-cpu", "engines/named-net-cpu", "engines/a b-cpu"]
    assert not any((workshop.root / name).exists() for name in ("engines/cpu", "theirs", "mine"))


def test_where_the_results_are_outside_of_its_project_the_recipe_lies_beside_the_one_tuned(
    workshop: Any, tmp_path: Path
) -> None:
    """Without `.git` or `pyproject.toml` every folder is a project of its own, and a recipe leaves none."""
    (workshop.root / "pyproject.toml").unlink()
    for options in ((), ("--out", str(tmp_path / "far"))):
        done = workshop.forge("tune", "recipes/host.yaml", *SHORT, *options)
        assert done.code == 0, done.err
        assert "its recipe: recipes/host-net-cpu.yaml" in done.out
        written = workshop.root / "recipes/host-net-cpu.yaml"
        assert "store: engines/host-net-cpu\n" in written.read_text()
        command = next(line for line in written.read_text().splitlines() if line.startswith("# Build it: "))
        built = workshop.forge(*shlex.split(command.removeprefix("# Build it: "))[1:])
        assert built.code == 0, built.err
    written.write_text("# of the user\n")
    refused = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--out", str(tmp_path / "far"))
    assert refused.code == 2 and "USE111" in refused.err
    assert written.read_text() == "# of the user\n"


def test_other_batches_are_another_question(workshop: Any) -> None:
    """What was measured of batches that are not asked for any more is kept, and is no answer."""
    assert workshop.forge("tune", "recipes/host.yaml", *SHORT).code == 0
    done = workshop.forge("tune", "recipes/host.yaml", *SHORT[2:], "--batches", "1", "--json")
    assert done.json["measured"] == 1 and done.json["best"]["combination"]["cpu"]["batch"] == 1


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        pytest.param(("orin-agx-64gb/dla", 'tensorrt\ntensorrt: "8.6"'), "ENV301", "on the device"),
        pytest.param(("a100-sxm-80gb", "tensorrt_rtx"), "ENV301", "A100 SXM 80 GB", marks=pytest.mark.rtx),
    ],
)
def test_where_it_cannot_run_nothing_is_built(workshop: Any, target: tuple[str, str], code: str, said: str) -> None:
    if code == "ENV301" and compute_capability():
        pytest.skip("there is a GPU")
    workshop.bend("there", ("target: host", f"target: {target[0]}"), ("onnxruntime", target[1]))
    done = workshop.forge("tune", "recipes/there.yaml", *SHORT, "--json")
    assert done.json["error"]["code"] == code and said in done.json["error"]["next"]
    assert not (workshop.root / "tune").exists()


def test_what_the_machine_lacks_in_the_middle_is_no_measurement(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the sweep; the next one goes on from there."""
    load_engine = OnnxruntimeBackend.load
    journal = workshop.root / "tune/host-net/measurements.jsonl"

    def fails_for_two(error: TrtforgeError) -> Any:
        def load(self: Any, folder: Path, report: Any) -> Any:
            session = load_engine(self, folder, report)
            if session.inputs[0].shape[0] == 2:
                raise error
            return session

        return load

    for lost in (
        NoGpu("the driver went away", where="x", why="y", next="z"),
        StoreFull("no room", where="x", why="y", next="z"),
        BadThreads("no number", where="x", why="y", next="z"),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(OnnxruntimeBackend, "load", fails_for_two(lost))
            done = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--json")
        assert done.json["error"]["code"] == lost.code
        assert len(journal.read_text().splitlines()) == 2  # its head, and batch 1
    with monkeypatch.context() as patched:
        patched.setattr(OnnxruntimeBackend, "load", fails_for_two(CannotDeserialize("no memory", why="y")))
        done = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--json")
    assert done.code == 0 and done.json["best"]["combination"]["cpu"]["batch"] == 1
    assert "ENG207 no memory: y" in journal.read_text()  # of this batch it is true


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--latency", "nan"), "milliseconds"),
        (("--latency", "-5"), "milliseconds"),
        (("--latency", "0"), "milliseconds"),
        (("--latency", "inf"), "milliseconds"),
        (("--streams", "100000"), "from 1 to 128"),
        (("--streams", "0"), "from 1 to 128"),
        (("--batches", "99999999999"), "from 1 to 65536"),
        (("--srams", "-1"), "from 1 to"),
        (("--out", "pyproject.toml"), "takes a folder"),
    ],
)
def test_slips_of_the_keyboard(workshop: Any, options: tuple[str, str], said: str) -> None:
    done = workshop.forge("tune", "recipes/host.yaml", *options)
    assert done.code == 2 and said in done.err
    assert not (workshop.root / "tune").exists()


def test_sram_where_there_is_no_dla_is_told(workshop: Any) -> None:
    done = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--srams", "256")
    assert done.code == 0 and "--srams is for a DLA, and host has none" in done.err
    assert "--srams" not in workshop.forge("tune", "recipes/host.yaml", *SHORT).err


def test_a_batch_for_which_memory_runs_out_is_a_result(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def feeds(session: Any) -> Any:
        if session.inputs[0].shape[0] == 2:
            raise MemoryError
        return {"x": np.zeros((1, 3, 16, 16), np.float32)}

    monkeypatch.setattr("trtforge.pipeline.tune.feeds", feeds)
    done = workshop.forge("tune", "recipes/host.yaml", *SHORT, "--json")
    assert done.code == 0 and done.json["best"]["combination"]["cpu"]["batch"] == 1
    assert "memory ran out" in done.err
