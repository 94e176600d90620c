"""Native TensorRT as a backend: compiles on the device for the device, GPU or DLA, and runs what it compiled.

Not yet run on hardware. What it calls is held to NVIDIA's own bindings of 8.6, 10.16 and 11.4; the code that parses,
configures and builds is TensorRT-RTX's too, which does run here.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from trtforge.backends.base import Availability, CompileRequest, CompileResult, Session, TensorSpec
from trtforge.backends.nvidia.configure import TYPES
from trtforge.backends.nvidia.features import documented
from trtforge.backends.nvidia.options import Dla, Options, Tensor, memory_bytes
from trtforge.backends.plan_format import as_in_header, read_header
from trtforge.backends.tensorrt_ import environment
from trtforge.cache import cache_dir
from trtforge.digest import sha256_file
from trtforge.errors.backend import NeedsDevice, PlanNotAsAsked
from trtforge.errors.native import DlaNotHere, EngineNotAsAsked, NotOffered
from trtforge.files import write_bytes
from trtforge.memory import human_bytes
from trtforge.targets.load import version_tuple

if TYPE_CHECKING:
    from trtforge.backends.nvidia.answer import Compiled
    from trtforge.backends.nvidia.features import Features
    from trtforge.backends.tensorrt_.lower import Lowered
    from trtforge.surgery.op import Creator

FIRST = (8, 6)
"""The oldest TensorRT that is driven from Python; kits for older ones are for trtexec."""

ENGINE_FILE = "model.plan"
LAYERS_FILE = "layers.json"
TIMING_FILE = "timing.cache"
"""The kernels' times that an engine was built by, beside it: what the lock pins, and `--locked` builds by again."""

_NUMPY = {kind: name for name, kind in TYPES.items()} | {"BF16": "bfloat16", "FP8": "float8_e4m3fn"}
_WHY = "native TensorRT compiles on the device itself: it times kernels on the GPU or DLA it compiles for"


class NativeTensorRT:
    """Engines in NVIDIA's own plan format, for devices without an ahead-of-time compiler (Orin, Xavier, DLA)."""

    name = "tensorrt"
    platform = "tensorrt_plan"

    def availability(self) -> Availability:
        why, next_ = environment.problem()
        version = environment.version()
        if why:
            return Availability(False, False, version, why=f"{_WHY}; here {why}", next=next_)
        return Availability(True, True, version)

    def tool_versions(self) -> dict[str, str]:
        version = environment.version()
        return {"tensorrt": version} if version else {}

    def creators(self, tensorrt: str | None) -> tuple[frozenset[Creator], bool]:
        """Asked of the registry where TensorRT is; elsewhere NVIDIA's stock plugins by release, as documented."""
        from trtforge.backends.nvidia.plugins import ours

        if not environment.problem()[0]:
            from trtforge.backends.tensorrt_.registry import creators

            return creators() | _ours(environment.version(), ours()), True
        from trtforge.surgery.documented import documented as stock

        return stock(tensorrt) | _ours(tensorrt or "", ours()), False

    def compile(self, request: CompileRequest) -> CompileResult:
        """Write ``model.plan``, ``layers.json`` (the engine inspector's) and ``timing.cache`` into ``request.workdir``.

        Raises NeedsDevice, DlaNotHere, NotOffered, ParserRefused, CompilerRefused, CompilerDied, CompilerTimeout,
        TimingCacheMiss, EngineNotAsAsked, PlanNotAsAsked; errors of the graph and of Q/DQ insertion.
        """
        self._check_here(request)
        release = environment.version()
        known = known_features(release)
        _check_dla(request, release)

        from trtforge.backends.nvidia import plugins
        from trtforge.backends.nvidia.answer import CompileJob, Compiler
        from trtforge.backends.nvidia.process import run, timeout_seconds
        from trtforge.backends.tensorrt_.lower import lower
        from trtforge.graph.io import save
        from trtforge.surgery.compiler_graph import for_compiler

        onnx, plan = request.workdir / "graph" / "model.onnx", request.workdir / ENGINE_FILE
        with request.progress.task("write the graph for TensorRT", None):
            lowered = lower(request, known, release)
            save(lowered.model, onnx)
        kinds = plugins.kinds_in(lowered.model)
        parsed = request.workdir / "compiler" / "model.onnx" if kinds else onnx
        if kinds:
            save(for_compiler(lowered.model, kinds), parsed)
        options = build_options(request, lowered, known, request.workdir)
        compiler = Compiler("tensorrt", "TensorRT", environment.INSTALL, environment.child_environment())
        label = f"compile for {request.target.key} (TensorRT {release})"
        job = CompileJob(compiler, parsed, plan, options, label, tuple(kinds))
        with _timed(request, options):
            compiled = run(job, timeout=timeout_seconds(), progress=request.progress)
        for warning in compiled.warnings:
            request.progress.warn(f"TensorRT: {warning}")
        standalone = options.dla is not None and options.dla.standalone
        if not standalone:  # a loadable is no plan, and TensorRT does not read it
            _check_plan(plan, compiled)
            _check_engine(request, options, compiled)
        beside = {} if standalone else {LAYERS_FILE: request.workdir / LAYERS_FILE}
        if options.timing_cache is not None:
            beside[TIMING_FILE] = Path(options.timing_cache)
        cubins = plugins.write_cubins(kinds, request.target.sm or "", request.workdir)
        return CompileResult(
            files={ENGINE_FILE: plan, **beside, **cubins},
            inputs=_specs(compiled, "input"),
            outputs=_specs(compiled, "output"),
            report=_report(request, lowered, options, compiled, plan) | plugins.facts(kinds, lowered.plugins),
            graph=onnx,
        )

    def load(self, folder: Path, report: Mapping[str, Any]) -> Session:
        """The engine on this machine's GPU or DLA. Raises NeedsDevice, CannotDeserialize, ExecutionFailed."""
        if why := environment.problem()[0]:
            raise NeedsDevice(
                "the engine cannot be loaded on this machine",
                where=str(folder),
                why=why,
                next=environment.problem()[1],
            )
        from trtforge.backends.tensorrt_.session import load

        return load(folder / ENGINE_FILE, report)

    def _check_here(self, request: CompileRequest) -> None:
        why, next_ = environment.problem()
        if why:
            raise NeedsDevice(
                f"the engine for {request.target.key} cannot be compiled on this machine",
                why=f"{_WHY}; here {why}",
                next=next_,
            )


def _ours(release: str, creators: frozenset[Creator]) -> frozenset[Creator]:
    """Our plugins, where a release takes such."""
    known = documented(".".join(release.split(".")[:3]))
    return creators if known is not None and known.plugin_v3 and known.typed_flag else frozenset()


def known_features(release: str) -> Features:
    """Of the installed release. Raises NotOffered."""
    short = ".".join(release.split(".")[:3])
    known, version = documented(short), version_tuple(short)
    if version is not None and version < FIRST:
        raise NotOffered(
            f"TensorRT {release} is too old to be driven from here",
            why="its Python module lacks what 8.6 brought: compatibility levels, reading engines back in full",
            next="update JetPack; or unpack the kit and run NVIDIA's trtexec, by `on_device` in its kit.json",
        )
    if known is None:
        raise NotOffered(
            f"trtforge does not know TensorRT {release}",
            why="it goes by the version of the installed package",
            next="install a TensorRT from 8.6 to 11.x with its package record (`pip show tensorrt`)",
        )
    return known


def _check_dla(request: CompileRequest, release: str) -> None:
    from trtforge.targets.load import dla_support

    if not request.target.is_dla:
        return
    here, why = dla_support(request.target.key, tensorrt=".".join(release.split(".")[:3]))
    if not here:
        raise DlaNotHere(
            f"TensorRT {release} has no DLA for {request.target.name}",
            where=f"target {request.target.key}",
            why=why,
            next=f"build for `{request.target.device}/gpu`, or with a JetPack that has it: trtforge targets",
        )


def build_options(request: CompileRequest, lowered: Lowered, known: Features, workdir: Path) -> Options:
    """What the builder is told. Writes the calibration cache into ``workdir``."""
    from trtforge.backends.tensorrt_.lower import border_scale

    engine, calibration = request.engine, None
    if lowered.cache is not None:
        path = workdir / "calibration.cache"
        lowered.cache.save(path)
        calibration = {"cache": str(path), "algorithm": lowered.cache.algorithm}
    inputs = {
        name: Tensor(
            spec.dtype,
            spec.format,
            None if spec.range is None else (spec.range.min, tuple(spec.shape), spec.range.max),
            border_scale(request, name, spec.dtype),
        )
        for name, spec in engine.inputs.items()
    }
    outputs = {
        name: Tensor(spec.dtype, spec.format, scale=border_scale(request, name, spec.dtype))
        for name, spec in engine.outputs.items()
    }
    unsaid = [value.name for value in request.model.proto.graph.output if value.name not in outputs]
    standalone = engine.dla is not None and engine.dla.standalone
    return Options(
        workspace=memory_bytes(engine.workspace),
        precision=lowered.precision,
        inputs=inputs,
        outputs=outputs | {name: Tensor() for name in unsaid},
        calibration=calibration,
        float_layers=lowered.float_layers,
        dla=_dla(request),
        direct_io=engine.builder.direct_io,
        stock_plugins=True,
        optimization_level=engine.builder.optimization_level,
        version_compatible=engine.builder.version_compatible,
        hardware_compatibility=engine.builder.hardware_compatibility,
        timing_cache=str(workdir / TIMING_FILE) if engine.builder.timing_cache else None,
        timing_locked=request.timing is not None and engine.builder.timing_cache,
        inspect=None if standalone else str(workdir / LAYERS_FILE),
    )


def _dla(request: CompileRequest) -> Dla | None:
    if not request.target.is_dla:
        return None
    from trtforge.recipe.models import Dla as Said

    said = request.engine.dla or Said()
    local, shared = said.local_dram, said.global_dram
    return Dla(
        core=said.core,
        sram=memory_bytes(said.sram),
        local_dram=memory_bytes(local) if local else None,
        global_dram=memory_bytes(shared) if shared else None,
        gpu_fallback=said.gpu_fallback,
        standalone=said.standalone,
    )


@contextmanager
def _timed(request: CompileRequest, options: Options) -> Iterator[None]:
    """The build's own file of kernels' times: what the lock pins; else what builds for this target have measured here.

    Then what it measured itself is kept for the next. Two builds for one target go one after the other: each reads what
    the one before has measured, and none disturbs the other's measuring.
    """
    if options.timing_cache is None:
        yield
        return
    own = Path(options.timing_cache)
    if request.timing is not None:
        shutil.copyfile(request.timing, own)
        yield
        return
    shared = timing_cache(request.target.key, environment.version())
    with FileLock(shared.with_suffix(".lock")):
        if shared.exists():
            shutil.copyfile(shared, own)
        yield
        write_bytes(shared, own.read_bytes())


def timing_folder() -> Path:
    """Where measured times of kernels lie on this machine."""
    return cache_dir() / "timing"


def timing_cache(target: str, release: str) -> Path:
    """The file for one device and one TensorRT: its times hold for no other."""
    path = timing_folder() / f"{target.replace('/', '-')}-tensorrt-{release}.cache"
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_plan(plan: Path, compiled: Compiled) -> None:
    header = read_header(plan)
    if header.kind != "tensorrt" or (header.version and header.version != as_in_header(compiled.version)):
        raise PlanNotAsAsked(
            "the compiler wrote a plan that is not the one asked for",
            where=str(plan),
            why=f"its header says {header.maker}; it was built by TensorRT {compiled.version}",
            next=environment.INSTALL,
        )


def _check_engine(request: CompileRequest, options: Options, compiled: Compiled) -> None:
    """The engine as it was read back, against the recipe. Raises EngineNotAsAsked with every difference."""
    wrong = _differences(options, compiled.engine or {})
    if wrong:
        raise EngineNotAsAsked(
            f"the finished engine for {request.target.key} differs from the recipe",
            where=str(request.workdir / LAYERS_FILE),
            why="; ".join(wrong),
            next="change the recipe to what the engine has, or give it more time: `builder: {optimization_level: 5}`",
        )


def _differences(options: Options, engine: Mapping[str, Any]) -> list[str]:
    wrong = []
    for side in (options.inputs, options.outputs):
        for name, wanted in side.items():
            there = engine["tensors"].get(name)
            if there is None:
                wrong.append(f"it has no tensor {name!r}")
                continue
            dtype = _NUMPY.get(there["dtype"], there["dtype"].lower())
            narrowed = (wanted.dtype, dtype) == ("int64", "int32")  # what TensorRT 8 makes of indices
            if wanted.dtype is not None and dtype != wanted.dtype and not narrowed:
                wrong.append(f"{name!r} is {dtype}, asked for was {wanted.dtype}")
            if there["format"] != wanted.format:
                wrong.append(f"{name!r} lies as {there['format']}, asked for was {wanted.format}")
    if engine["hardware_compatibility"] != options.hardware_compatibility:
        asked = options.hardware_compatibility
        wrong.append(f"its hardware compatibility is {engine['hardware_compatibility']}, asked for was {asked}")
    return wrong


def _report(
    request: CompileRequest, lowered: Lowered, options: Options, compiled: Compiled, plan: Path
) -> dict[str, Any]:
    engine = compiled.engine or {}
    on_gpu = [layer["name"] for layer in compiled.placement if not layer["dla"]]
    report: dict[str, Any] = {
        "compiler": f"TensorRT {compiled.version}",
        "precision": request.engine.precision,
        "sm": request.target.sm,
        "layers": engine.get("layers"),
        "devices": engine.get("devices"),
        "device_memory": engine.get("device_memory"),
        "dla": None if options.dla is None else {"core": options.dla.core, "standalone": options.dla.standalone},
        "not_on_dla": on_gpu,
        "version_compatible": options.version_compatible,
        "borders": engine.get("tensors", {}),
        "outside": _outside(request),
        "scales": _border_scales(request, engine),
        "calibration": compiled.calibration,
        "warnings": [warning.to_json() for warning in compiled.warnings],
        "seconds": {"parse": compiled.parse_seconds, "build": compiled.build_seconds},
        "plan_bytes": plan.stat().st_size,
        "plan_sha256": sha256_file(plan),
    }
    if options.timing_cache is not None:
        known = {"target": request.target.key, "tensorrt": compiled.version}
        report["timing_cache"] = known | {"sha256": sha256_file(Path(options.timing_cache))}
    if request.plugins is not None:
        report["surgery"] = request.plugins.to_json()
    return report | {"summary": _summary(compiled, report)}


def _outside(request: CompileRequest) -> dict[str, str]:
    """Element types of inputs and outputs in the graph: what callers give and get, whatever the engine has inside."""
    from trtforge.graph.shapes import input_specs, output_specs

    both = {**input_specs(request.model), **output_specs(request.model)}
    return {name: spec.dtype for name, spec in both.items()}


def _border_scales(request: CompileRequest, engine: Mapping[str, Any]) -> dict[str, float]:
    """Scales of INT8 inputs and outputs: a program that feeds floats divides by them."""
    from trtforge.backends.tensorrt_.lower import border_scale

    int8 = [name for name, tensor in engine.get("tensors", {}).items() if tensor["dtype"] == "INT8"]
    found = {name: border_scale(request, name, "int8") for name in int8}
    return {name: scale for name, scale in found.items() if scale is not None}


def _summary(compiled: Compiled, report: Mapping[str, Any]) -> str:
    parts = [f"plan {human_bytes(report['plan_bytes'])}"]
    if report["dla"] is not None:
        count = report["devices"] or {}
        parts.append(
            f"{count.get('dla', '?')} loadables on the DLA, {count.get('gpu', '?')} layers on the GPU, "
            f"{len(report['not_on_dla'])} of {len(compiled.placement)} layers cannot be on the DLA"
        )
    return f"TensorRT {compiled.version}: {'; '.join(parts)}"


def _specs(compiled: Compiled, mode: str) -> tuple[TensorSpec, ...]:
    """As the engine has them; `outside` in the report says what a caller sees."""
    if compiled.engine is None:
        sides = {"input": compiled.inputs, "output": compiled.outputs}
        return tuple(
            TensorSpec(each["name"], tuple(each["shape"]), _NUMPY.get(each["dtype"], "")) for each in sides[mode]
        )
    tensors = compiled.engine["tensors"]
    return tuple(
        TensorSpec(name, tuple(None if size < 0 else size for size in tensor["shape"]), _NUMPY.get(tensor["dtype"], ""))
        for name, tensor in tensors.items()
        if tensor["mode"] == mode
    )
