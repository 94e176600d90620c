"""A command may end at any moment, by SIGKILL, Ctrl-C or SIGTERM: nothing half-done is seen, and nothing is lost.

The moments are counted in file operations, which the interpreter reports before it does them, not in seconds: each
is hit exactly, on any machine.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trtforge.engines.load import open_engine
from trtforge.engines.store import Store

BOUND = """\
import json, os, signal, sys
arguments, inside, which, at, number = json.loads({job!r})
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
seen = 0

def touches(event, details):
    if event == "open":
        path, _, flags = details
        wanted = bool(flags & WRITING) == (which == "write")
    elif which == "write" and event in ("os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod"):
        path, wanted = details[0], True
    else:
        return False
    return wanted and not isinstance(path, int) and os.path.abspath(os.fsdecode(path)).startswith(inside)

def hook(event, details):
    global seen
    if event.startswith(("open", "os.")) and touches(event, details):
        seen += 1
        if seen == at:
            os.kill(os.getpid(), number)

sys.argv = ["trtforge", *arguments]
import trtforge.engines.key
trtforge.engines.key.source_digest = lambda: {source!r}
from trtforge.cli.main import entry
sys.addaudithook(hook)
try:
    entry()
finally:
    print(f"operations {{seen}}", file=sys.stderr)
"""
SOURCE = "0" * 64
CALIBRATE = ("calibrate", "recipes/host.yaml", "--out", "out")
BUILD = ("build", "recipes/host.yaml")


@pytest.fixture(autouse=True)
def _one_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """trtforge's own source is an input of a build; an edit of it while these tests run is not their subject."""
    monkeypatch.setattr("trtforge.pipeline.job.source_digest", lambda: SOURCE)


def bound(
    workshop, *arguments: str, at: int, inside: Path | None = None, which: str = "write", number: int = signal.SIGKILL
) -> subprocess.CompletedProcess[str]:
    """Run a command that gets a signal just before its ``at``-th file operation of a kind; 0: it runs to its end."""
    job = json.dumps([arguments, str(inside or workshop.root), which, at, int(number)])
    return subprocess.run(
        [sys.executable, "-c", BOUND.format(job=job, source=SOURCE)],
        cwd=workshop.root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def operations(done: subprocess.CompletedProcess[str]) -> int:
    assert done.returncode == 0, done.stderr
    return int(done.stderr.rpartition("operations ")[2])


def assert_sound(store: Path) -> list[int]:
    """Every version that can be seen is whole; the numbers of those versions."""
    found = Store(store)
    for engine in found.engines():
        for version in found.versions(engine):
            open_engine(store / engine / str(version))
    return found.versions("net")


def assert_clean(workshop) -> None:
    """No checkpoint, no staging, no working folder, no temporary scales."""
    left = workshop.files()
    assert [
        file for file in left if ".part" in file or ".staging" in file or file.startswith(".cache/work/build-")
    ] == []
    assert [file for file in left if file.startswith(".cache/scales/.")] == []


def test_calibrate_killed_anywhere_ends_with_the_same_scales(workshop) -> None:
    """Five kills, each on what the one before left."""
    total = operations(bound(workshop, *CALIBRATE, at=0))
    scales = workshop.root / "out/net.scales.json"
    undisturbed = scales.read_bytes()
    assert total >= 5
    for at in random.Random(0).sample(range(1, total + 1), 5):
        for file in (workshop.cache / "scales").glob("*.json"):
            file.unlink()  # there is something to do
        scales.unlink(missing_ok=True)
        killed = bound(workshop, *CALIBRATE, at=at)
        assert killed.returncode in (-signal.SIGKILL, 0), killed.stderr  # one that continues has less to do
        assert not scales.exists() or scales.read_bytes() == undisturbed
    done = workshop.forge(*CALIBRATE)
    assert done.code == 0, done.err
    assert scales.read_bytes() == undisturbed
    assert_clean(workshop)


def test_build_killed_anywhere_leaves_a_sound_store(workshop) -> None:
    """Eight kills of a build that has everything to do; after each, what can be seen is whole."""
    total = operations(bound(workshop, *BUILD, at=0))
    undisturbed = json.loads((workshop.store / "net/1/manifest.json").read_text())
    assert total >= 20
    for at in random.Random(1).sample(range(1, total + 1), 8):
        before = assert_sound(workshop.store)
        for file in (workshop.cache / "scales").glob("*.json"):
            file.unlink()
        killed = bound(workshop, *BUILD, "--force", at=at)
        if killed.returncode == 0:  # a build over another has fewer operations than the first
            continue
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert set(before) <= set(assert_sound(workshop.store))
    done = workshop.build("--force")["engines"][0]
    assert assert_sound(workshop.store)[-1] == done["version"]
    assert done["status"] == "built"
    manifest = json.loads((workshop.root / done["path"] / "manifest.json").read_text())
    for name in ("calibration", "model", "recipe", "verify"):
        assert manifest["key_inputs"][name] == undisturbed["key_inputs"][name]
    assert manifest["files"]["scales.json"] == undisturbed["files"]["scales.json"]
    assert_clean(workshop)
    assert workshop.build()["engines"][0]["status"] == "up-to-date"
    assert workshop.build("--locked")["engines"][0]["status"] == "up-to-date"


def test_a_first_build_killed_while_publishing_shows_no_engine(workshop) -> None:
    """Every fifth operation inside the store, in a store of its own."""
    total = operations(bound(workshop, *BUILD, at=0, inside=workshop.store))
    for at in range(2, total, 5):
        store = workshop.root / f"stores/{at}"
        killed = bound(workshop, *BUILD, "--store", str(store), at=at, inside=store)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert assert_sound(store) in ([], [1])
        done = workshop.build("--store", store)["engines"][0]
        assert done["version"] == assert_sound(store)[-1]
        assert (store / "net/config.pbtxt").exists()
        if done["status"] == "built":
            assert not (store / "net/.staging").exists()


def test_kit_killed_anywhere_is_whole_or_absent(workshop) -> None:
    from trtforge.engines.kit import read_kit

    workshop.bend(
        "orin",
        ("target: host", "target: orin-agx-64gb/gpu"),
        ("backend: onnxruntime", 'backend: tensorrt\ntensorrt: "8.6"'),
    )
    kit = workshop.root / "engines/orin/net.kit.tar.zst"
    for at in (1, 3, 5):
        killed = bound(workshop, "build", "recipes/orin.yaml", "--force", at=at, inside=kit.parent)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        if kit.exists():
            read_kit(kit)
    workshop.build("--force", recipe="orin", code=10)
    read_kit(kit)
    assert list(kit.parent.glob(".*.tmp")) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("command", [CALIBRATE, BUILD], ids=lambda command: command[0])
def test_an_interrupted_calibration_continues(workshop, command: tuple[str, ...], number: int) -> None:
    fifth = workshop.root / "data/4.npy"
    undisturbed = workshop.forge("calibrate", "recipes/host.yaml", "--out", "undisturbed")
    assert undisturbed.code == 0
    (table,) = (workshop.cache / "scales").glob("*.json")
    scales = table.read_bytes()
    table.unlink()
    total = operations(bound(workshop, *command, at=0, inside=fifth, which="read"))  # the last one decodes it
    for file in (workshop.cache / "scales").glob("*.json"):
        file.unlink()
    options = ("--force",) if command == BUILD else ()

    stopped = bound(workshop, *command, *options, at=total, inside=fifth, which="read", number=number)
    assert stopped.returncode == 130, stopped.stderr
    assert "interrupted: nothing half-written was left behind" in stopped.stderr
    assert "net: what is calibrated so far is kept; the same command goes on from there" in stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert not table.exists()
    assert list((workshop.cache / "work").glob("build-*")) == []

    again = workshop.forge(*command, *options)
    assert again.code == 0
    assert "4 of 6 samples are done" in again.err
    assert table.read_bytes() == scales
    assert_clean(workshop)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_an_interrupted_publish_leaves_nothing(workshop, number: int) -> None:
    staging = workshop.store / "net/.staging"
    stopped = bound(workshop, *BUILD, at=3, inside=staging, number=number)
    assert stopped.returncode == 130, stopped.stderr
    assert "Traceback" not in stopped.stderr
    assert assert_sound(workshop.store) == []
    assert_clean(workshop)
    assert [path.name for path in workshop.store.glob("[!.]*")] == []
    assert not (workshop.root / "recipes/trtforge.lock").exists()
    assert workshop.build()["engines"][0]["status"] == "built"


def test_work_of_a_build_that_is_running_is_left_alone(workshop) -> None:
    from trtforge.pipeline.workdir import workdir

    with workdir() as first:
        (first / "plan").touch()
        with workdir() as second:
            assert second != first
            assert (first / "plan").exists()
        assert not second.exists()
    assert not first.exists()
    abandoned = workshop.cache / "work/build-of-a-killed-process"
    abandoned.mkdir()
    (abandoned / "plan").touch()
    with workdir():
        assert not abandoned.exists()


def test_a_work_folder_that_another_build_removes_at_this_moment(workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends between the listing of the folder and the look at its lock."""
    gone = workshop.cache / "work" / "build-gone"
    gone.mkdir(parents=True)
    system = os.open

    def late(path, *arguments, **options):
        if Path(path) == gone / ".owner":
            gone.rmdir()
        return system(path, *arguments, **options)

    monkeypatch.setattr(os, "open", late)
    done = workshop.forge("build", "recipes/host.yaml")
    assert done.code == 0, done.err
    assert not gone.exists()
