"""What an `--out` means that is a file for one engine, and a folder for any number of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trtforge.pipeline.job import Job


def in_folder(out: str) -> bool:
    """A folder: one that is there, a name with a slash behind it, or a new name without an ending (`kits`)."""
    path = Path(out)
    return out.endswith(os.sep) or path.is_dir() or (not path.suffix and not path.exists())


def one_engine(out: str, jobs: Sequence[Job]) -> Job:
    """The engine that the file is for. Raises OneEngineNeeded (USE103)."""
    from trtforge.cli.ui import shown
    from trtforge.errors.usage import OneEngineNeeded

    if len(jobs) == 1:
        return jobs[0]
    raise OneEngineNeeded(
        f"`--out` names one file, and there are {len(jobs)} engines",
        where=f"{shown(jobs[0].recipe.path)}, --out {out}",
        why=", ".join(job.name for job in jobs),
        next=f"add --only {jobs[0].name}, or name a folder, with a slash behind it: --out {Path(out).parent}/",
    )
