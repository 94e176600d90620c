"""A calibrator called as TensorRT calls it: from C++, through the table of its virtual methods.

The order of methods is that of NvInfer.h: before TensorRT 10 a calibrator has its five methods; since then it extends
IVersionedInterface, whose four come first (language, two destructors, interface). The algorithm's number, which every
calibrator must give, shows that the order is right.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

_VALUE = 16  # offset of the C++ object's address in an instance of pybind11, behind the head of a Python object


class Calibrator:
    """The C++ side of a Python calibrator. ``first``: where its own methods begin in the table."""

    def __init__(self, trt: Any, made: Any) -> None:
        self._keep = made
        self._this = ctypes.c_void_p.from_address(id(made) + _VALUE).value
        self._table = ctypes.c_void_p.from_address(self._this or 0).value or 0
        self._first = 0 if trt.__version__.startswith("8.") else 4

    def _method(self, index: int, result: Any, *arguments: Any) -> Any:
        address = ctypes.c_void_p.from_address(self._table + 8 * (self._first + index)).value
        kind = ctypes.CFUNCTYPE(result, ctypes.c_void_p, *arguments)
        function = kind(address or 0)
        return lambda *values: function(self._this, *values)

    def algorithm(self) -> int:
        return int(self._method(4, ctypes.c_int)())

    def batch_size(self) -> int:
        return int(self._method(0, ctypes.c_int)())

    def batch(self, names: Sequence[str]) -> list[int] | None:
        """Device addresses of the next batch; None when there is none."""
        bindings = (ctypes.c_void_p * len(names))()
        spelled = (ctypes.c_char_p * len(names))(*(name.encode() for name in names))
        call = self._method(1, ctypes.c_bool, type(bindings), type(spelled), ctypes.c_int)
        return [int(each or 0) for each in bindings] if call(bindings, spelled, len(names)) else None

    def read_cache(self) -> bytes | None:
        size = ctypes.c_size_t()
        address = self._method(2, ctypes.c_void_p, ctypes.POINTER(ctypes.c_size_t))(ctypes.byref(size))
        return ctypes.string_at(address, size.value) if address else None

    def write_cache(self, cache: bytes) -> None:
        self._method(3, None, ctypes.c_char_p, ctypes.c_size_t)(cache, len(cache))
