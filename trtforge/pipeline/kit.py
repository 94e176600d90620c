"""What is handed to a device that must compile for itself: graph, scales, TensorRT cache and recipe, sealed."""

from __future__ import annotations

import json
from pathlib import Path

from packaging.specifiers import SpecifierSet

from trtforge.engines.kit import KitInfo, write_kit
from trtforge.errors.recipe import MissingKey, WrongValue
from trtforge.files import remove_leftovers
from trtforge.graph import io
from trtforge.graph.shapes import freeze_inputs
from trtforge.pipeline.job import Job
from trtforge.pipeline.prepare import Prepared
from trtforge.pipeline.record import receipt
from trtforge.scales.codecs.trt_cache import Algorithm, CalibrationCache
from trtforge.targets.load import jetpacks

CACHES: dict[str, Algorithm] = {
    "minmax.cache": "MinMaxCalibration",
    "entropy2.cache": "EntropyCalibration2",
}
"""The same min-max ranges under two headers: TensorRT takes a cache only from the calibrator its first line names.
`IInt8MinMaxCalibrator` wants the first; trtexec, and the DLA whatever calls it, want the second."""


def write(job: Job, prepared: Prepared, workdir: Path) -> Path:
    """Write the kit of a job, while its build is locked; ``workdir`` takes the model on its way. Raises ENG133.

    The model has the engine's input shapes, as DLA demands and trtexec takes without further options.
    """
    folder = workdir / "kit"
    shapes = {name: spec.shape for name, spec in job.engine.inputs.items()}
    io.save(freeze_inputs(prepared.model, shapes), folder / "model.onnx")
    members: dict[str, Path | bytes] = {file.name: file for file in folder.iterdir()}
    recipe = job.recipe.resolved()
    recipe["engines"] = {job.name: recipe["engines"][job.name]}
    members["recipe.json"] = (json.dumps(recipe, indent=2, sort_keys=True) + "\n").encode()
    if prepared.scales is not None and prepared.scales_path is not None:
        members["scales.json"] = prepared.scales_path
        for name, algorithm in CACHES.items():
            cache = CalibrationCache.from_table(prepared.scales, tensorrt=tensorrt_version(job), algorithm=algorithm)
            members[name] = cache.to_bytes()
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
            "on_device": job.on_device,
        },
    )
    remove_leftovers(job.kit_path)
    write_kit(job.kit_path, members, info)
    return job.kit_path


def tensorrt_version(job: Job) -> str:
    """The release on the device: the recipe's "8.6" is the 8.6.2 of the JetPack that carries it, a range the newest.

    The number goes into the cache's header, which TensorRT compares with its own. Raises MissingKey (RCP112),
    WrongValue (RCP113).
    """
    said, family = job.recipe.recipe.tensorrt, job.target.family
    releases = [pack.tensorrt for pack in reversed(jetpacks()) if family in pack.families]
    if said is None:
        raise MissingKey(
            "`tensorrt` is missing: the kit's calibration cache carries the version on the device",
            where=job.recipe.place(("backend",)),
            why=f"JetPack has brought {', '.join(dict.fromkeys(releases))} to this device"
            if releases
            else "no table says which version a machine with this GPU has",
            next=f'add `tensorrt: "{releases[0] if releases else "10.3"}"`; on the device: dpkg -l | grep tensorrt',
        )
    if said[0].isdigit():
        return next((release for release in releases if f"{release}.".startswith(f"{said}.")), said)
    allowed = SpecifierSet(said)
    for release in releases:
        if release in allowed:
            return release
    raise WrongValue(
        f"no JetPack brings a TensorRT {said} to {job.target.name}",
        where=job.recipe.place(("tensorrt",)),
        why=f"those for it have {', '.join(dict.fromkeys(releases)) or 'none that is known'}",
        next="name the one version on the device: dpkg -l | grep tensorrt",
    )
