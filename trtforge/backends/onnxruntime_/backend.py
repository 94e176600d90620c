"""onnxruntime as a backend: an engine is a model file and the session options it was checked with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from importlib import metadata, util
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.backends.base import Availability, CompileRequest, CompileResult
from trtforge.errors.backend import PrecisionNotOffered, ScalesNeeded
from trtforge.errors.engine import ReportIncomplete, SessionRefused, WrongCpu
from trtforge.targets.host import host_facts

if TYPE_CHECKING:
    from trtforge.backends.onnxruntime_.forms import Form
    from trtforge.backends.onnxruntime_.session import OnnxruntimeSession
    from trtforge.graph.model import Model
    from trtforge.surgery.op import Creator

ENGINE_FILE = "model.onnx"


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

    def creators(self, tensorrt: str | None) -> tuple[frozenset[Creator], bool]:
        return frozenset(), True

    def compile(self, request: CompileRequest) -> CompileResult:
        """Fix the input shapes, quantize, choose the form that is right and fastest on this CPU, write the files.

        Raises PrecisionNotOffered (BLD101), ScalesNeeded (BLD102), RuntimeRefusedGraph (BLD103), ProbeNotFinite
        (BLD104), BadThreads (BLD105), and what freezing shapes, inserting Q/DQ and saving raise (ONX, CAL).
        """
        from trtforge.backends.onnxruntime_.forms import EXACT
        from trtforge.backends.onnxruntime_.selfcheck import refused
        from trtforge.backends.onnxruntime_.session import open_file
        from trtforge.graph.io import save
        from trtforge.graph.shapes import freeze_inputs

        started = time.monotonic()
        _check_precision(request)
        shapes = {name: spec.shape for name, spec in request.engine.inputs.items()}
        floating = freeze_inputs(request.model, shapes)
        # Q/DQ that an FP32 model came with has been through no self-check: it is computed in float, right on any CPU.
        model, config, facts = floating, dict(EXACT.config), dict[str, Any]()
        if request.engine.precision == "int8":
            model, form, facts = _int8(floating, request)
            config = dict(form.config)
        folder = request.workdir / "onnxruntime"
        try:
            with request.progress.task("compile for this CPU", None):
                save(model, folder / ENGINE_FILE)
                session = open_file(folder / ENGINE_FILE, config)
        except SessionRefused as error:
            raise refused(error.why) from error
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
            | facts,
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


def _int8(floating: Model, request: CompileRequest) -> tuple[Model, Form, dict[str, Any]]:
    """The graph to save, the form it is in, and the facts for the manifest."""
    from trtforge.backends.onnxruntime_.choose import choose
    from trtforge.backends.onnxruntime_.forms import required_isa
    from trtforge.scales.codecs.qdq import insert

    assert request.scales is not None
    quantized, report = insert(floating, request.scales, request.engine.quantize)
    choice = choose(floating, quantized, request, host_facts())
    request.progress.log(f"INT8 form for this CPU: {choice.form.name} ({choice.form.title})")
    facts = {
        "form": choice.form.to_json(),
        "isa": required_isa(choice.form, host_facts()),
        "quantization": report.to_json(),
        "lowering": choice.lowering,
        "self_check": choice.self_check,
    }
    return choice.model, choice.form, facts


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
