"""`trtforge tune`: a recipe's engine built for many settings and measured under load, on the device that it is for."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trtforge.backends import registry
from trtforge.backends.base import Session
from trtforge.backends.nvidia.driver import driver_problem
from trtforge.engines.machine import compute_capability
from trtforge.errors.backend import BadBuildTimeout, BadThreads
from trtforge.errors.base import TrtforgeError
from trtforge.errors.engine import ForeignGpu
from trtforge.errors.environment import MissingPackage, NoGpu
from trtforge.errors.tune import CannotTune
from trtforge.errors.usage import WouldOverwrite
from trtforge.pipeline.build import build
from trtforge.pipeline.job import Job, plan
from trtforge.progress import QUIET, Progress
from trtforge.recipe.load import LoadedRecipe, load
from trtforge.recipe.paths import project_root
from trtforge.targets.load import get
from trtforge.tune.load import Stream, under_load
from trtforge.tune.space import Combination, Measured, Setting, Unit

OF_A_SETTING = ("BLD", "ONX", "ENG2", "ENG3")
"""Codes that tell of one combination: its engine does not compile, load or run. All others end the sweep: what this
machine lacks, a full disk or a wrong recipe is no measurement, and would be taken for one ever after."""


@dataclass(frozen=True)
class Tuned:
    """``path``, ``overrides``: of the recipe. ``store``: for its engines. ``seconds``: of a measurement."""

    path: Path
    overrides: tuple[str, ...]
    engine: str
    store: Path
    seconds: float
    progress: Progress = QUIET

    @cached_property
    def recipe(self) -> LoadedRecipe:
        return load(self.path, overrides=self.overrides, only=[self.engine])

    def check_here(self) -> None:
        """This machine can build the engine and run it. Raises ENV101, ENV301, ENG206; nothing was built."""
        backend, target = registry.get(self.recipe.recipe.backend), self.recipe.target
        there, here = backend.availability(), compute_capability()
        any_gpu = self.recipe.recipe.engines[self.engine].builder.hardware_compatibility != "none"
        what, where = f"{self.engine} cannot be measured on this machine", f"target {target.key}"
        again = f"give the same command on the device, {target.name}"
        if not (there.can_compile and there.can_run):
            kind = NoGpu if driver_problem() else MissingPackage
            if there.next and (kind is MissingPackage or not there.can_compile):
                again += f"; if this is it:\n{there.next}"
            raise kind(what, where=where, why=there.why, next=again)
        if not any_gpu and None not in (here, target.sm) and here != target.sm:
            why = f"{target.name} has SM {target.sm}; this machine has SM {here}"
            raise ForeignGpu(what, where=where, why=why, next=again)

    @cached_property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The recipe's, by input. Raises CannotTune when the batch is not open."""
        from trtforge.graph import io
        from trtforge.graph.shapes import input_specs

        engine = self.recipe.recipe.engines[self.engine]
        (job,) = plan(self.recipe, only=[self.engine], store=self.store)
        known = input_specs(io.load(job.model.path))
        fixed = [name for name in engine.inputs if name not in known or not _open_batch(known[name].shape)]
        if fixed or engine.volume_input is not None:
            why = f"the model states the first size of {fixed[0]!r}" if fixed else "it takes windows of a volume"
            raise CannotTune(
                f"the engine {self.engine} has no batch to choose",
                where=self.recipe.place(("engines", self.engine, "inputs")),
                why=why,
                next="export the model with an open batch; for volumes `trtforge run` prints what a scan takes",
            )
        return {name: tuple(spec.shape) for name, spec in engine.inputs.items()}

    def units(self, batches: Sequence[int], streams: Sequence[int], srams: Sequence[int]) -> tuple[Unit, ...]:
        """Those of the recipe's device: its GPU and every core of its DLA, or this machine's CPU."""
        from trtforge.tune.space import settings

        target = self.recipe.target
        if target.kind == "host":
            return (Unit("cpu", "cpu", settings(batches, streams)),)
        gpu = Unit("gpu", "gpu", settings(batches, streams))
        if target.kind == "discrete":
            return (gpu,)
        dla = self._dla_target()
        cores = dla.dla.cores if dla is not None and dla.dla is not None else 0
        return (gpu, *(Unit(f"dla{core}", "dla", settings(batches, streams, srams)) for core in range(cores)))

    def _dla_target(self) -> Any:
        try:
            return get(f"{self.recipe.target.device}/dla")
        except TrtforgeError:
            return None

    def measure(self, combination: Combination) -> Measured:
        """Build what is not there, load a session a stream, run them all at once.

        A combination that fails is a result; what fails for another reason than its setting is raised.
        """
        loaded: dict[str, list[Stream]] = {unit: [] for unit, _ in combination.parts}
        try:
            for unit, setting in combination.parts:
                self._load(unit, setting, loaded[unit])
            executions, p99 = under_load(loaded, self.seconds)
        except (BadBuildTimeout, BadThreads):
            raise
        except MemoryError:
            return Measured(combination, {}, 0.0, "memory ran out")
        except TrtforgeError as error:
            if not error.code.startswith(OF_A_SETTING):
                raise
            return Measured(combination, {}, 0.0, f"{error.code} {error.what}: {error.why}")
        finally:
            for stream in (stream for several in loaded.values() for stream in several):
                if hasattr(stream.session, "close"):
                    stream.session.close()  # the next combination needs the device's memory
        batches = {unit: setting.batch for unit, setting in combination.parts}
        return Measured(combination, {unit: rate * batches[unit] for unit, rate in executions.items()}, p99)

    def _load(self, unit: str, setting: Setting, streams: list[Stream]) -> None:
        job = self.job(unit, setting)
        version = job.store.find(job.name, job.key)  # of any age: `build` would publish an older one again
        if version is None:
            of = f", {setting.sram >> 10} KiB SRAM" if setting.sram else ""
            self.progress.log(f"{unit}: building the engine of batch {setting.batch}{of}")
            build(job, progress=self.progress)
            version = job.store.find(job.name, job.key)
        assert version is not None  # `check_here` looked: no kit was written
        for _ in range(setting.streams):
            session = job.backend.load(version.path, version.manifest.report)
            streams.append(Stream(session, feeds(session)))

    def recipe_path(self, unit: str, folder: Path) -> Path:
        """Where the recipe of a unit's setting goes: into the folder of results where a recipe there may extend the one
        that is tuned, else beside that one.

        Raises WouldOverwrite (USE111) for a recipe of that name beside it that no sweep wrote.
        """
        inside = folder.absolute() / f"{unit}.yaml"
        root = project_root(Path(os.path.normpath(inside)))
        if all(file.is_relative_to(root) for file in self.recipe.files):
            return folder / inside.name
        path = self.path.with_name(f"{self.path.stem}-{self.engine}-{unit}.yaml")
        if path.exists() and not path.read_bytes().startswith(f"# {unit}: batch ".encode()):
            raise WouldOverwrite(
                "the recipe of the best setting would be written over a file of yours",
                where=str(path),
                why=f"a recipe in {folder} could not extend {self.path}, outside of whose project it is",
                next="move that file away, or let --out name a folder of the project",
            )
        return path

    def target_of(self, unit: str) -> str:
        """The key of the target that the engines of a unit are for."""
        target = self.recipe.target
        if unit.startswith("dla"):
            return f"{target.device}/dla"
        return f"{target.device}/gpu" if target.is_dla else target.key

    def job(self, unit: str, setting: Setting) -> Job:
        """The recipe for one unit and setting. Parity is the recipe's own build's to check."""
        at = f"engines.{self.engine}"
        said = [f"{at}.verify=null"]
        for name, shape in self.shapes.items():
            said.append(f'{at}.inputs."{name}".shape={[setting.batch, *shape[1:]]}')
        if (target := self.target_of(unit)) != self.recipe.target.key:
            said.append(f"target={target}")
        if unit == "gpu" and self.recipe.target.is_dla:
            said.append(f"{at}.dla=null")
        if unit.startswith("dla"):
            said.append(f"{at}.dla.core={unit.removeprefix('dla')}")
            said += [f"{at}.dla.sram={setting.sram >> 10}KiB"] if setting.sram else []
        (job,) = plan(
            load(self.path, overrides=[*self.overrides, *said], only=[self.engine]),
            only=[self.engine],
            store=self.store / unit,
        )
        return job

    def facts(self) -> dict[str, Any]:
        """What the measurements are of."""
        base = self.job(self.units([1], [1], [0])[0].name, Setting(1, 1))
        inputs = dict(base.key_inputs)  # with the first setting's shape, the same each time
        return {name: inputs[name] for name in inputs if name != "verify"} | {
            "device": device_name(),
            "seconds": self.seconds,
        }


def device_name() -> str:
    """What the measurements are of: the GPU by its driver's name, else this CPU."""
    from trtforge.targets.host import host_facts

    if driver_problem():
        return str(host_facts().model)
    from trtforge.gpu import cuda_core

    return str(cuda_core().Device(0).name)


def _open_batch(shape: Sequence[int | str | None] | None) -> bool:
    return shape is None or (len(shape) > 0 and not isinstance(shape[0], int))


def feeds(session: Session) -> Mapping[str, np.ndarray[Any, Any]]:
    """Arrays that an engine takes: of no meaning, but not constant either."""
    random = np.random.default_rng(0)
    return {
        spec.name: (random.standard_normal([size or 1 for size in spec.shape]) * 8).astype(spec.dtype)
        for spec in session.inputs
    }
