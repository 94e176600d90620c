"""Backends by the names recipes use; a backend's module is imported when it is asked for."""

from __future__ import annotations

from importlib import import_module
from typing import get_args

from trtforge.backends.base import Availability, Backend
from trtforge.recipe.models import BackendName

_CLASSES: dict[BackendName, tuple[str, str]] = {
    "onnxruntime": ("trtforge.backends.onnxruntime_.backend", "OnnxruntimeBackend"),
    "tensorrt_rtx": ("trtforge.backends.tensorrt_rtx_.backend", "TensorRTRtxBackend"),
    "tensorrt": ("trtforge.backends.tensorrt_.backend", "NativeTensorRT"),
}


def get(name: BackendName) -> Backend:
    """The backend of a name. Needs none of the packages the backend uses."""
    module, cls = _CLASSES[name]
    backend: Backend = getattr(import_module(module), cls)()
    return backend


def names() -> tuple[BackendName, ...]:
    """Every backend name a recipe may say, in the order of the recipe model."""
    ordered: tuple[BackendName, ...] = get_args(BackendName)
    return ordered


def availabilities() -> dict[BackendName, Availability]:
    """What each backend can do on this machine. Imports nothing heavy."""
    return {name: get(name).availability() for name in names()}
