"""The catalogue of errors: one file per family, one class per error."""

from trtforge.errors import (
    backend,
    calibration,
    device,
    engine,
    environment,
    graph,
    kit,
    native,
    recipe,
    scales,
    targets,
    tune,
    usage,
    verify,
    volume,
    windows,
)
from trtforge.errors.base import EXIT_CODES, TrtforgeError, catalogue

__all__ = [
    "EXIT_CODES",
    "TrtforgeError",
    "backend",
    "calibration",
    "catalogue",
    "device",
    "engine",
    "environment",
    "graph",
    "kit",
    "native",
    "recipe",
    "scales",
    "targets",
    "tune",
    "usage",
    "verify",
    "volume",
    "windows",
]
