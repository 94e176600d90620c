"""NVIDIA's own Python bindings of TensorRT 8.6, 10.16 and 11.4, imported where TensorRT itself cannot be.

The bindings are on PyPI; the libraries under them want a GPU's driver and are not there, so stub libraries take their
place that have every symbol and do nothing. What is real: classes, enumerations, signatures, and calls from C++ into
Python classes that extend them. What is not: `Builder`, `Runtime` and the plugin registry, which come out as null.

    python tests/native/bindings.py       install the bindings below this environment, as `make test` does

Only one version fits into a process. So a test that wants them is run in a child for each version: see `under`.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

_CHOSEN = "TRTFORGE_TEST_BINDINGS"
_ENTRY_POINTS = (
    *("createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion"),
    *("getBuilderPluginRegistry", "getPluginRegistry", "initLibNvInferPlugins"),
)
_UFF_AND_CAFFE = (  # TensorRT 8 has parsers of two older formats; these are the mangled names of their entry points
    *("_ZN11nvuffparser15createUffParserEv", "_ZN11nvuffparser23shutdownProtobufLibraryEv"),
    "_ZN11nvuffparser8FieldMapC1EPKcPKvNS_9FieldTypeEi",
    *("_ZN14nvcaffeparser117createCaffeParserEv", "_ZN14nvcaffeparser123shutdownProtobufLibraryEv"),
)


@dataclass(frozen=True)
class Bindings:
    """One release: the distribution on PyPI, and the libraries it is linked to."""

    release: str
    distribution: str
    version: str
    libraries: tuple[str, ...]
    symbols: tuple[str, ...] = _ENTRY_POINTS

    @property
    def folder(self) -> Path:
        return Path(sys.prefix) / "tensorrt-bindings" / self.version

    @property
    def here(self) -> bool:
        return (self.folder / "tensorrt_bindings").is_dir()

    @property
    def why_not(self) -> str:
        if shutil.which("cc") is None:
            return "no C compiler, so no stub libraries"
        return "" if self.here else f"{self.distribution}=={self.version} is not installed (`make test` does)"


def _libraries(major: int, *more: str) -> tuple[str, ...]:
    return tuple(f"lib{name}.so.{major}" for name in ("nvinfer", "nvonnxparser", "nvinfer_plugin", *more))


ALL = {
    each.release: each
    for each in (
        Bindings("8.6", "tensorrt-bindings", "8.6.1", _libraries(8, "nvparsers"), (*_ENTRY_POINTS, *_UFF_AND_CAFFE)),
        Bindings("10.16", "tensorrt-cu12-bindings", "10.16.1.11", _libraries(10)),
        Bindings("11.4", "tensorrt-cu12-bindings", "11.4.0.106", _libraries(11)),
    )
}


def install() -> None:
    """Each into a folder of its own. One that does not fit this Python is left out, and its tests are skipped."""
    for each in ALL.values():
        if each.here:
            continue
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
        wanted = [f"{each.distribution}=={each.version}", "--target", str(each.folder), "--only-binary", ":all:"]
        if subprocess.run([*pip, *wanted], capture_output=True, check=False).returncode:
            shutil.rmtree(each.folder, ignore_errors=True)
            print(f"no {each.distribution}=={each.version} for this Python: its tests will be skipped")


def chosen() -> str:
    """The version that this process was started for; empty in one that wants none."""
    return os.environ.get(_CHOSEN, "")


def under(release: str, file: Path, *options: str, **environment: str) -> None:
    """Run tests of ``file`` in a child where `chosen` is ``release``. They must pass, all of them.

    ``environment``: more of it for the child.
    """
    if why := ALL[release].why_not:
        pytest.skip(why)
    quiet = ("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    command = [sys.executable, "-m", "pytest", *quiet, str(file), *options]
    variables = os.environ | environment | {_CHOSEN: release}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout, done.stdout[-1000:]


@cache
def enter(release: str = "") -> ModuleType:
    """The bindings, `chosen` or another's, as the module `tensorrt` of this process."""
    bindings = ALL[release or chosen()]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "stubs.c"
        source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in bindings.symbols))
        for library in bindings.libraries:
            made = Path(folder) / library
            # The first has the symbols; the others are there to be found.
            sources = [str(source)] if library == bindings.libraries[0] else ["-x", "c", os.devnull]
            command = ["cc", "-shared", "-fPIC", f"-Wl,-soname,{library}", "-o", str(made), *sources]
            subprocess.run(command, check=True)
            ctypes.CDLL(str(made), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(bindings.folder))
    sys.modules["tensorrt"] = importlib.import_module("tensorrt_bindings")
    return sys.modules["tensorrt"]


if __name__ == "__main__":
    install()
