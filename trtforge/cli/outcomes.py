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
    waits = "kit prepared, compilation needs the device" if outcome.why else "kit written"
    ui.say(f"{outcome.path}: {waits if outcome.status == 'kit' else outcome.status}")
    for line in outcome.facts:
        ui.say(f"  {line}")


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
