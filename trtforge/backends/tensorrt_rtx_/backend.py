"""The backend: a float graph and its scales in, a checked plan for one GPU architecture out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge.backends.base import Availability, CompileRequest, CompileResult, Session, TensorSpec
from trtforge.backends.nvidia.options import memory_bytes
from trtforge.backends.plan_format import PlanHeader, as_in_header, read_header
from trtforge.backends.tensorrt_rtx_ import environment
from trtforge.digest import sha256_file
from trtforge.errors.backend import Int8NotKept, PlanNotAsAsked, PlanNotReadable, RtxRequestRefused, SmNotSupported
from trtforge.errors.environment import MissingPackage
from trtforge.files import write_json
from trtforge.memory import human_bytes

if TYPE_CHECKING:
    from trtforge.backends.nvidia.answer import Compiled
    from trtforge.backends.tensorrt_rtx_.ir import Layer
    from trtforge.backends.tensorrt_rtx_.names import Int8Count
    from trtforge.graph.model import Model
    from trtforge.surgery.op import Creator

ENGINE_FILE = "model.plan"
LAYERS_FILE = "layers.json"
COMPUTE_CAPABILITIES = {sm: "SM" + sm.replace(".", "") for sm in ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")}
"""Compute capability -> its name in TensorRT-RTX 1.7."""

_NUMPY = {"FLOAT": "float32", "HALF": "float16", "BF16": "bfloat16", "BOOL": "bool"}


class TensorRTRtxBackend:
    """NVIDIA's TensorRT-RTX, ahead of time: compiles for a GPU that need not be here."""

    name = "tensorrt_rtx"
    platform = "tensorrt_plan"

    def availability(self) -> Availability:
        missing = environment.missing()
        version = environment.versions().get(environment.PACKAGES[0], "")
        if missing:
            return Availability(
                False, False, version, why=f"not installed: {', '.join(missing)}", next=environment.INSTALL
            )
        if problem := environment.driver_problem():
            return Availability(True, False, version, why=problem, next="run engines on a machine with the GPU")
        if environment.cuda_version() is None:
            why = f"running needs the package {environment.CUDA_PACKAGE}"
            return Availability(True, False, version, why=why, next=environment.CUDA_INSTALL)
        return Availability(True, True, version)

    def tool_versions(self) -> dict[str, str]:
        return environment.versions()

    def creators(self, tensorrt: str | None) -> tuple[frozenset[Creator], bool]:
        if environment.missing():
            return frozenset(), False
        from trtforge.backends.tensorrt_rtx_.plugins import creators

        return creators(), True

    def compile(self, request: CompileRequest) -> CompileResult:
        """Write ``model.plan``, ``layers.json`` and the graph the compiler read into ``request.workdir``.

        Raises MissingPackage, SmNotSupported, RtxRequestRefused, Fp16OutOfRange, ParserRefused, CompilerRefused,
        CompilerDied, CompilerTimeout, Int8NotKept, PlanNotAsAsked, PlanNotReadable, BadBuildTimeout; errors of the
        graph and of Q/DQ insertion.
        """
        self._check_installed(request)
        capability = _compute_capability(request)
        _check_supported(request)

        from trtforge.backends.nvidia import plugins
        from trtforge.backends.tensorrt_rtx_ import ir, names
        from trtforge.graph.io import save
        from trtforge.surgery.compiler_graph import for_compiler

        onnx, plan = request.workdir / "graph" / "model.onnx", request.workdir / ENGINE_FILE
        with request.progress.task("write the graph for TensorRT-RTX", None):
            graph, facts = _lower(request)
            names.make_matchable(graph.proto)
            save(graph, onnx)
        kinds = plugins.kinds_in(graph)
        parsed = request.workdir / "compiler" / "model.onnx" if kinds else onnx
        if kinds:
            save(for_compiler(graph, kinds), parsed)
        compiled = _run(request, parsed, capability, plan, tuple(kinds))
        for warning in compiled.warnings:
            request.progress.warn(f"TensorRT-RTX: {warning}")

        header = _check_header(plan, compiled, request)
        layers = ir.read_layers(plan)
        count = names.count_int8(names.int8_nodes(graph.proto), layers)
        _check_int8(count, layers, header)
        layers_file = request.workdir / LAYERS_FILE
        write_json(layers_file, [layer.to_json() for layer in layers])
        assert request.target.sm is not None  # _compute_capability looked
        cubins = plugins.write_cubins(kinds, request.target.sm, request.workdir)
        return CompileResult(
            files={ENGINE_FILE: plan, LAYERS_FILE: layers_file, **cubins},
            inputs=_specs(compiled.inputs),
            outputs=_specs(compiled.outputs),
            report=_report(request, compiled, header, layers, count) | facts | {"plan_sha256": sha256_file(plan)},
            graph=onnx,
        )

    def load(self, folder: Path, report: Mapping[str, Any]) -> Session:
        """The engine on this machine's GPU. Raises PluginNotHere, NoGpu, MissingPackage, CannotDeserialize.

        Not yet run on hardware; see :mod:`trtforge.backends.tensorrt_rtx_.session`.
        """
        from trtforge.backends.tensorrt_rtx_.session import RtxSession

        return RtxSession(folder / ENGINE_FILE, report)

    def _check_installed(self, request: CompileRequest) -> None:
        if missing := environment.missing():
            raise MissingPackage(
                "compiling for this target needs TensorRT-RTX",
                where=f"target {request.target.key}, backend {self.name}",
                why=f"not installed: {', '.join(missing)}",
                next=environment.INSTALL,
            )


def _compute_capability(request: CompileRequest) -> str:
    target, precision = request.target, request.engine.precision
    if target.sm not in COMPUTE_CAPABILITIES or target.is_dla:
        what = "a DLA" if target.is_dla else f"compute capability {target.sm}" if target.sm else "a target without GPU"
        raise SmNotSupported(
            f"TensorRT-RTX does not compile for {target.name}",
            where=f"target {target.key}",
            why=f"it is {what}; this compiler knows SM {', '.join(COMPUTE_CAPABILITIES)}",
            next="set `backend: tensorrt` and build on the device, or choose a target with one of these SM",
        )
    if target.sm == "7.5" and precision == "int8":
        raise SmNotSupported(
            f"TensorRT-RTX has no INT8 for {target.name}",
            where=f"target {target.key}",
            why="on SM 7.5 it compiles every INT8 layer in floating point, without a warning",
            next="set `precision: fp16`, or set `backend: tensorrt` and build on the device",
        )
    return COMPUTE_CAPABILITIES[target.sm]


def _check_supported(request: CompileRequest) -> None:
    engine = request.engine
    if engine.dla is not None:
        raise _refused(request, "it asks for a DLA", "`dla`: TensorRT-RTX compiles for GPUs only", "remove `dla`")
    for name, spec in engine.inputs.items():
        if spec.format != "linear":
            why = f"`inputs.{name}.format` is {spec.format}; TensorRT-RTX takes linear tensors only"
            raise _refused(request, "it asks for a tensor format", why, f"set `inputs.{name}.format: linear`")
    if engine.precision == "int8" and request.scales is None:
        why = "`precision` is int8 and no scales were given"
        raise _refused(request, "it has no scales", why, "calibrate first: trtforge calibrate RECIPE")


def _refused(request: CompileRequest, what: str, why: str, next: str) -> RtxRequestRefused:
    return RtxRequestRefused(
        f"TensorRT-RTX cannot build this engine: {what}", where=f"target {request.target.key}", why=why, next=next
    )


def _lower(request: CompileRequest) -> tuple[Model, dict[str, Any]]:
    """The graph in the form the compiler reads: fixed shapes; INT8 as Q/DQ nodes, half precision as types."""
    from trtforge.graph.shapes import freeze_inputs, input_specs

    engine, model, facts = request.engine, request.model, {}
    specs = input_specs(model)
    for name, spec in engine.inputs.items():
        if name in specs and specs[name].dtype != spec.dtype:
            why = f"`inputs.{name}.dtype` is {spec.dtype}; the graph's input is {specs[name].dtype}"
            raise _refused(request, "an input's type differs", why, f"set `inputs.{name}.dtype: {specs[name].dtype}`")
    source = model = freeze_inputs(model, {name: tuple(spec.shape) for name, spec in engine.inputs.items()})
    if engine.precision == "int8" and request.scales is not None:
        from trtforge.scales.codecs.qdq import insert

        model, qdq = insert(model, request.scales, engine.quantize)
        facts["qdq"] = qdq.to_json()
    model = _with_plugins(request, source, model, facts)
    if engine.precision == "fp16":
        from trtforge.backends.tensorrt_rtx_.half import convert

        model, half = convert(model)
        facts["fp16"] = asdict(half)
    return model, facts


def _with_plugins(request: CompileRequest, source: Model, graph: Model, facts: dict[str, Any]) -> Model:
    if request.plugins is None or request.situation is None:
        return graph
    from trtforge.backends.nvidia import plugins
    from trtforge.surgery.choose import apply

    graph, lowered = apply(source, graph, request.plugins, request.situation)
    facts |= {"surgery": request.plugins.to_json()} | plugins.facts(plugins.kinds_in(graph), lowered)
    return graph


def _run(request: CompileRequest, onnx: Path, capability: str, plan: Path, plugins: tuple[str, ...]) -> Compiled:
    from trtforge.backends.nvidia.process import run, timeout_seconds
    from trtforge.backends.tensorrt_rtx_.job import job

    label = f"compile for {request.target.key} (SM {request.target.sm})"
    asked = job(onnx, plan, (capability,), memory_bytes(request.engine.workspace), label, plugins)
    return run(asked, timeout=timeout_seconds(), progress=request.progress)


def _check_header(plan: Path, compiled: Compiled, request: CompileRequest) -> PlanHeader:
    header = read_header(plan)
    asked = ("tensorrt_rtx", as_in_header(compiled.version), (request.target.sm,), False)
    found = (header.kind, header.version, header.sms, header.and_later)
    if found != asked:
        raise PlanNotAsAsked(
            "the compiler wrote a plan that is not the one asked for",
            where=str(plan),
            why=f"its header says {header.maker} for SM {', '.join(header.sms or ())}; "
            f"asked for was TensorRT-RTX {compiled.version} for SM {request.target.sm}",
            next=environment.INSTALL + " --force-reinstall",
        )
    return header


def _check_int8(count: Int8Count, layers: list[Layer], header: PlanHeader) -> None:
    from trtforge.backends.tensorrt_rtx_ import ir

    if not count.meant:
        return
    if not layers:
        if header.version.startswith(ir.KNOWN_VERSIONS):
            raise PlanNotReadable(
                "the INT8 layers of the plan cannot be counted",
                why=f"no layer list was found in it; every plan of {header.maker} has one",
                next=environment.INSTALL + " --force-reinstall",
            )
        return
    if lost := count.lost:
        shown = [f"{name} ({' x '.join(count.float_.get(name, ())) or 'in no layer'})" for name in lost[:5]]
        more = f" and {len(lost) - len(shown)} more" if len(lost) > len(shown) else ""
        raise Int8NotKept(
            f"{len(lost)} of {len(count.meant)} layers meant for INT8 were compiled in floating point",
            where=", ".join(shown) + more,
            why="the compiler does so without a warning where an activation scale is not a scalar, or where it has no "
            "INT8 kernel for the layer",
            next="name the layers in `quantize.skip` to keep them in float knowingly",
        )


def _report(
    request: CompileRequest,
    compiled: Compiled,
    header: PlanHeader,
    layers: list[Layer],
    count: Int8Count,
) -> dict[str, Any]:
    return {
        "summary": _summary(compiled, header, count, layers),
        "compiler": f"TensorRT-RTX {compiled.version}",
        "precision": request.engine.precision,
        "sm": request.target.sm,
        "countable": bool(layers),
        "int8_convolutions": count.of("Conv"),
        "float_convolutions": _float_convolutions(layers),
        "expected_int8_convolutions": count.meant_of("Conv"),
        "int8_matrix_products": count.of("Gemm", "MatMul"),
        "expected_int8_matrix_products": count.meant_of("Gemm", "MatMul"),
        "int8_unseen": list(count.unseen),
        "layers": len(layers),
        "warnings": [warning.to_json() for warning in compiled.warnings],
        "seconds": {"parse": compiled.parse_seconds, "build": compiled.build_seconds},
        "plan_bytes": header.declared_size,
        "weights_bytes": header.weights_bytes,
    }


def _float_convolutions(layers: list[Layer]) -> int:
    return sum(layer.op in ("Conv", "ConvTranspose") and not layer.is_int8 for layer in layers)


def _summary(compiled: Compiled, header: PlanHeader, count: Int8Count, layers: list[Layer]) -> str:
    """The build in one line, for a person."""
    parts = [
        f"{count.of(*operators)} of {meant} {what} in INT8"
        for what, operators in (("convolutions", ("Conv",)), ("matrix products", ("Gemm", "MatMul")))
        if (meant := count.meant_of(*operators))
    ]
    if count.meant and not layers:
        parts = ["INT8 layers cannot be counted in plans of this version"]
    if in_float := _float_convolutions(layers):
        parts.append(f"{in_float} convolution{'s' if in_float > 1 else ''} in floating point")
    size = f"plan {human_bytes(header.declared_size or 0)} for SM {', '.join(header.sms or ())}"
    return f"TensorRT-RTX {compiled.version}: {'; '.join([', '.join(parts), size] if parts else [size])}"


def _specs(tensors: Any) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            entry["name"],
            tuple(None if size < 0 else size for size in entry["shape"]),
            _NUMPY.get(entry["dtype"], entry["dtype"].lower()),
        )
        for entry in tensors
    )
