"""What meets native TensorRT, on NVIDIA's bindings of each release, one process each."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.native.bindings import ALL, under
from trtforge.kernels.cubins import plugin_folder

HERE = Path(__file__).parent


@pytest.mark.parametrize("release", ALL)
def test_a_build(release: str) -> None:
    under(release, HERE / "on_build.py")


@pytest.mark.parametrize("release", ["8.6", "10.16"])
def test_the_calibrators(release: str) -> None:
    under(release, HERE / "on_calibrator.py")


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the window loop's stand-in for NVIDIA's driver."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None or sys.platform != "linux":
        pytest.skip("needs a C++ compiler, and Linux")
    folder = tmp_path_factory.mktemp("driver")
    windows = HERE.parent / "plugins" / "windows"
    flags = (
        "-std=c++17",
        "-O1",
        "-shared",
        "-fPIC",
        "-ffp-contract=off",
        "-Wl,-soname,libcuda.so.1",
        "-Wno-attributes",
    )
    include = (f"-I{plugin_folder('windows')}", f"-I{plugin_folder('windows').parent}")
    command = [compiler, *flags, *include, str(windows / "driver.cpp"), "-o", str(folder / "libcuda.so.1")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("soc", [False, True], ids=["card", "soc"])
@pytest.mark.parametrize("release", ALL)
def test_a_session(release: str, soc: bool, driver: Path) -> None:
    """Over the real cuda-core, on a stand-in for the driver whose device memory is the CPU's."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    path = os.pathsep.join([str(driver), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    under(release, HERE / "on_session.py", LD_LIBRARY_PATH=path, **({"TRTFORGE_TEST_SOC": "1"} if soc else {}))
