"""Choose the form of an INT8 engine for one CPU: the first that is right and worth it, fastest first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trtforge.backends.base import CompileRequest, TensorSpec
from trtforge.backends.batching import Batch, batches
from trtforge.backends.onnxruntime_.forms import EXACT, Form, candidates
from trtforge.backends.onnxruntime_.lowering import lower
from trtforge.backends.onnxruntime_.rewrite import LoweringReport
from trtforge.backends.onnxruntime_.selfcheck import MEAN_DB, SINGLE_DB, SelfCheck, Verdict
from trtforge.graph.model import Model
from trtforge.progress import Task
from trtforge.targets.host import HostFacts

FASTER = 1.1
"""A form must beat the exact one by this factor to be worth being less than exact."""


@dataclass(frozen=True)
class Choice:
    """The graph in its form. ``lowering`` is None for the exact form, ``self_check`` None when nothing was checked."""

    model: Model
    form: Form
    lowering: dict[str, Any] | None = None
    self_check: dict[str, Any] | None = None


def choose(floating: Model, quantized: Model, request: CompileRequest, host: HostFacts) -> Choice:
    """The fastest form that passes the self-check; without probes nothing can be checked, so the exact one.

    ``quantized`` is ``floating`` with Q/DQ. Raises RuntimeRefusedGraph (BLD103), ProbeNotFinite (BLD104).
    """
    probes = _probe_batches(request)
    if not probes:
        request.progress.warn("no samples to check INT8 kernels with: the engine simulates INT8 in float, slower")
        return Choice(quantized, EXACT)
    verdicts: list[Verdict] = []
    with request.progress.task("choosing the INT8 form for this CPU", None) as task:
        task.note("the FP32 model and the exact form first")
        check = SelfCheck(floating, quantized, EXACT.config, probes)
        lowered = _first_worth_it(check, floating, quantized, request, host, verdicts, task)
    record = {
        "mean_allowed_db": MEAN_DB,
        "single_allowed_db": SINGLE_DB,
        "probes": check.probes,
        "exact": check.exact_to_json(),
        "forms": [verdict.to_json() for verdict in verdicts],
    }
    if lowered is None:
        return Choice(quantized, EXACT, None, record)
    form, model, report = lowered
    return Choice(model, form, report.to_json(), record)


def _first_worth_it(
    check: SelfCheck,
    floating: Model,
    quantized: Model,
    request: CompileRequest,
    host: HostFacts,
    verdicts: list[Verdict],
    task: Task,
) -> tuple[Form, Model, LoweringReport] | None:
    """Judge one form after another until one is right and faster; every verdict is appended to ``verdicts``."""
    assert request.scales is not None
    forms = candidates(host)
    judged: set[tuple[str, ...]] = set()
    for number, form in enumerate(forms, start=1):
        task.note(f"trying {form.name}, {number} of at most {len(forms)}")
        task.advance()
        if form.slack is None:
            continue
        model, report = lower(quantized, floating, request.scales, slack=form.slack, signed_weights=form.signed_weights)
        graph = (form.signed_weights, *report.extra_pairs)
        if graph in judged:
            continue  # a more careful form that found nothing to be careful about
        judged.add(graph)
        verdict = check.judge(form.name, model, form.config)
        verdicts.append(verdict)
        if verdict.right:
            verdict.speedup = check.speedup(model, form.config)
            if verdict.speedup >= FASTER:
                return form, model, report
            verdict.why = f"right, but not {FASTER}x as fast as the exact form"
    return None


def _probe_batches(request: CompileRequest) -> list[Batch]:
    inputs = [TensorSpec(name, spec.shape, spec.dtype) for name, spec in request.engine.inputs.items()]
    return list(batches(request.probes, inputs))
