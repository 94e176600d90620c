"""The catalogue of errors: one file per family, one class per error."""

from trtforge.errors import (
    backend,
    calibration,
    engine,
    environment,
    graph,
    recipe,
    targets,
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
    "engine",
    "environment",
    "graph",
    "recipe",
    "targets",
    "usage",
    "verify",
    "volume",
    "windows",
]
