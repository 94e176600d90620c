"""What is handed to a device that must compile for itself: graph, scales, TensorRT cache and recipe, sealed.

TensorRT through 10 takes INT8 ranges as a calibration cache. TensorRT 11 has no calibrators and is strongly typed: it
takes INT8 as Q/DQ nodes and FP16 as the types of the graph, so the kit holds a graph with these written in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from trtforge.engines.kit import KitInfo, write_kit
from trtforge.errors.recipe import MissingKey, WrongValue
from trtforge.files import remove_leftovers
from trtforge.graph import io
from trtforge.graph.model import Model
from trtforge.graph.shapes import freeze_inputs
from trtforge.pipeline.job import Job
from trtforge.pipeline.prepare import Prepared
from trtforge.pipeline.record import receipt
from trtforge.scales.codecs.qdq import insert
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache
from trtforge.scales.table import ScaleTable
from trtforge.surgery.choose import apply
from trtforge.targets.load import device_release, releases, version_tuple

CACHES: dict[str, Algorithm] = {
    "minmax.cache": "MinMaxCalibration",
    "entropy2.cache": "EntropyCalibration2",
}
"""The same min-max ranges under two headers: TensorRT takes a cache only from the calibrator its first line names.
`IInt8MinMaxCalibrator` wants the first; trtexec, and the DLA whatever calls it, want the second."""

STRONGLY_TYPED = 11
"""Since this TensorRT the precision is what the graph says."""

TYPED_MODELS = {"int8": "model.qdq.onnx", "fp16": "model.fp16.onnx"}


def write(job: Job, prepared: Prepared, workdir: Path, others: Mapping[str, Path]) -> Path:
    """Write the kit of a job, while its build is locked; ``workdir`` takes the model on its way. Raises ENG133.

    ``others``: further members, by name.

    The model has the engine's input shapes, as DLA demands and trtexec takes without further options.
    """
    folder = workdir / "kit"
    shapes = {name: spec.shape for name, spec in job.engine.inputs.items()}
    model = with_plugins(prepared, freeze_inputs(prepared.model, shapes))
    io.save(model, folder / "model.onnx")
    if strongly_typed(job) and (name := TYPED_MODELS.get(job.engine.precision)):
        io.save(_typed(job, model, prepared), folder / name)
    members: dict[str, Path | bytes] = {**{file.name: file for file in folder.iterdir()}, **others}
    recipe = job.recipe.resolved()
    recipe["engines"] = {job.name: recipe["engines"][job.name]}
    members["recipe.json"] = (json.dumps(recipe, indent=2, sort_keys=True) + "\n").encode()
    if prepared.scales is not None and prepared.scales_path is not None:
        members["scales.json"] = prepared.scales_path
        if not strongly_typed(job):
            members |= _caches(prepared.scales, tensorrt_version(job))
    info = KitInfo(
        engine=job.name,
        target=job.target.key,
        backend=job.backend.name,
        key=job.key,
        key_inputs=job.key_inputs,
        recipe=recipe["engines"][job.name],
        facts={
            "model": {"origin": job.model.origin, "sha256": job.model.sha256},
            "target": job.target.to_json(),
            "calibration": receipt(prepared),
            "surgery": prepared.planned.plan.to_json(),
            "on_device": finishing_command(job),
        },
    )
    remove_leftovers(job.kit_path)
    write_kit(job.kit_path, members, info)
    return job.kit_path


def with_plugins(prepared: Prepared, model: Model) -> Model:
    """The float graph with NVIDIA's plugins in it: TensorRT quantizes around them by the cache."""
    planned = prepared.planned
    if planned.situation is None:
        return model
    return apply(model, model, planned.plan, planned.situation)[0]


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


def _mib(size: str) -> str:
    """ "1GiB" -> "1024", "512KiB" -> "0.5": the unit of trtexec's memory pools."""
    units = {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}
    return f"{int(size[:-3]) * units[size[-3:]]:g}"


def strongly_typed(job: Job) -> bool:
    """Is the release on the device one without calibrators and precision flags? What is not known is taken for no."""
    said = job.recipe.recipe.tensorrt
    release = version_tuple(device_release(job.target, said) or "") if said is not None else None
    return release is not None and release[0] >= STRONGLY_TYPED


def _typed(job: Job, model: Model, prepared: Prepared) -> Model:
    """The graph with the recipe's precision written into it. Raises CAL and BLD errors."""
    if prepared.scales is not None:
        return insert(model, prepared.scales, job.engine.quantize)[0]
    from trtforge.backends.tensorrt_rtx_.half import convert

    return convert(model)[0]


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
