"""The GPU tests and benchmarks themselves, on a stand-in for the driver: all that they call is there and does what they
think, so that the first attempt on a GPU is about the GPU.

The real cuda-core loads the real cubins and launches by name; the stand-in runs the same sources on this CPU.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.gpu import device, test_windows
from tests.plugins.on_host import build_for_host
from tests.plugins.windows.driver import driver_of_the_cpu, environment
from trtforge.kernels.cubins import KernelSet
from trtforge.plugins.conv3d_small import launch as conv
from trtforge.plugins.instance_norm_relu import launch as norm
from trtforge.plugins.pixel_shuffle_3d import launch as shuffle
from trtforge.plugins.res2 import launch as res2
from trtforge.runtime.windows.cubins import KERNELS, WINDOWS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the stand-in is a shared library of Linux")
SCRIPTS = (
    ("-m", "tests.gpu.test_res2"),
    ("-m", "tests.gpu.test_unet3d_plugins"),
    ("-m", "tests.gpu.test_windows"),
    ("benchmarks/gpu_plugins.py", "--batches", "1", "--size", "8", "--width", "32", "--rounds", "1"),
    ("benchmarks/gpu_windows.py", "--shape", "128", "128", "160", "--rounds", "1"),
)


@pytest.fixture(scope="module")
def driver(nvrtc: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    own = {each.KERNEL_SET: each.KERNELS for each in (conv, norm, shuffle, res2)}
    driver_of_the_cpu(folder, {WINDOWS: KERNELS, **own})
    network = folder / "network"
    network.mkdir()
    shutil.copy(test_windows.NETWORK, network / "kernel.cu")
    build_for_host(KernelSet("network", ("kernel.cu",), "of test_windows.py"), test_windows.NETWORKS, network)
    return folder


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script[script[0] == "-m"])
def test_it_runs(driver: Path, tmp_path: Path, script: tuple[str, ...]) -> None:
    command, there = [sys.executable, *script], environment(driver, TRTFORGE_CACHE=str(tmp_path))
    done = subprocess.run(command, cwd=device.ROOT, env=there, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    if "benchmarks" in script[0]:
        assert done.stdout.startswith("this CPU, SM 8.0")
        assert sum(line.endswith(" |") for line in done.stdout.splitlines()) >= 5


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script[script[0] == "-m"])
def test_what_is_missing_is_said(driver: Path, script: tuple[str, ...]) -> None:
    """As the last words of a script, and so as the reason to skip a test."""
    if script[0] == "-m":
        run = f"runpy.run_module({script[1]!r}, run_name='__main__')"
    else:
        run = f"sys.argv = {list(script)}; runpy.run_path({script[0]!r}, run_name='__main__')"
    command = [sys.executable, "-c", f"import runpy, sys; sys.modules['cuda.core'] = None; {run}"]
    there = environment(driver)
    done = subprocess.run(command, cwd=device.ROOT, env=there, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "needs NVIDIA's cuda-core" in done.stderr and "Traceback" not in done.stderr
