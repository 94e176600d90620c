"""The one surface every backend shows: probe what is here, compile a graph, load an engine, run it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from trtforge.progress import QUIET, Progress

if TYPE_CHECKING:
    import numpy as np

    from trtforge.graph.model import Model
    from trtforge.recipe.models import Engine
    from trtforge.samples.base import Sample
    from trtforge.scales.table import ScaleTable
    from trtforge.surgery.choose import Plan
    from trtforge.surgery.op import Creator, Situation
    from trtforge.targets.model import Target

Arrays: TypeAlias = "Mapping[str, np.ndarray[Any, Any]]"


@dataclass(frozen=True)
class Availability:
    """Can this backend compile / run on this machine? ``why`` and ``next`` are for a person, empty when it can."""

    can_compile: bool
    can_run: bool
    version: str = ""
    why: str = ""
    next: str = ""


@dataclass(frozen=True)
class TensorSpec:
    """Name, shape (None: dynamic) and numpy dtype name of one engine input or output."""

    name: str
    shape: tuple[int | None, ...]
    dtype: str


@dataclass(frozen=True)
class CompileRequest:
    """What a backend gets. ``model`` is the float graph after surgery; ``scales`` is None unless precision is int8.

    ``plugins``: which structures of the graph become something else, decided by ``situation``; None: none do.
    ``probes``: a few preprocessed samples for self-checks at build time (may be empty).
    ``timing``: a file of kernels' measured times that a build before this one left and the lock pins: nothing may be
    measured anew. None: what is missing is measured.
    """

    model: Model
    scales: ScaleTable | None
    engine: Engine
    target: Target
    workdir: Path
    plugins: Plan | None = None
    situation: Situation | None = None
    probes: Sequence[Sample] = ()
    timing: Path | None = None
    progress: Progress = QUIET


@dataclass(frozen=True)
class CompileResult:
    """``files``: file name in the version folder -> path of the built file in ``workdir`` (first: the engine itself).

    ``report``: JSON-able facts for the manifest (quantized node counts, chosen form, warnings, timings); its
    ``summary`` is one line for a person.
    ``graph``: the ONNX graph that a compiler which cannot run here was given, so that it can be simulated.
    """

    files: Mapping[str, Path]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    report: dict[str, Any] = field(default_factory=dict)
    graph: Path | None = None


class Session(Protocol):
    """A loaded engine."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def run(self, inputs: Arrays) -> dict[str, np.ndarray[Any, Any]]:
        """One execution; arrays must match ``inputs`` in name, shape and dtype."""


class Backend(Protocol):
    name: str
    platform: str  # Triton's `platform` field in config.pbtxt

    def availability(self) -> Availability:
        """Fast, imports nothing heavy."""

    def tool_versions(self) -> dict[str, str]:
        """What the engine's bytes depend on besides the inputs: packages, CPU features. Fast; part of the cache key."""

    def creators(self, tensorrt: str | None) -> tuple[frozenset[Creator], bool]:
        """Plugins the compiler's registry has, for a TensorRT of this version; False: by its documentation, not asked.

        Raises ENV errors.
        """

    def compile(self, request: CompileRequest) -> CompileResult:
        """Raises BLD errors."""

    def load(self, folder: Path, report: Mapping[str, Any]) -> Session:
        """Load the engine in a version folder; ``report`` is the one ``compile`` returned. Raises ENG, ENV errors."""
