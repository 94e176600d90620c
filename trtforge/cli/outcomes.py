"""What `build` and `finish` say about an engine that was made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.cli.results import BuiltEngine
    from trtforge.pipeline.build import Outcome


def show(ui: Ui, outcome: Outcome) -> None:
    if outcome.status == "up-to-date":
        ui.say(f"{outcome.path}: up to date, nothing to do")
        return
    ui.say(f"{outcome.path}: {_kit(outcome) if outcome.status == 'kit' else outcome.status}")
    for line in outcome.facts:
        ui.say(f"  {line}")


def _kit(outcome: Outcome) -> str:
    done = "already there" if outcome.there else "prepared" if outcome.why else "written"
    signed = f", signed by {outcome.signed_by}" if outcome.signed_by else ""
    return f"kit {done}{signed}{', compilation needs the device' if outcome.why else ''}"


def row(outcome: Outcome) -> BuiltEngine:
    return {
        "engine": outcome.job.name,
        "target": outcome.job.target.key,
        "backend": outcome.job.backend.name,
        "status": outcome.status,
        "path": str(outcome.path),
        "version": outcome.version,
        "key": outcome.job.key,
        "seconds": round(outcome.seconds, 3),
        "parity": dict(outcome.parity) if outcome.parity else None,
    }
