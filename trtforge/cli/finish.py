"""`trtforge finish`: on the device, a kit becomes an engine: checked, compiled, measured, published."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from trtforge.cli import keys
from trtforge.cli.options import Json, NoProgress, Quiet
from trtforge.cli.outcomes import row, show
from trtforge.cli.ui import Ui
from trtforge.kinds import KIT, refuse_other

if TYPE_CHECKING:
    from trtforge.engines.signature import Trusted


def register(app: typer.Typer) -> None:
    app.command()(finish)


def finish(
    kit: Annotated[Path, typer.Argument(metavar="KIT", help="A kit that `trtforge build` wrote", show_default=False)],
    store: Annotated[Path | None, typer.Option("--store", help="Engine store; default `engines/<recipe name>`")] = None,
    require_signature: keys.RequireSignature = None,
    only_check: Annotated[
        bool, typer.Option("--only-check", help="Check the kit, and whether this machine can finish it; do no more")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Compile even when the engine of this kit exists")] = False,
    json: Json = False,
    quiet: Quiet = False,
    no_progress: NoProgress = False,
) -> None:
    """Compile a kit on its device, check the engine and publish it.

    The kit's digests, and its signature when one is required, are checked before anything in it is used.
    """
    ui = Ui(json=json, quiet=quiet, progress=not no_progress)
    refuse_other(kit, KIT)
    trusted = keys.trusted(require_signature)
    if only_check:
        _check(ui, kit, trusted)
        return
    from trtforge.pipeline.finish import finish as execute

    outcome = execute(kit, store=store, trusted=trusted, force=force, progress=ui)
    show(ui, outcome)
    ui.result("finish", {"kit": str(kit), "signature_held": trusted is not None, "engine": row(outcome)})


def _check(ui: Ui, path: Path, trusted: Trusted | None) -> None:
    from trtforge.memory import human_bytes
    from trtforge.pipeline.finish import check_here, unpack
    from trtforge.pipeline.workdir import workdir

    with workdir() as folder:
        unpacked = unpack(path, folder / "kit", trusted=trusted, progress=ui)
        check_here(unpacked)
    info = unpacked.kit.info
    signed = f"; signed by a key of {trusted.where}" if trusted is not None else ""
    ui.say(f"{path}: sound, {human_bytes(info.size)} in {len(info.members)} members{signed}")
    ui.say(f"  this machine can finish it: {info.engine} for {info.target} with {unpacked.job.backend.name}")
    ui.result("finish", {"kit": str(path), "signature_held": trusted is not None, "engine": None})
