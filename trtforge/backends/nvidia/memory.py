"""Device memory for calibration batches, through NVIDIA's cuda-bindings, every answer checked."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np


class DeviceMemory:
    """Of GPU 0. Raises RuntimeError with CUDA's own word."""

    def __init__(self) -> None:
        self._runtime = import_module("cuda.bindings.runtime")

    def allocate(self, size: int) -> int:
        return int(self._call("cudaMalloc", max(1, size)))

    def copy_in(self, address: int, array: np.ndarray[Any, Any]) -> None:
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpy", address, array.ctypes.data, array.nbytes, kind)

    def free(self, address: int) -> None:
        self._call("cudaFree", address)

    def _call(self, function: str, *arguments: Any) -> Any:
        code, *results = getattr(self._runtime, function)(*arguments)
        if code != self._runtime.cudaError_t.cudaSuccess:
            raise RuntimeError(f"{function}: {code.name}")
        return results[0] if results else None
