"""A loaded onnxruntime engine: the model file and the session options it was checked with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.backends.base import Arrays, TensorSpec
from trtforge.backends.feeds import check_feeds
from trtforge.errors.backend import BadThreads
from trtforge.errors.engine import SessionFailed, SessionRefused
from trtforge.ort import import_onnxruntime, session_options

THREADS = "TRTFORGE_THREADS"

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(bool)": "bool",
    **{f"tensor({kind})": kind for kind in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")},
}


class OnnxruntimeSession:
    """Runs on the CPU. Every output of the graph is computed and returned."""

    def __init__(self, native: Any) -> None:
        self._native = native
        self.inputs = tuple(_spec(value) for value in native.get_inputs())
        self.outputs = tuple(_spec(value) for value in native.get_outputs())

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """One execution. Raises WrongFeed (ENG208), SessionFailed (ENG302)."""
        check_feeds(self.inputs, inputs)
        names = [spec.name for spec in self.outputs]
        try:
            values = self._native.run(names, dict(inputs))
        except runtime_errors() as error:
            raise SessionFailed(
                "onnxruntime failed while running the engine",
                why=first_line(error),
                next=_after_failure(first_line(error)),
            ) from error
        return dict(zip(names, values, strict=True))


def _after_failure(words: str) -> str:
    if "out of data bounds" in words or "out of bounds" in words:
        return "correct the sample: it holds an index (a token id) beyond the table that the named node looks it up in"
    if "alloc" in words.lower() or "memory" in words.lower():
        return "free memory, or build the engine for a smaller batch"
    return "compare the values of the sample with what the named node takes: `trtforge inspect MODEL`"


def open_file(path: Path, config: Mapping[str, str]) -> OnnxruntimeSession:
    """A session of a model file at full optimization, with the config entries of its form.

    External data is found beside the file. Raises SessionRefused (ENG301), BadThreads (BLD105).
    """
    options = configured(config)
    try:
        native = import_onnxruntime().InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise SessionRefused(
            "onnxruntime could not load the engine",
            where=str(path),
            why=first_line(error),
            next="build it again with the onnxruntime that is installed here: `trtforge build RECIPE --force`",
        ) from error
    return OnnxruntimeSession(native)


def configured(config: Mapping[str, str]) -> Any:
    """Session options: all optimizations, threads from TRTFORGE_THREADS, and the given config entries."""
    options = session_options(threads=threads_from_environment())
    options.graph_optimization_level = import_onnxruntime().GraphOptimizationLevel.ORT_ENABLE_ALL
    for key, value in config.items():
        options.add_session_config_entry(key, value)
    return options


def threads_from_environment() -> int | None:
    """The value of TRTFORGE_THREADS, None when unset or empty. Raises BadThreads."""
    text = os.environ.get(THREADS, "")
    if not text:
        return None
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise BadThreads(
            f"{THREADS} is not a number of threads",
            where="environment",
            why=f"its value is {text!r}",
            next=f"export {THREADS}=2, or unset {THREADS}",
        )
    return int(text)


@lru_cache(maxsize=1)
def runtime_errors() -> tuple[type[Exception], ...]:
    """What onnxruntime raises. Its own exceptions share no base but Exception, so they are listed by looking."""
    native = import_module("onnxruntime.capi.onnxruntime_pybind11_state")
    own = [kind for kind in vars(native).values() if isinstance(kind, type) and issubclass(kind, Exception)]
    return (RuntimeError, ValueError, MemoryError, *own)


def first_line(error: Exception) -> str:
    """The runtime's own words without the C++ stack that follows them."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _spec(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) else None for size in value.shape)
    return TensorSpec(value.name, shape, _DTYPES.get(value.type, value.type))
