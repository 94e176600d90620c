"""What a build says of the version it published: everybody who asks for the engine gets it from now on."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.engines.manifest import Manifest
    from trtforge.pipeline.build import Outcome
    from trtforge.pipeline.job import Job


def tell(ui: Ui, job: Job, outcome: Outcome, *, experiment: bool, pinned: bool) -> None:
    """Say where an experiment went, and in what the newest version is another thing than the one before it.

    Args:
        experiment: the recipe was overridden by `--set`.
        pinned: its inputs are those of the lock all the same.
    """
    if outcome.status == "up-to-date":
        return
    if experiment and not pinned:
        ui.log(f"{job.name}: built with --set, so its inputs are not pinned in trtforge.lock")
    if outcome.version is None or not (differing := _differing(job, outcome.version)):
        return
    text = f"{job.name}: version {outcome.version} is now the newest in {job.store_root}; it has {differing}"
    if experiment:
        ui.warn(f"{text}; --store FOLDER keeps an experiment apart")
    else:
        ui.log(text)


def _differing(job: Job, version: int) -> str:
    """In what a version differs, to whoever runs it, from the one before; empty when there is none or it is broken."""
    from trtforge.errors.base import TrtforgeError

    try:
        before = [number for number in job.store.versions(job.name) if number < version]
        if not before:
            return ""
        old, new = (_facts(job.store.get(job.name, number).manifest) for number in (before[-1], version))
    except TrtforgeError:
        return ""
    names = [name for name in {**new, **old} if new.get(name) != old.get(name)]
    return ", ".join(
        f"{name} {new.get(name, 'none')} (version {before[-1]}: {old.get(name, 'none')})" for name in names
    )


def _facts(manifest: Manifest) -> dict[str, str]:
    tensors = (("input", manifest.inputs), ("output", manifest.outputs))
    return {
        "target": manifest.target.key,
        "backend": manifest.backend,
        "precision": str(manifest.recipe.get("precision", "-")),
        **{
            f"{kind} {one.name}": f"{one.dtype}[{', '.join('?' if size is None else str(size) for size in one.shape)}]"
            for kind, several in tensors
            for one in several
        },
    }
