"""The far side by itself, without a connection."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
from pathlib import Path

import pytest


def test_the_far_side_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from trtforge.device.far import FarJob

    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    content = os.urandom(5000)
    job = FarJob(hashlib.sha256(content).hexdigest())
    assert job.state(0) == {"phase": "new", "have": 0}
    job.folder.mkdir(parents=True)
    job.part.write_bytes(content[:2000])
    assert job.state(0) == {"phase": "partial", "have": 2000}
    assert job.receive(2000, 5000, io.BytesIO(content[2000:3000])) == {"whole": False}  # cut off: it stays
    assert job.state(0) == {"phase": "partial", "have": 3000}
    assert job.receive(3000, 5000, io.BytesIO(content[3000:])) == {"whole": True}
    assert job.state(0)["phase"] == "whole" and job.kit.read_bytes() == content
    other = FarJob("0" * 64)
    assert other.receive(0, 5000, io.BytesIO(content)) == {"whole": False}  # whole, and another: it goes
    assert other.state(0) == {"phase": "new", "have": 0}
    with pytest.raises(ValueError, match="not the digest"):
        FarJob("../../etc")


def test_who_asks_is_not_taken_for_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from filelock import FileLock

    from trtforge.device.far import FarJob

    monkeypatch.setenv("TRTFORGE_CACHE", str(tmp_path))
    job = FarJob("0" * 64)
    assert not job.running()
    job.folder.mkdir(parents=True)
    lock = job.folder / ".work.lock"
    with FileLock(lock):
        assert job.running() and job.clean() == {"phase": "running"}
    other = os.open(lock, os.O_RDONLY)  # another follower, in the middle of asking
    try:
        fcntl.flock(other, fcntl.LOCK_SH)
        assert not job.running()
        assert job.clean() == {"phase": "new"} and not job.folder.exists()
    finally:
        os.close(other)


def test_events_are_json_lines(tmp_path: Path) -> None:
    from trtforge.device.events import Recorder, Replay

    with Recorder(tmp_path / "events") as recorder:
        with recorder.task("measuring", 3) as task:
            task.note("a")
            task.advance(3)
        recorder.log("done")
        recorder.warn("careful")
    events = [json.loads(line) for line in (tmp_path / "events").read_text().splitlines()]
    assert events[0] == {"task": 1, "label": "measuring", "total": 3}
    assert {"task": 1, "steps": 3, "note": "a"} in events
    with Recorder(tmp_path / "again") as again, Replay("orin", again) as replay:
        for event in [*events, {"later": True}]:
            replay.show(event)
    shown = [json.loads(line) for line in (tmp_path / "again").read_text().splitlines()]
    assert shown[0]["label"] == "orin: measuring" and shown[-1] == {"warn": "orin: careful"}
