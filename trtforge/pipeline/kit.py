"""What is handed to a device that finishes a build: all that compiling takes, and nothing of the user's tree.

Members of every kit:

    graph.onnx                    the float graph after surgery, plugins not yet lowered: the device decides that again
    recipe.json                   the resolved recipe, one engine
    scales.json                   with INT8
    samples.json, samples.bin     a few samples, and the FP32 model's answers (`kit_samples`)
    trtforge.lock                 what this build is pinned to
    timing.cache                  under `--locked`: the kernel times that native TensorRT builds by
    engine/...                    files that the engine keeps as they are: weights and kernels of the window loop
    plugins/NAME/...              sources of our plugins in the graph, and their binaries for the target's GPU

For native TensorRT there is also what NVIDIA's own trtexec takes: `model.onnx` with fixed shapes and stock plugins,
and INT8 ranges. TensorRT through 10 takes them as a calibration cache. TensorRT 11 has no calibrators and is strongly
typed: it takes INT8 as Q/DQ nodes and FP16 as the types of the graph, so a graph with these written in is there too.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge import plugins
from trtforge.backends.base import CompileRequest
from trtforge.backends.nvidia.features import documented
from trtforge.backends.tensorrt_.backend import TIMING_FILE
from trtforge.backends.tensorrt_.lower import DLA_CACHE, GPU_CACHE, lower, with_plugins
from trtforge.engines.kit import KitInfo, write_kit
from trtforge.engines.lock import LOCK, Lock, Pins
from trtforge.engines.manifest import ModelOrigin
from trtforge.engines.records import to_json
from trtforge.errors.environment import MissingPackage
from trtforge.errors.recipe import MissingKey, WrongValue
from trtforge.files import remove_leftovers
from trtforge.graph import io
from trtforge.graph.passes.registry import PassReport
from trtforge.pipeline import kit_samples
from trtforge.pipeline.job import Job
from trtforge.pipeline.prepare import Prepared
from trtforge.pipeline.record import receipt
from trtforge.progress import Progress
from trtforge.recipe.models import Builder
from trtforge.samples.base import Sample
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache
from trtforge.scales.table import ScaleTable
from trtforge.targets.load import device_release, releases

if TYPE_CHECKING:
    from trtforge.engines.signature import Signer
    from trtforge.kernels.cubins import KernelSet

GRAPH, RECIPE, SCALES = "graph.onnx", "recipe.json", "scales.json"
ENGINE, PLUGINS = "engine/", "plugins/"

CACHES: dict[str, Algorithm] = {"minmax.cache": GPU_CACHE, "entropy2.cache": DLA_CACHE}
"""The same ranges under two first lines; trtexec wants the second on a GPU too."""

TYPED_MODELS = {"int8": "model.qdq.onnx", "fp16": "model.fp16.onnx"}


@dataclass(frozen=True)
class Facts:
    """`facts` of `kit.json`: what the manifest of the finished engine says and nothing else in the kit does.

    ``surgery``: reports of the passes, without times: kits of equal inputs are equal. ``plan``: what becomes of the
    plugins as far as it is known here; the device decides. ``parity``: what stood for the engine, measured here.
    ``on_device``: for a device without trtforge, the command that compiles; empty when there is none. ``samples``:
    false when none were to be kept.
    """

    model: ModelOrigin
    target: dict[str, Any]
    calibration: dict[str, Any] | None
    surgery: tuple[PassReport, ...]
    plan: dict[str, Any]
    parity: dict[str, Any] | None
    on_device: str
    samples: bool


def write(
    job: Job,
    prepared: Prepared,
    workdir: Path,
    *,
    path: Path,
    engine_files: Mapping[str, Path],
    probes: Sequence[Sample],
    parity: dict[str, Any] | None,
    samples: bool,
    signer: Signer | None,
    progress: Progress,
) -> KitInfo:
    """Write the kit of a job, while its build is locked; ``workdir`` takes the models on their way.

    Args:
        engine_files: what the engine's folder gets beside the engine itself, by name.
        probes: samples for the backend's self-checks.
        parity: the verdict on what stands for the engine here.
        samples: may it keep any.

    Raises ENG133; what computing the FP32 model's answers raises; KernelNotCompiled (BLD301).
    """
    folder = workdir / "kit"
    io.save(prepared.surgery.model, folder / GRAPH)
    kit_samples.write(job if samples else None, probes if samples else (), folder)
    if by_trtexec(job, prepared):
        _write_models(job, prepared, folder)
    recipe = job.recipe.resolved()
    recipe["engines"] = {job.name: recipe["engines"][job.name]}
    members: dict[str, Path | bytes] = {
        **{file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()},
        **{ENGINE + name: file for name, file in engine_files.items()},
        **_plugins(job, prepared, progress),
        RECIPE: _text(recipe),
        LOCK: _text(to_json(Lock(recipes={job.recipe.path.name: {job.name: Pins.of(job.key_inputs)}}))),
    }
    if job.timing is not None:
        members[TIMING_FILE] = job.timing
    if prepared.scales is not None and prepared.scales_path is not None:
        members[SCALES] = prepared.scales_path
        if by_trtexec(job, prepared) and not strongly_typed(job):
            members |= _caches(prepared.scales, tensorrt_version(job))
    info = KitInfo(
        recipe_name=job.recipe.name,
        engine=job.name,
        target=job.target.key,
        backend=job.backend.name,
        key=job.key,
        key_inputs=job.key_inputs,
        recipe=recipe["engines"][job.name],
        facts=to_json(_facts(job, prepared, parity, samples)),
    )
    remove_leftovers(path)
    progress.log(f"{job.name}: packing the kit, {len(members)} files")
    return write_kit(path, members, info, signer)


def _facts(job: Job, prepared: Prepared, parity: dict[str, Any] | None, samples: bool) -> Facts:
    return Facts(
        model=ModelOrigin(origin=job.model.origin, sha256=job.model.sha256),
        target=job.target.to_json(),
        calibration=receipt(prepared),
        surgery=tuple(replace(report, seconds=0.0) for report in prepared.surgery.reports),
        plan=prepared.planned.plan.to_json(),
        parity=parity,
        on_device=finishing_command(job) if by_trtexec(job, prepared) else "",
        samples=samples,
    )


def by_trtexec(job: Job, prepared: Prepared) -> bool:
    """Can NVIDIA's own trtexec make the very engine too, by the command of `finishing_command`?

    It loads no plugins written in Python, as ours are; and a recipe that says more than the command does is left to
    `trtforge finish`.
    """
    engine, dla = job.engine, job.dla
    ours = any(choice.lowering_name == "trtforge" for choice in prepared.planned.plan.swapped)
    bare = all(
        spec.format == "linear" and spec.range is None and spec.dtype not in ("int8", "float16")
        for spec in engine.inputs.values()
    )
    more = engine.outputs or engine.builder != Builder() or engine.quantize.skip
    more_of_dla = dla is not None and (dla.standalone or dla.local_dram or dla.global_dram)
    return job.backend.name == "tensorrt" and bare and not (ours or more or more_of_dla)


def _write_models(job: Job, prepared: Prepared, folder: Path) -> None:
    """For trtexec. The model has the engine's input shapes, as DLA demands and trtexec takes without options."""
    planned = prepared.planned
    request = CompileRequest(
        prepared.model, prepared.scales, job.engine, job.target, folder, planned.plan, planned.situation
    )
    io.save(with_plugins(request), folder / "model.onnx")
    if strongly_typed(job) and (name := TYPED_MODELS.get(job.engine.precision)):
        release = tensorrt_version(job)
        known = documented(release)
        assert known is not None  # `strongly_typed` looked
        io.save(lower(request, known, release).model, folder / name)


def _plugins(job: Job, prepared: Prepared, progress: Progress) -> dict[str, Path | bytes]:
    """Sources of our plugins in the graph, and their binaries where NVRTC is here to make them."""
    used = {choice.op.name for choice in prepared.planned.plan.swapped if choice.lowering_name == "trtforge"}
    members: dict[str, Path | bytes] = {}
    for kernels in kernel_sets(used).values():
        place = f"{PLUGINS}{kernels.plugin}/"
        members |= {place + name: kernels.source(name) for name in kernels.sources}
        if job.target.sm is None:
            continue
        try:
            members |= {place + kernels.file_name(sm): cubin for sm, cubin in kernels.compile([job.target.sm]).items()}
        except MissingPackage as error:
            progress.warn(f"the kit gets no binaries of {kernels.title}, the device compiles them: {error.why}")
    return members


def kernel_sets(used: set[str]) -> dict[str, KernelSet]:
    """The kernels of our plugins by folder, for ops of these names (or folders)."""
    folders = {name.replace("-", "_") for name in used}
    found = {kind.kernels.plugin: kind.kernels for kind in plugins.kinds().values()}
    return {folder: kernels for folder, kernels in found.items() if folder in folders}


def finishing_command(job: Job) -> str:
    """What makes an engine of the kit on the device, with NVIDIA's own tool. Not yet run on hardware."""
    typed, precision = strongly_typed(job), job.engine.precision
    model = TYPED_MODELS.get(precision, "model.onnx") if typed else "model.onnx"
    words = ["trtexec", f"--onnx={model}", f"--saveEngine={job.name}.plan"]
    if not typed and precision != "fp32":
        words.append("--fp16")
    if not typed and precision == "int8":
        words += ["--int8", "--calib=entropy2.cache"]
    pools = [f"workspace:{_mib(job.engine.workspace)}"]
    if job.dla is not None:
        words.append(f"--useDLACore={job.dla.core}")
        words += ["--allowGPUFallback"] if job.dla.gpu_fallback else []
        pools.append(f"dlaSRAM:{_mib(job.dla.sram)}")
    return " ".join([*words, f"--memPoolSize={','.join(pools)}"])


def _text(value: Any) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()


def _mib(size: str) -> str:
    """ "1GiB" -> "1024", "512KiB" -> "0.5": the unit of trtexec's memory pools."""
    units = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}
    return f"{int(size[:-3]) * units[size[-3:]]:g}"


def strongly_typed(job: Job) -> bool:
    """Is the release on the device one without calibrators and precision flags? What is not known is taken for no."""
    said = job.recipe.recipe.tensorrt
    release = device_release(job.target, said) if said is not None else None
    known = documented(release) if release is not None else None
    return known is not None and not known.precision_flags


def _caches(scales: ScaleTable, release: str) -> dict[str, bytes]:
    return {
        name: CalibrationCache.from_table(scales, tensorrt=release, algorithm=algorithm).to_bytes()
        for name, algorithm in CACHES.items()
    }


def tensorrt_version(job: Job) -> str:
    """The release on the device: see `trtforge.targets.load.device_release`.

    The number goes into the cache's header, which TensorRT compares with its own. Raises MissingKey (RCP112),
    WrongValue (RCP113).
    """
    said, known = job.recipe.recipe.tensorrt, releases(job.target)
    if said is None:
        raise MissingKey(
            "`tensorrt` is missing: how a kit carries INT8 ranges depends on the version on the device",
            where=job.recipe.place(("backend",)),
            why=f"JetPack has brought {', '.join(known)} to this device"
            if known
            else "no table says which version a machine with this GPU has",
            next=f'add `tensorrt: "{known[0] if known else "10.3"}"`; on the device: dpkg -l | grep tensorrt',
        )
    release = device_release(job.target, said)
    if release is None:
        raise WrongValue(
            f"no JetPack brings a TensorRT {said} to {job.target.name}",
            where=job.recipe.place(("tensorrt",)),
            why=f"those for it have {', '.join(known) or 'none that is known'}",
            next="name the one version on the device: dpkg -l | grep tensorrt",
        )
    return release
