"""Two commands that want the same work of one device, at once or one after the other."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from tests.device.conftest import BUILD, Device, wait
from tests.device.test_dropped import Running

pytestmark = pytest.mark.sshd


@pytest.mark.parametrize("machines", [1, 2])
def test_both_get_the_engine(workshop: Any, device: Device, tmp_path: Path, machines: int) -> None:
    """Into stores of their own, from one machine or from two: the same kit is the same job there.

    The second is held up until the first has brought the engine home and removed the job.
    """
    device.gate.touch()
    stores = [tmp_path / name for name in "ab"]
    first, second = (
        Running(
            workshop,
            device,
            *BUILD,
            device.address,
            "--store",
            str(store),
            TRTFORGE_CACHE=str(tmp_path / f"cache{number % machines}"),
        )
        for number, store in enumerate(stores)
    )
    wait(lambda: all("compiling" in each.err for each in (first, second)), "both wait for the work there")
    second.process.send_signal(signal.SIGSTOP)
    device.gate.unlink()
    try:
        assert first.end() == 0, first.err
    finally:
        second.process.send_signal(signal.SIGCONT)
    assert second.end() == 0, second.err
    assert all((store / "net" / "1" / "manifest.json").exists() for store in stores)
    assert device.jobs == []


def test_after_ctrl_c_the_same_command_attaches(workshop: Any, device: Device) -> None:
    device.gate.touch()
    stopped = Running(workshop, device, *BUILD, device.address)
    wait(lambda: "compiling" in stopped.err, "it compiles")
    stopped.process.send_signal(signal.SIGINT)
    assert stopped.end() == 130
    assert "the work there goes on; the same command attaches to it" in stopped.err
    again = Running(workshop, device, *BUILD, device.address)
    wait(lambda: "attached to the work that goes on" in again.err, "it attaches")
    device.gate.unlink()
    assert again.end() == 0, again.err
    assert len(device.compiled) == 1 and device.jobs == []
