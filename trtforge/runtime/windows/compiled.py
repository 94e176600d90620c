"""Is the compiled accumulator here? Imports nothing heavy."""

from __future__ import annotations

import os
from importlib import import_module
from typing import Any

NUMPY_ONLY = "TRTFORGE_NUMPY_WINDOWS"
"""Set to anything: the compiled accumulator is not used even where it is installed."""


def native_module() -> Any:
    """The compiled accumulator; None where trtforge was installed without a compiler, or it is switched off."""
    if os.environ.get(NUMPY_ONLY):
        return None
    try:
        return import_module("trtforge.runtime.windows._native")
    except ImportError:
        return None
