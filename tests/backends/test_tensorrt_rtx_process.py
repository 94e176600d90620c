"""The compiler's process when it does not answer: it hangs, aborts, is killed, or its caller is.

The real compiler cannot be made to do these on demand, so a stand-in module speaks its protocol and then fails.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from trtforge.backends.nvidia import process
from trtforge.backends.nvidia.answer import Compiled
from trtforge.backends.nvidia.process import run, timeout_seconds
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.backends.tensorrt_rtx_.job import job
from trtforge.errors.backend import BadBuildTimeout, CompilerDied, CompilerRefused, CompilerTimeout
from trtforge.errors.environment import MissingPackage
from trtforge.progress import QUIET

needs_rtx = pytest.mark.skipif(bool(environment.missing()), reason="TensorRT-RTX is not installed (extra `rtx`)")

PREAMBLE = """
import json, os, signal, subprocess, sys, time
from pathlib import Path
from trtforge.backends.nvidia.child import _die_with_parent
job = json.loads(Path(sys.argv[1]).read_text())
_die_with_parent(job["parent"])
events = os.fdopen(int(sys.argv[2]), "w", buffering=1)
def emit(**event): print(json.dumps(event), file=events)
emit(event="phase", name="Building engine", parent=None, steps=5)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The module that runs in place of the compiler; the test writes what it does."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(process, "_CHILD", "stand_in")
    return tmp_path / "stand_in.py"


def behave(path: Path, body: str) -> None:
    path.write_text(PREAMBLE + textwrap.dedent(body))


def build(folder: Path, timeout: float = 60.0) -> Compiled:
    return run(
        job(folder / "model.onnx", folder / "model.plan", ("SM80",), 1 << 30, "compile for a100"),
        timeout=timeout,
        progress=QUIET,
    )


def gone(pid: int, within: float = 20.0) -> bool:
    """Whether the process ends; a zombie of another parent counts as ended."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.02)
    return False


def wait_for(path: Path, within: float = 60.0) -> str:
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        if path.exists() and path.read_text().endswith("\n"):
            return path.read_text()
        time.sleep(0.02)
    raise AssertionError(f"{path} did not appear")


def test_abort_is_reported_with_signal_phase_and_last_words(stand_in: Path, tmp_path: Path) -> None:
    behave(
        stand_in,
        """
        emit(event="log", severity="INFO", message="reading weights")
        print("terminate called without an active exception", file=sys.stderr, flush=True)
        os.abort()
        """,
    )
    with pytest.raises(CompilerDied) as caught:
        build(tmp_path)
    assert "SIGABRT" in caught.value.what
    assert "Building engine" in caught.value.what
    assert "reading weights" in caught.value.why
    assert "terminate called" in caught.value.why


def test_a_kill_points_at_memory(stand_in: Path, tmp_path: Path) -> None:
    behave(stand_in, "os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(CompilerDied, match="SIGKILL") as caught:
        build(tmp_path)
    assert "memory" in caught.value.next


def test_an_exit_without_an_answer_is_an_error(stand_in: Path, tmp_path: Path) -> None:
    behave(stand_in, "sys.exit(7)")
    with pytest.raises(CompilerDied, match="exit code 7"):
        build(tmp_path)


def test_a_hanging_compiler_is_ended_with_all_it_started(stand_in: Path, tmp_path: Path) -> None:
    behave(
        stand_in,
        """
        helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(job["onnx"]).with_name("pids").write_text(f"{os.getpid()} {helper.pid}\\n")
        time.sleep(600)
        """,
    )
    with pytest.raises(CompilerTimeout) as caught:
        build(tmp_path, timeout=5)
    assert "Building engine" in caught.value.where
    assert "TRTFORGE_BUILD_TIMEOUT=10" in caught.value.next
    for pid in wait_for(tmp_path / "pids").split():
        assert gone(int(pid))


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGKILL])
def test_no_compiler_outlives_its_caller(stand_in: Path, tmp_path: Path, end: signal.Signals) -> None:
    """Ctrl-C in the caller ends the compiler at once; even a caller killed outright takes it along."""
    behave(
        stand_in,
        """
        Path(job["onnx"]).with_name("pids").write_text(f"{os.getpid()}\\n")
        time.sleep(600)
        """,
    )
    caller = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path; from trtforge.backends.nvidia import process\n"
            "from trtforge.backends.tensorrt_rtx_.job import job\n"
            "from trtforge.progress import QUIET\n"
            "process._CHILD = 'stand_in'; folder = Path(sys.argv[1])\n"
            "compile = job(folder / 'model.onnx', folder / 'model.plan', ('SM80',), 1 << 30, 'test')\n"
            "process.run(compile, timeout=600, progress=QUIET)",
            str(tmp_path),
        ],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    pid = int(wait_for(tmp_path / "pids"))
    caller.send_signal(end)
    _, stderr = caller.communicate(timeout=60)
    assert caller.returncode != 0
    assert (b"KeyboardInterrupt" in stderr) == (end == signal.SIGINT)
    assert gone(pid)


def test_repeated_warnings_are_folded(stand_in: Path, tmp_path: Path) -> None:
    behave(
        stand_in,
        """
        for number in range(50):
            emit(event="log", severity="WARNING", message=f"layer 'conv{number}' is slow on {number} lanes")
        emit(event="log", severity="WARNING", message="setHardwareCompatibilityLevel() is unsupported")
        emit(event="done", version="1.7", parse_seconds=0, build_seconds=0, inputs=[], outputs=[])
        """,
    )
    first, second = build(tmp_path).warnings
    assert (first.text, first.count) == ("layer 'conv0' is slow on 0 lanes", 50)
    assert str(first) == "layer 'conv0' is slow on 0 lanes (50 times)"
    assert "ignores the hardware compatibility level" in str(second)


def test_none_without_a_reason_is_still_an_error(stand_in: Path, tmp_path: Path) -> None:
    behave(stand_in, 'emit(event="failed", stage="build", message=""); sys.exit(1)')
    with pytest.raises(CompilerRefused, match="could not compile") as caught:
        build(tmp_path)
    assert "gave no reason" in caught.value.why


def test_a_package_that_does_not_import_is_an_environment_error(stand_in: Path, tmp_path: Path) -> None:
    behave(stand_in, 'emit(event="failed", stage="import", message="libcudart.so.12: cannot open"); sys.exit(1)')
    with pytest.raises(MissingPackage) as caught:
        build(tmp_path)
    assert "libcudart" in caught.value.why
    assert caught.value.next.startswith("pip install")


@pytest.mark.rtx
@needs_rtx
def test_the_real_compiler_is_ended_in_time(tmp_path: Path) -> None:
    """50 ms are not enough to start it."""
    (tmp_path / "model.onnx").write_bytes(b"")
    with pytest.raises(CompilerTimeout):
        build(tmp_path, timeout=0.05)


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf"])
def test_a_bad_limit_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_BUILD_TIMEOUT", text)
    with pytest.raises(BadBuildTimeout) as caught:
        timeout_seconds()
    assert text in caught.value.why


def test_the_limit_is_read_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRTFORGE_BUILD_TIMEOUT", "12.5")
    assert timeout_seconds() == 12.5
    monkeypatch.delenv("TRTFORGE_BUILD_TIMEOUT")
    assert timeout_seconds() == 3600
