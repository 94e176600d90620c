"""A job: one engine of a recipe with everything that decides its bytes looked up and digested, nothing built yet.

Imports nothing heavy, so that a build that has nothing to do says so at once.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trtforge import __version__
from trtforge.backends import registry
from trtforge.backends.base import Backend
from trtforge.digest import digest_json, sha256_file
from trtforge.engines.key import engine_key, source_digest
from trtforge.engines.kit import SUFFIX
from trtforge.engines.store import Store
from trtforge.errors.environment import MissingPackage
from trtforge.progress import QUIET, Progress
from trtforge.recipe.load import LoadedRecipe
from trtforge.recipe.models import Dla, Engine, InputSpec
from trtforge.recipe.sources import FetchedModel, fetch
from trtforge.samples.base import SampleSet
from trtforge.samples.load import FileSamples, open_set
from trtforge.targets.model import Target

if TYPE_CHECKING:
    from trtforge.samples.volumes import VolumeSamples

TOOLS = ("numpy", "onnx", "onnx-graphsurgeon", "onnxruntime", "polygraphy", "pillow", "nibabel", "scipy")
"""Packages whose version can change an engine or its scales, whatever the backend."""


@dataclass(frozen=True)
class Job:
    """One engine to build. ``store_root`` is relative to the working directory unless the recipe says otherwise.

    ``timing``: the pinned file of kernels' times, see `CompileRequest`.
    """

    name: str
    engine: Engine
    recipe: LoadedRecipe
    target: Target
    backend: Backend
    model: FetchedModel
    store_root: Path
    timing: Path | None = None

    @cached_property
    def store(self) -> Store:
        return Store(self.store_root)

    @property
    def kit_path(self) -> Path:
        """Where the kit lies, unless another place is named. It holds the key it was made for."""
        return self.store_root / f"{self.name}{SUFFIX}"

    @property
    def dla(self) -> Dla | None:
        """DLA options: the recipe's, or the defaults where the target is a DLA and the recipe is silent."""
        return self.engine.dla or (Dla() if self.target.is_dla else None)

    @cached_property
    def calibration_set(self) -> FileSamples | VolumeSamples | None:
        calibration = self.engine.calibration
        if calibration is None or calibration.set is None or self.engine.precision != "int8":
            return None
        return self._open("calibration", calibration.set, calibration.samples)

    @cached_property
    def verify_set(self) -> FileSamples | VolumeSamples | None:
        verify = self.engine.verify
        if verify is None:
            return None
        return self._open("verify", verify.set, verify.samples)

    def _open(self, key: str, path: str, limit: int | None) -> FileSamples | VolumeSamples:
        return open_set(
            self.recipe.resolve(path),
            self.sample_inputs,
            limit=limit,
            windows=self.engine.sliding,
            named_at=self.recipe.place(("engines", self.name, key, "set")),
        )

    @cached_property
    def sample_inputs(self) -> dict[str, InputSpec]:
        """The recipe's inputs as samples are made for them: in the model's element types, whatever the engine takes.

        Only native TensorRT lets an engine take others: INT8 by the input's scale, or FP16.
        """
        inputs = self.engine.inputs
        if self.backend.name != "tensorrt" or all(spec.dtype not in ("int8", "float16") for spec in inputs.values()):
            return dict(inputs)
        from trtforge.graph.io import load
        from trtforge.graph.shapes import input_specs

        known = input_specs(load(self.model.path))
        return in_types(inputs, {name: spec.dtype for name, spec in known.items()})

    @cached_property
    def scales_file(self) -> Path | None:
        calibration = self.engine.calibration
        if calibration is None or calibration.scales is None or self.engine.precision != "int8":
            return None
        return self.recipe.resolve(calibration.scales)

    @cached_property
    def key_inputs(self) -> dict[str, Any]:
        """Every input of the build by name. Equal values give equal engines, but for the form that a CPU's self-check
        chooses: it depends on a measured speed (docs/adr/0004)."""
        return {
            "engine": self.name,
            "recipe": recipe_digest(self.engine),
            "calibration": _identity(self.calibration_set, self.engine.calibration.method)
            if self.engine.calibration
            else None,
            "scales": sha256_file(self.scales_file) if self.scales_file else None,
            "verify": _identity(self.verify_set, digest_json(self.engine.verify.model_dump(mode="json")))
            if self.engine.verify
            else None,
            "model": self.model.sha256,
            "weights": external_weights(self.model.path),
            "target": [self.target.key, self.target.sm],
            "backend": self.backend.name,
            "tensorrt": self.recipe.recipe.tensorrt,
            "tools": {**tool_versions(), **self.backend.tool_versions()},
        }

    @cached_property
    def key(self) -> str:
        return engine_key(self.key_inputs)


def recipe_digest(engine: Engine) -> str:
    """Of what the recipe says of an engine beside the files that it names, which have digests of their own."""
    return digest_json(engine.model_dump(mode="json", exclude={"model", "calibration", "verify"}))


def plan(
    recipe: LoadedRecipe,
    *,
    only: Sequence[str] = (),
    store: Path | None = None,
    progress: Progress = QUIET,
) -> list[Job]:
    """The jobs of a recipe, in its order. Raises RCP, ONX and ENV errors."""
    backend = registry.get(recipe.recipe.backend)
    root = store or recipe.store
    return [
        Job(name, engine, recipe, recipe.target, backend, fetch(engine.model, recipe, progress=progress), root)
        for name, engine in recipe.selected(only).items()
    ]


def in_types(inputs: Mapping[str, InputSpec], types: Mapping[str, str]) -> dict[str, InputSpec]:
    """Inputs with other element types, by name; one that is not named stays as it is."""
    return {name: spec.model_copy(update={"dtype": types.get(name, spec.dtype)}) for name, spec in inputs.items()}


def tool_versions() -> dict[str, str]:
    """Installed versions of the packages in ``TOOLS``, and of trtforge with a digest of its own source.

    Raises MissingPackage (ENV101).
    """
    versions = {name: _required(name) for name in TOOLS}
    return versions | {"trtforge": f"{__version__}+{source_digest()[:16]}"}


def installed(package: str) -> str | None:
    """The installed version of a package; None when it is missing."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _required(package: str) -> str:
    if (version := installed(package)) is not None:
        return version
    raise MissingPackage(
        f"the package {package} is not installed",
        why="trtforge depends on it, so the installation is incomplete",
        next=f"{sys.executable} -m pip install {package}",
    )


def may_be_external(path: Path) -> bool:
    """Whether a model has the word that every entry of external data carries: known without parsing it.

    Raises OSError; ValueError for an empty file.
    """
    import mmap

    with path.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return data.find(b"location") >= 0


def external_weights(path: Path) -> str | None:
    """Digest of a model's external data; None when every weight is inline.

    Parsing costs more than a no-op build may take, so a model that cannot have any is not parsed at all.
    """
    if not may_be_external(path):
        return None
    from trtforge.graph.digests import digests
    from trtforge.graph.io import load

    model = load(path)
    return digests(model).weights if model.folder is not None else None


def _identity(samples: SampleSet | None, how: str) -> str | None:
    return None if samples is None else digest_json([samples.identities(), samples.describe(), how])
