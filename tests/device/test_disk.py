"""A device with too little disk."""

from __future__ import annotations

import os
import subprocess
from typing import Any

import pytest

from tests.device.conftest import BUILD, Device, error

pytestmark = pytest.mark.sshd


@pytest.fixture
def small(device: Device) -> Any:
    """The device's cache on a file system of 256 KiB."""
    device.cache.mkdir()
    mounted = os.geteuid() == 0 and (
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", device.cache], capture_output=True, check=False
        ).returncode
        == 0
    )
    if not mounted:
        pytest.skip("a small file system cannot be mounted here (needs root)")
    yield device
    device.gate.unlink(missing_ok=True)
    device.stop()
    subprocess.run(["umount", "-l", device.cache], check=True)


def test_a_device_out_of_disk_is_told_before_anything_is_copied(workshop, small: Device) -> None:
    workshop.write_model(channels=1024)
    found = error(workshop, *BUILD, small.address)
    assert found["code"] == "DEV107"
    assert "are needed" in found["why"] and "256.0 KiB are free" in found["why"]
    assert small.jobs == []


def test_a_disk_that_fills_up_meanwhile_is_told(workshop, small: Device, monkeypatch) -> None:
    """Enough room when it was asked for, none when the kit is unpacked."""
    workshop.write_model(channels=1024)
    monkeypatch.setattr("trtforge.engines.kit.KitInfo.size", property(lambda info: 0))
    code = error(workshop, *BUILD, small.address)["code"]
    assert code in ("ENV102", "ENG133", "ENG103", "DEV107")
