"""The window kernels (plugins/windows) by name."""

from __future__ import annotations

from trtforge.kernels.cubins import KernelSet

WINDOWS = KernelSet("windows", ("kernel.cu", "windows.cuh", "instructions.cuh"), "the window kernels")
KERNELS = (
    "slice_int8",
    "slice_float16",
    "slice_float32",
    "quantize_int8",
    "slice_int8_cdhw32",
    "quantize_int8_cdhw32",
    "accumulate_float16",
    "accumulate_float32",
)
