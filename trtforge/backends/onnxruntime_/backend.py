"""onnxruntime as a backend: an engine is a model file and the session options it was checked with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.backends.base import Availability, CompileRequest, CompileResult
from trtforge.errors.backend import PrecisionNotOffered, ScalesNeeded
from trtforge.errors.engine import ReportIncomplete, WrongCpu
from trtforge.targets.host import host_facts

if TYPE_CHECKING:
    from trtforge.backends.onnxruntime_.forms import Form
    from trtforge.backends.onnxruntime_.session import OnnxruntimeSession
    from trtforge.graph.model import Model

ENGINE_FILE = "model.onnx"

_FASTER = 1.1  # a form must beat the exact one by this factor to be worth being less than exact


@dataclass
class _Chosen:
    """The model to save, how it is to be loaded, and what the manifest says about it."""

    model: Model
    form: Form | None
    facts: dict[str, Any] = field(default_factory=dict)


class OnnxruntimeBackend:
    """The embedded default: FP32 and INT8 on any CPU."""

    name = "onnxruntime"
    platform = "onnxruntime_onnx"

    def availability(self) -> Availability:
        if util.find_spec("onnxruntime") is None:
            return Availability(False, False, why="onnxruntime is not installed", next="pip install onnxruntime")
        return Availability(True, True, version=_version("onnxruntime"))

    def tool_versions(self) -> dict[str, str]:
        """The CPU's instruction sets belong to it: they decide which INT8 form is right and fast."""
        host = host_facts()
        return {
            "onnxruntime": _version("onnxruntime"),
            "onnx": _version("onnx"),
            "cpu": " ".join([host.machine, *host.isa]),
        }

    def compile(self, request: CompileRequest) -> CompileResult:
        """Fix the input shapes, quantize, choose the form that is right and fastest on this CPU, write the files.

        Raises PrecisionNotOffered (BLD101), ScalesNeeded (BLD102), RuntimeRefusedGraph (BLD103), ProbeNotFinite
        (BLD104), BadThreads (BLD105), and what freezing shapes, inserting Q/DQ and saving raise (ONX, CAL).
        """
        from trtforge.backends.onnxruntime_.session import open_file
        from trtforge.graph.io import save
        from trtforge.graph.shapes import freeze_inputs

        started = time.monotonic()
        _check_precision(request)
        shapes = {name: spec.shape for name, spec in request.engine.inputs.items()}
        floating = freeze_inputs(request.model, shapes)
        chosen = _int8(floating, request) if request.engine.precision == "int8" else _Chosen(floating, None)
        folder = request.workdir / "onnxruntime"
        save(chosen.model, folder / ENGINE_FILE)
        config = dict(chosen.form.config) if chosen.form else {}
        session = open_file(folder / ENGINE_FILE, config)
        return CompileResult(
            files=_files(folder),
            inputs=session.inputs,
            outputs=session.outputs,
            report={
                "precision": request.engine.precision,
                "session": {"optimization": "all", "config": config},
                "cpu": host_facts().to_json(),
                "isa": [],
                "seconds": round(time.monotonic() - started, 2),
            }
            | chosen.facts,
        )

    def load(self, folder: Path, report: Mapping[str, Any]) -> OnnxruntimeSession:
        """Raises WrongCpu (ENG114), ReportIncomplete (ENG303), SessionRefused (ENG301), BadThreads (BLD105)."""
        from trtforge.backends.onnxruntime_.session import open_file

        path = folder / ENGINE_FILE
        config = report.get("session", {}).get("config")
        if config is None:
            raise ReportIncomplete(
                "the engine's build report does not say how to load it",
                where=str(folder),
                why="it has no `session.config`",
                next="build the engine again: `trtforge build RECIPE --force`",
            )
        _check_cpu(path, report.get("form"))
        return open_file(path, config)


def _int8(floating: Model, request: CompileRequest) -> _Chosen:
    from trtforge.backends.onnxruntime_.forms import required_isa
    from trtforge.scales.codecs.qdq import insert

    assert request.scales is not None
    quantized, report = insert(floating, request.scales, request.engine.quantize)
    chosen = _choose_form(floating, quantized, request)
    assert chosen.form is not None
    chosen.facts |= {
        "form": chosen.form.to_json(),
        "isa": required_isa(chosen.form, host_facts()),
        "quantization": report.to_json(),
    }
    request.progress.log(f"INT8 form for this CPU: {chosen.form.name} ({chosen.form.title})")
    return chosen


def _choose_form(floating: Model, quantized: Model, request: CompileRequest) -> _Chosen:
    """The fastest form that passes the self-check; without probes nothing can be checked, so the exact one."""
    from trtforge.backends.onnxruntime_.forms import EXACT, candidates
    from trtforge.backends.onnxruntime_.lowering import lower
    from trtforge.backends.onnxruntime_.selfcheck import MEAN_DB, SINGLE_DB, SelfCheck

    probes = _probe_batches(request)
    if not probes:
        request.progress.warn("no samples to check INT8 kernels with: the engine simulates INT8 in float, slower")
        return _Chosen(quantized, EXACT, {"self_check": None})
    assert request.scales is not None
    check = SelfCheck(floating, quantized, EXACT.config, probes)
    verdicts = []
    chosen = _Chosen(quantized, EXACT)
    forms = [form for form in candidates(host_facts()) if form.slack is not None]
    with request.progress.task("choosing the INT8 form for this CPU", len(forms)) as task:
        for form in forms:
            task.note(form.name)
            assert form.slack is not None
            model, lowering = lower(
                quantized, floating, request.scales, slack=form.slack, signed_weights=form.signed_weights
            )
            verdict = check.judge(form.name, model, form.config)
            verdicts.append(verdict)
            task.advance()
            if not verdict.right:
                continue
            verdict.speedup = check.speedup(model, form.config)
            if verdict.speedup >= _FASTER:
                chosen = _Chosen(model, form, {"lowering": lowering.to_json()})
                break
            verdict.why = f"right, but not {_FASTER}x as fast as the exact form"
    chosen.facts["self_check"] = {
        "mean_allowed_db": MEAN_DB,
        "single_allowed_db": SINGLE_DB,
        "probes": check.probes,
        "exact": check.exact_to_json(),
        "forms": [verdict.to_json() for verdict in verdicts],
    }
    return chosen


def _probe_batches(request: CompileRequest) -> list[Any]:
    from trtforge.backends.base import TensorSpec
    from trtforge.backends.batching import batches

    inputs = [TensorSpec(name, spec.shape, spec.dtype) for name, spec in request.engine.inputs.items()]
    return list(batches(request.probes, inputs))


def _check_precision(request: CompileRequest) -> None:
    if request.engine.precision == "fp16":
        raise PrecisionNotOffered(
            "onnxruntime has no fp16 engines on a CPU",
            where="precision",
            why="it would convert around every operator: slower than fp32, and not what a GPU computes",
            next="set `precision: fp32` or `precision: int8` for the target `host`",
        )
    if request.engine.precision == "int8" and request.scales is None:
        raise ScalesNeeded(
            "the INT8 engine has no scales",
            why="the compile request holds no ScaleTable",
            next="run `trtforge calibrate RECIPE` first, or name a scales file under `calibration`",
        )


def _check_cpu(path: Path, form: Mapping[str, Any] | None) -> None:
    """A form whose kernels would saturate on this CPU is refused, whatever it gave where it was built."""
    from trtforge.backends.onnxruntime_.forms import saturates

    host = host_facts()
    if form is None or not form.get("needs_int8_dot") or not saturates(host):
        return
    raise WrongCpu(
        "the engine would give wrong answers on this CPU",
        where=str(path),
        why=f"its form {form.get('name')!r} needs INT8 dot products (VNNI); this CPU, {host.model}, has "
        + (" ".join(host.isa) or "no known instruction sets"),
        next="build it here: `trtforge build RECIPE --force` chooses a form that is right on this CPU",
    )


def _files(folder: Path) -> dict[str, Path]:
    """The model first, then the files its external weights are in."""
    others = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != ENGINE_FILE)
    return {str(path.relative_to(folder)): path for path in [folder / ENGINE_FILE, *others]}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
