"""Surgery as one call: passes applied, each one reported, and what changed in all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from trtforge.graph.diff import GraphDiff, diff
from trtforge.graph.model import Model
from trtforge.graph.passes.base import Pass
from trtforge.graph.passes.registry import PassReport, run
from trtforge.progress import QUIET, Progress


@dataclass(frozen=True)
class SurgeryResult:
    """``model`` shares no graph with the one given, and refers to the same external data files."""

    model: Model
    reports: tuple[PassReport, ...]
    diff: GraphDiff


def perform(model: Model, names: Sequence[str | Pass], *, progress: Progress = QUIET) -> SurgeryResult:
    """Apply passes, in order. Raises UnknownPass, PassPrecondition, PassFailed, PassBrokeContract."""
    result, reports = run(model, names, progress=progress)
    return SurgeryResult(result, tuple(reports), diff(model, result))
