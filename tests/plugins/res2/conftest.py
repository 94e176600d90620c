"""The res2 kernels compiled for this CPU, and Res2Int8 in onnxruntime to hold them against."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from tests.plugins.res2.stage import Kernels, reference_of
from trtforge.plugins.res2.function import Quantized
from trtforge.plugins.res2.launch import KERNEL_SET, KERNELS

Array = np.ndarray[Any, Any]


@pytest.fixture(scope="session")
def host(host_kernels: Callable[..., Any]) -> Kernels:
    return Kernels(host_kernels(KERNEL_SET, KERNELS))


@pytest.fixture(scope="session")
def reference() -> Callable[[Array, Quantized], Array]:
    return reference_of()
