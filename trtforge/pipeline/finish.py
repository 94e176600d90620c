"""Finish a kit on the machine that can compile it: checked, compiled, held to its bound, published.

The manifest is the one that a build on this machine would have written, but for two things: the tools that prepared
the kit are the other machine's, and the verdict is about the samples that the kit keeps.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from trtforge import __version__
from trtforge.backends import registry
from trtforge.backends.tensorrt_.backend import TIMING_FILE
from trtforge.digest import sha256_file
from trtforge.engines.key import source_digest
from trtforge.engines.kit import Kit, read_kit
from trtforge.engines.machine import compute_capability
from trtforge.engines.records import RecordError, from_json, parse
from trtforge.errors.backend import NeedsDevice
from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import PluginNotHere
from trtforge.errors.kit import KitDamaged, KitForAnotherDevice, KitOfAnotherVersion
from trtforge.errors.targets import UnknownTarget
from trtforge.memory import human_bytes
from trtforge.pipeline.build import Outcome, newest, produce, republished
from trtforge.pipeline.job import Job, recipe_digest
from trtforge.pipeline.verify import ELSEWHERE
from trtforge.progress import QUIET, Progress
from trtforge.recipe.load import LoadedRecipe
from trtforge.recipe.models import Recipe
from trtforge.recipe.sources import FetchedModel
from trtforge.targets.load import get, version_tuple

if TYPE_CHECKING:
    from trtforge.backends.base import Availability, CompileResult
    from trtforge.engines.signature import Trusted
    from trtforge.kernels.cubins import Brought, KernelSet
    from trtforge.pipeline.kit import Facts
    from trtforge.pipeline.kit_samples import Kept
    from trtforge.pipeline.prepare import Prepared


@dataclass(frozen=True)
class DecidedJob(Job):
    """A job whose key inputs were decided where its kit was written, but for the tools of the device."""

    decided: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def key_inputs(self) -> dict[str, Any]:
        return dict(self.decided)


@dataclass(frozen=True)
class _Tools:
    """Of `key_inputs`: name -> version."""

    tools: Mapping[str, str]


@dataclass(frozen=True)
class Unpacked:
    """A sound kit, unpacked to ``folder``, as a job of this machine. ``facts``: what the manifest takes from it."""

    kit: Kit
    job: Job
    facts: Facts
    folder: Path


def finish(
    path: Path,
    *,
    store: Path | None = None,
    trusted: Trusted | None = None,
    force: bool = False,
    progress: Progress = QUIET,
) -> Outcome:
    """Finish a kit: nothing when its engine exists already.

    Args:
        store: where the engine is published; `engines/<recipe name>` when None.
        trusted: whose signature the kit must have.

    Raises ENG131-ENG138 for the kit, KIT101 where its backend cannot compile, and what `build` raises of BLD, ENG,
    VER and ENV; then nothing was published.
    """
    from trtforge.pipeline.workdir import workdir

    started = time.monotonic()
    with workdir() as folder:
        unpacked = unpack(path, folder / "kit", store=store, trusted=trusted, progress=progress)
        job = unpacked.job
        check_here(unpacked)
        if not force and (found := newest(job, started)):
            return found
        with job.store.build_lock(job.name, progress=progress):
            if not force and (found := newest(job, started) or republished(job, started, progress)):
                return found
            return _finish(unpacked, folder, started, progress)


def unpack(
    path: Path, folder: Path, *, store: Path | None = None, trusted: Trusted | None = None, progress: Progress = QUIET
) -> Unpacked:
    """Check a kit and unpack it; nothing of it is looked at before its digests and signature hold.

    Raises ENG131, ENG132, ENG133, ENG134, ENG137, ENG138.
    """
    from trtforge.pipeline.kit import GRAPH, RECIPE, Facts

    if path.is_file():
        progress.log(f"{path.name}: checking and unpacking {human_bytes(path.stat().st_size)}")
    kit = read_kit(path, into=folder, trusted=trusted)
    if trusted is None and kit.signature is not None:
        progress.log(f"{path.name}: signed, but the signature was not checked; --require-signature PUBLIC_KEY does")
    info = kit.info
    if info.trtforge != __version__:
        raise KitOfAnotherVersion(
            "the kit was written by another trtforge",
            where=str(path),
            why=f"it was written by {info.trtforge}; this is {__version__}",
            next=f"pip install trtforge=={info.trtforge}, or write the kit again with {__version__}",
        )
    try:
        facts = from_json(Facts, info.facts, "facts")
        tools = from_json(_Tools, {"tools": info.key_inputs.get("tools")}, "key_inputs").tools
        recipe = Recipe.model_validate(parse((folder / RECIPE).read_bytes()))
        target, backend = get(info.target), registry.get(recipe.backend)
    except OSError as error:
        raise _incomplete(path, f"{RECIPE} is missing") from error
    except (RecordError, UnknownTarget) as error:
        raise _incomplete(path, str(error).partition("\n")[0]) from error
    except ValidationError as error:
        place = ".".join(map(str, error.errors(include_url=False)[0]["loc"]))
        raise _incomplete(path, f"{RECIPE}: {place or 'it'} is not what a recipe has there") from error
    if (engine := recipe.engines.get(info.engine)) is None or "trtforge" not in tools:
        lacks = f"{RECIPE} has no engine {info.engine!r}" if engine is None else "the tools of its key lack trtforge"
        raise _incomplete(path, lacks)
    inputs = decided(info.key_inputs, tools_here(backend.tool_versions()))
    loaded = LoadedRecipe(recipe, path.absolute(), (), folder, target, {}, {})
    job = DecidedJob(
        info.engine,
        engine,
        loaded,
        target,
        backend,
        FetchedModel(folder / GRAPH, facts.model.sha256, facts.model.origin),
        store or Path("engines") / info.recipe_name,
        timing=folder / TIMING_FILE if TIMING_FILE in info.members else None,
        decided=inputs,
    )
    unpacked = Unpacked(kit, job, facts, folder)
    _check_whole(unpacked)
    return unpacked


def _check_whole(unpacked: Unpacked) -> None:
    """The parts of a kit say the same, and none is in the way of what is made here. Raises KitDamaged.

    The manifest takes the key's inputs from `kit.json`, and the engine is made of the other members: a kit in which
    they differ would give an engine that is not what its manifest says.
    """
    from trtforge.pipeline.kit import ENGINE, SCALES

    info, job = unpacked.kit.info, unpacked.job
    said = {
        "backend": job.backend.name,
        "target": [job.target.key, job.target.sm],
        "tensorrt": job.recipe.recipe.tensorrt,
        "recipe": recipe_digest(job.engine),
    }
    differing = [name for name, value in said.items() if info.key_inputs.get(name) != value]
    differing += ["verify"] if (job.engine.verify is None) != (info.key_inputs.get("verify") is None) else []
    if differing or (info.backend, info.target) != (said["backend"], job.recipe.recipe.target):
        raise _incomplete(job.recipe.path, f"its recipe is not the one of its key: {', '.join(differing) or 'target'}")
    if (SCALES in info.members) != (job.engine.precision == "int8"):
        has = "has" if SCALES in info.members else "lacks"
        raise _incomplete(job.recipe.path, f"it is of an engine of {job.engine.precision}, and {has} {SCALES}")
    known = _window_files(job)
    if bad := [name for name in info.members if name.startswith(ENGINE) and name.removeprefix(ENGINE) not in known]:
        raise _incomplete(job.recipe.path, f"{bad[0]!r} is no file that this engine keeps; those are {known}")


def _window_files(job: Job) -> list[str]:
    """Names of the files that an engine keeps beside itself, of those that `window_files` makes."""
    if job.engine.volume_input is None:
        return []
    from trtforge.runtime.windows.cubins import WINDOWS
    from trtforge.runtime.windows.kept import FILE

    return [FILE, *([] if job.target.sm is None else [WINDOWS.file_name(job.target.sm)])]


def tools_here(backend: Mapping[str, str]) -> dict[str, str]:
    """The tools of the machine that compiles: its backend's, and trtforge by version and source."""
    return {**backend, "trtforge": f"{__version__}+{source_digest()[:16]}"}


def decided(key_inputs: Mapping[str, Any], tools: Mapping[str, str]) -> dict[str, Any]:
    """The key inputs of the engine that a machine with these tools makes of a kit with those."""
    before: Mapping[str, str] = key_inputs["tools"]
    both = {**before, **tools}
    if both["trtforge"] != before["trtforge"]:
        both["trtforge"] = f"{before['trtforge']}; finished by {tools['trtforge']}"
    return {**key_inputs, "tools": both}


def check_here(unpacked: Unpacked) -> None:
    """This machine can finish the kit; nothing is written. Raises KIT101, ENG131, ENG136, ENG115."""
    job = unpacked.job
    check_device(job, job.backend.availability(), compute_capability(), where=str(job.recipe.path))
    _check_plugins(unpacked)


def check_device(job: Job, there: Availability, sm: str | None, *, where: str) -> None:
    """A machine with this backend and GPU can make the engine of a job. Raises KIT101, ENG136."""
    if not there.can_compile:
        raise NeedsDevice(
            f"{job.backend.name} cannot compile the engine for {job.target.name} on this machine",
            where=where,
            why=there.why,
            next=there.next or "trtforge doctor",
        )
    if job.backend.name != "tensorrt":
        return  # the others compile for machines that are not here
    any_gpu = job.engine.builder.hardware_compatibility != "none"
    if not any_gpu and None not in (sm, job.target.sm) and sm != job.target.sm:
        raise _another(where, f"it is for {job.target.name}, SM {job.target.sm}; this machine has SM {sm}")
    said = job.recipe.recipe.tensorrt
    if said is not None and not fits(said, there.version):
        raise _another(where, f"its recipe says TensorRT {said}; this machine has {there.version}")


def fits(said: str, version: str) -> bool:
    """Is an installed release one of those that a recipe's `tensorrt` means? Yes where it is not known."""
    if version_tuple(version) is None:
        return True
    if said[:1].isdigit():
        return f"{version}.".startswith(f"{said}.")
    from packaging.specifiers import SpecifierSet

    return version in SpecifierSet(said)


def _another(where: str, why: str) -> KitForAnotherDevice:
    return KitForAnotherDevice(
        "the kit is for another device",
        where=where,
        why=why,
        next="finish it on its device, or build the recipe of this one's target: `trtforge targets` lists them",
    )


def _check_plugins(unpacked: Unpacked) -> None:
    """Sources of plugins in the kit are those of this trtforge. Raises KitDamaged, PluginNotHere."""
    members = _plugin_members(unpacked)
    binaries = _binaries(unpacked).values()
    for name, (plugin, file, kernels) in members.items():
        if unpacked.folder / name in binaries:
            continue
        if kernels is None or file not in kernels.sources:
            why = f"this trtforge does not have {'it' if kernels is None else file}"
        elif sha256_file(kernels.source(file)) != unpacked.kit.info.members[name].sha256:
            why = "its source differs"
        else:
            continue
        raise PluginNotHere(
            f"the plugin {plugin} of the kit is not the one that is here",
            where=f"{unpacked.job.recipe.path}: {name}",
            why=why,
            next="install the trtforge that wrote the kit, or write the kit again with this one",
        )


def _plugin_members(unpacked: Unpacked) -> dict[str, tuple[str, str, KernelSet | None]]:
    """Members of plugins: name -> plugin, file, and the kernels here. Raises KitDamaged."""
    from trtforge.pipeline.kit import PLUGINS, kernel_sets

    parts = {name: name.split("/") for name in unpacked.kit.info.members if name.startswith(PLUGINS)}
    if bad := [name for name, words in parts.items() if len(words) != 3]:
        raise KitDamaged(
            "the kit is damaged",
            where=str(unpacked.job.recipe.path),
            why=f"the member {bad[0]!r} is no file of a plugin, which would be {PLUGINS}NAME/FILE",
            next="write it again with `trtforge build RECIPE --kit`",
        )
    sets = kernel_sets({plugin for _, plugin, _ in parts.values()}) if parts else {}
    return {name: (plugin, file, sets.get(plugin)) for name, (_, plugin, file) in parts.items()}


def _binaries(unpacked: Unpacked) -> dict[str, Path]:
    """Binaries of kernels in the kit, by file name. Raises KitDamaged."""
    from trtforge.pipeline.kit import PLUGINS

    sets = {plugin: kernels for plugin, _, kernels in _plugin_members(unpacked).values() if kernels is not None}
    found = [kernels.files(unpacked.folder / PLUGINS / plugin) for plugin, kernels in sets.items()]
    return {file.name: file for files in found for file in files.values()}


def _finish(unpacked: Unpacked, folder: Path, started: float, progress: Progress) -> Outcome:
    from trtforge.kernels.cubins import brought
    from trtforge.pipeline import kit_samples
    from trtforge.pipeline.kit import ENGINE

    job, path = unpacked.job, unpacked.job.recipe.path
    try:
        samples = kit_samples.read(unpacked.folder, job.engine)
    except OSError as error:
        raise _incomplete(path, f"{kit_samples.INDEX} or {kit_samples.DATA} is missing") from error
    except RecordError as error:
        raise _incomplete(path, f"{kit_samples.INDEX}: {error}") from error
    prepared = _prepared(unpacked)
    compiler = f"{job.backend.name} {job.backend.availability().version}".rstrip()
    progress.log(f"{job.name}: {job.engine.precision} for {job.target.key}, made by {compiler}")
    beside = unpacked.folder / ENGINE
    with brought(_binaries(unpacked)) as binaries:
        outcome = produce(
            job,
            prepared,
            folder,
            probes=samples.probes,
            beside={file.name: file for file in sorted(beside.iterdir())} if beside.is_dir() else {},
            measure=lambda result: _verdict(unpacked, result, samples, binaries, progress),
            started=started,
            progress=progress,
        )
    taken = [f"kernels: {file} is the kit's own ({digest[:12]})" for file, digest in binaries.taken.items()]
    return replace(outcome, facts=[*outcome.facts, *taken])


def _verdict(
    unpacked: Unpacked, result: CompileResult, samples: Kept, binaries: Brought, progress: Progress
) -> dict[str, Any] | None:
    """The verdict on the engine, whose report gets the digests of the kit's binaries in it: nobody here made them."""
    from trtforge.pipeline import verify

    if binaries.taken:
        result.report["kernels_of_kit"] = dict(binaries.taken)
    return verify.kept(unpacked.job, result, samples, progress) or _measured_elsewhere(unpacked.facts)


def _measured_elsewhere(facts: Facts) -> dict[str, Any] | None:
    """The verdict for a kit that keeps no samples, because one is too large: the one it was written with."""
    return None if facts.parity is None else {**facts.parity, "measured_on": ELSEWHERE}


def _prepared(unpacked: Unpacked) -> Prepared:
    """What `prepare` gives, taken from the kit; what becomes of plugins is decided here, by this machine's registry."""
    from trtforge.graph import io
    from trtforge.graph.diff import diff
    from trtforge.graph.digests import digests
    from trtforge.graph.surgery import SurgeryResult
    from trtforge.pipeline import plugins
    from trtforge.pipeline.kit import GRAPH, SCALES
    from trtforge.pipeline.prepare import Prepared
    from trtforge.scales.table import ScaleTable

    path = unpacked.folder / SCALES
    try:
        model = io.load(unpacked.folder / GRAPH)
        scales = ScaleTable.load(path) if path.exists() else None
    except TrtforgeError as error:  # it names a file of a folder that is gone when it is read
        raise _incomplete(unpacked.job.recipe.path, f"{error.what}: {error.why}") from error
    return Prepared(
        surgery=SurgeryResult(model, unpacked.facts.surgery, diff(model, model)),
        digests=digests(model),
        scales=scales,
        scales_path=path if scales is not None else None,
        reused=True,
        planned=plugins.plan(unpacked.job, model, scales),
    )


def _incomplete(path: Path, why: str) -> KitDamaged:
    return KitDamaged(
        "the kit lacks something that finishing it takes",
        where=str(path),
        why=why,
        next="write it again with `trtforge build RECIPE --kit`",
    )
