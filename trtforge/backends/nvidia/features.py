"""What a TensorRT can do, by what its module has. Versions are compared nowhere; a table of them is kept for planning.

`documented` answers for a release that is not on this machine: a kit for a device is made from it. Tests hold the table
to NVIDIA's bindings of 8.6, 10.16 and 11.4 and of TensorRT-RTX 1.7.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from trtforge.targets.load import version_tuple


@dataclass(frozen=True)
class Features:
    """``calibrators``: INT8 ranges may be given from outside the graph. ``precision_flags``: layers may be computed in
    less than the graph's types. ``explicit_batch``: a network must be asked for without an implicit batch.
    ``typed_flag``: a network may be asked for that computes in the graph's types; without it and without
    ``precision_flags``, all do. ``plugin_v3``: IPluginV3 can be written in Python. ``progress``: builds report their
    progress. ``timing_cache_locked``: a kernel missing from the timing cache can be an error.
    ``same_compute_capability``: engines for every GPU of one compute capability. ``ahead_of_time``: compiles for GPUs
    that are not here. ``capturable``: an execution says whether it fits into a CUDA graph.
    """

    calibrators: bool
    precision_flags: bool
    explicit_batch: bool
    typed_flag: bool
    plugin_v3: bool
    progress: bool
    timing_cache_locked: bool
    same_compute_capability: bool
    ahead_of_time: bool
    capturable: bool

    def differing(self, other: Features) -> list[str]:
        return [each.name for each in fields(self) if getattr(self, each.name) != getattr(other, each.name)]


def features(trt: Any) -> Features:
    """Of an imported module."""
    return Features(
        calibrators=hasattr(trt, "IInt8MinMaxCalibrator"),
        precision_flags=hasattr(trt.BuilderFlag, "INT8"),
        explicit_batch=hasattr(trt.NetworkDefinitionCreationFlag, "EXPLICIT_BATCH"),
        typed_flag=hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED"),
        plugin_v3=hasattr(trt, "IPluginV3"),
        progress=hasattr(trt, "IProgressMonitor"),
        timing_cache_locked=hasattr(trt.BuilderFlag, "ERROR_ON_TIMING_CACHE_MISS"),
        same_compute_capability=hasattr(trt.HardwareCompatibilityLevel, "SAME_COMPUTE_CAPABILITY"),
        ahead_of_time=hasattr(trt.IBuilderConfig, "set_compute_capability"),
        capturable=hasattr(trt.IExecutionContext, "is_stream_capturable"),
    )


_IMPLICIT = {"calibrators": True, "precision_flags": True, "explicit_batch": True, "ahead_of_time": False}
_RELEASES: tuple[tuple[tuple[int, ...], Features], ...] = (
    (
        (8, 0),
        Features(
            **_IMPLICIT,
            typed_flag=False,
            plugin_v3=False,
            progress=False,
            timing_cache_locked=False,
            same_compute_capability=False,
            capturable=False,
        ),
    ),
    (
        (10, 0),
        Features(
            **_IMPLICIT,
            typed_flag=True,
            plugin_v3=True,
            progress=True,
            timing_cache_locked=True,
            same_compute_capability=True,
            capturable=False,
        ),
    ),
    (
        (11, 0),
        Features(
            calibrators=False,
            precision_flags=False,
            explicit_batch=False,
            typed_flag=True,
            plugin_v3=True,
            progress=True,
            timing_cache_locked=True,
            same_compute_capability=True,
            ahead_of_time=False,
            capturable=False,
        ),
    ),
)
"""First release -> what it and those after it have. 10.x was read at 10.16: its first releases lack a few of these."""


def documented(release: str) -> Features | None:
    """Of a release by the table, "10.3"; None before TensorRT 8 or when it is no version."""
    version = version_tuple(release)
    if version is None:
        return None
    return next((known for first, known in reversed(_RELEASES) if version >= first[: len(version)]), None)
