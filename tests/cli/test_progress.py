"""Progress where no terminal is: a phase that takes its time says so, though nothing in it moves."""

from __future__ import annotations

import time
from typing import Any

import pytest

from trtforge.cli.ui import Ui, _Lines


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Lines, "WAITS_S", (0.05, 0.1, 10.0))


def wait_for(capsys: pytest.CaptureFixture[str], words: str) -> str:
    seen, until = "", time.monotonic() + 5
    while words not in seen:
        assert time.monotonic() < until, seen
        time.sleep(0.01)
        seen += capsys.readouterr().err
    return seen


def test_a_phase_that_stands_still_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().task("compile", None) as task:
        assert wait_for(capsys, "\n") == "compile ...\n"
        task.note("timing kernels")
        assert wait_for(capsys, "\n") == "compile: timing kernels\n"
    assert capsys.readouterr().err == ""


def test_a_count_says_how_long_it_takes(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().task("calibrate", 4) as task:
        task.advance(2)
        said = wait_for(capsys, "\n")
    assert said.startswith("calibrate: 2/4, about ") and said.endswith(" s left\n")


def test_quick_work_says_nothing_nor_does_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    with Ui().task("quick", 4):
        pass
    with Ui(quiet=True).task("slow", 4):
        time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_a_failure_ends_the_lines(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ZeroDivisionError), Ui().task("failing", None):
        raise ZeroDivisionError
    time.sleep(0.2)
    assert capsys.readouterr().err == ""


def test_a_build_names_the_check_of_its_int8_form(workshop: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs the FP32 model and the exact form before it tries any: seconds, for a network of some size."""
    from trtforge.backends.onnxruntime_ import choose

    made = choose.SelfCheck

    def slow(*args: Any) -> Any:
        time.sleep(0.3)
        return made(*args)

    monkeypatch.setattr(choose, "SelfCheck", slow)
    done = workshop.forge("build", "recipes/host.yaml")
    assert done.code == 0
    assert "choosing the INT8 form for this CPU: the FP32 model and the exact form first" in done.err
