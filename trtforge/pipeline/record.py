"""What a build writes down about itself: the manifest, with every input, tool, receipt and verdict."""

from __future__ import annotations

from typing import Any

from trtforge.backends.base import CompileResult
from trtforge.engines.manifest import BuiltFor, Manifest, ModelOrigin, TensorRecord
from trtforge.pipeline.job import Job
from trtforge.pipeline.prepare import Prepared


def manifest(job: Job, prepared: Prepared, result: CompileResult, parity: dict[str, Any] | None) -> Manifest:
    """The manifest of a compiled engine; the store fills in version, files and seal."""
    inputs = job.engine.inputs
    return Manifest(
        engine=job.name,
        key_inputs=job.key_inputs,
        target=BuiltFor(
            key=job.target.key,
            sm=job.target.sm,
            isa=tuple(result.report.get("isa", ())),
            dla_core=job.dla.core if job.dla else None,
            facts=job.target.to_json(),
        ),
        backend=job.backend.name,
        platform=job.backend.platform,
        tools=job.key_inputs["tools"],
        model=ModelOrigin(origin=job.model.origin, sha256=job.model.sha256),
        recipe=job.recipe.resolved()["engines"][job.name],
        inputs=tuple(
            TensorRecord.of(spec, inputs[spec.name].format if spec.name in inputs else "linear")
            for spec in result.inputs
        ),
        outputs=tuple(TensorRecord.of(spec) for spec in result.outputs),
        surgery=tuple(report.to_json() for report in prepared.surgery.reports),
        plugins=tuple(result.report.get("plugins", ())),
        calibration=receipt(prepared),
        parity=parity,
        report=result.report,
    )


def receipt(prepared: Prepared) -> dict[str, Any] | None:
    """The calibration receipt as JSON; a table without one (a cache from elsewhere) says so."""
    if prepared.scales is None:
        return None
    if prepared.scales.receipt is None:
        return {"method": "unknown: the scales file carries no receipt"}
    return prepared.scales.receipt.to_json()
