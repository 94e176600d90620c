"""The real cuda-core under the device loop: over a stand-in for the driver that runs the kernels on this CPU.

In a process of its own, because once loaded the stand-in is the driver for all that asks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.plugins.windows.driver import driver_of_the_cpu, environment

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return driver_of_the_cpu(tmp_path_factory.mktemp("driver"))


@pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a shared library of Linux")
@pytest.mark.parametrize("sm", ["8.0", "8.7"])
def test_the_loop_runs_on_the_real_cuda_core(driver: Path, sm: str, tmp_path: Path) -> None:
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    soc = {"TRTFORGE_TEST_SOC": "1"} if sm == "8.7" else {}
    there = environment(driver, TRTFORGE_CACHE=str(tmp_path), **soc)
    command = [sys.executable, str(HERE / "on_driver.py"), sm]
    done = subprocess.run(command, env=there, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ["right"] * 4
