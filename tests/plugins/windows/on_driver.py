"""The device loop through the real cuda-core, on the tests' own libcuda.so.1; test_driver.py starts this."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))

import conftest
import test_loop

from trtforge.runtime.windows.cubins import WINDOWS

Work = ctypes.CFUNCTYPE(None)


class Driver:
    """Where NumpySession puts its work: into a stream of the driver."""

    def __init__(self) -> None:
        self.library = ctypes.CDLL("libcuda.so.1")
        self.library.test_enqueue.argtypes = [ctypes.c_void_p, Work]
        self._kept: list[Any] = []

    def do(self, handle: int, name: str, work: Any) -> None:
        self._kept.append(Work(work))
        self.library.test_enqueue(handle, self._kept[-1])


def main(sm: str) -> None:
    driver, cubins = Driver(), WINDOWS.compile([sm])
    for facts, options in [
        ({}, {}),
        ({"batch": 3, "given": "float16", "taken": "float16", "channels": 5}, {}),
        ({"batch": 2, "overlap": 0.75, "mode": "monai", "channels": 1}, {"graph": True}),
        ({"taken": "int8", "volume": "float32"}, {"scale": 0.03, "layout": "cdhw32"}),
    ]:
        case = test_loop.Case(driver, conftest.NumpySession, **facts)
        got = case.run(cubins, **options)
        fed = case.volume
        if "scale" in options:
            fed = np.clip(np.rint(fed / np.float32(options["scale"])), -127, 127).astype(np.int8)
        assert np.array_equal(got, case.expected(fed)), facts
        print("right")


if __name__ == "__main__":
    main(sys.argv[1])
