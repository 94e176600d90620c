"""What meets native TensorRT, on NVIDIA's bindings of each release, one process each."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from tests.native.bindings import ALL, under
from tests.plugins.windows.driver import driver_of_the_cpu

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
    if sys.platform != "linux":
        pytest.skip("the stand-in is a shared library of Linux")
    return driver_of_the_cpu(tmp_path_factory.mktemp("driver"))


@pytest.mark.parametrize("soc", [False, True], ids=["card", "soc"])
@pytest.mark.parametrize("release", ALL)
def test_a_session(release: str, soc: bool, driver: Path) -> None:
    """Over the real cuda-core, on a stand-in for the driver whose device memory is the CPU's."""
    pytest.importorskip("cuda.core", reason="cuda-core is not installed")
    path = os.pathsep.join([str(driver), os.environ.get("LD_LIBRARY_PATH", "")]).rstrip(os.pathsep)
    under(release, HERE / "on_session.py", LD_LIBRARY_PATH=path, **({"TRTFORGE_TEST_SOC": "1"} if soc else {}))
