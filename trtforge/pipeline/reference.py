"""Finding the FP32 model of an engine again: by its digest, wherever it was when the engine was built here.

The manifest must not carry a path of one machine, so the path is remembered in the cache, under the digest.
"""

from __future__ import annotations

import json
from pathlib import Path

from trtforge.cache import cache_dir
from trtforge.digest import sha256_file
from trtforge.engines.manifest import Manifest
from trtforge.errors.verify import ReferenceMissing
from trtforge.files import write_json
from trtforge.kinds import MODEL, refuse_other
from trtforge.pipeline.job import Job


def remember(job: Job) -> None:
    """Note where the job's model lies, unless that is known. Raises OSError."""
    path = job.model.path.resolve()
    if _remembered(job.model.sha256) != path:
        write_json(_note(job.model.sha256), {"path": str(path), "origin": job.model.origin})


def find(manifest: Manifest, given: Path | None = None) -> Path:
    """The FP32 model an engine was built from: ``given``, or where it was at build time; its digest is checked.

    Raises ReferenceMissing (VER105), OtherKind (USE107).
    """
    if given is not None:
        refuse_other(given, MODEL)
    path = given or _remembered(manifest.model.sha256)
    why = "nothing here remembers where it is: the cache was emptied, or another machine built the engine"
    if path is not None:
        if not path.is_file():
            why = "there is no such file any more" if given is None else "there is no such file"
        elif (found := sha256_file(path)) == manifest.model.sha256:
            return path
        else:
            why = f"its sha256 is {found[:16]}..., the engine was built from {manifest.model.sha256[:16]}..."
    raise ReferenceMissing(
        "the FP32 model to compare with is not here",
        where=str(path or manifest.model.origin),
        why=why,
        next=f"`trtforge build` its recipe again, give it with --model PATH (it was {manifest.model.origin}), "
        "or run without it: --against none",
    )


def _note(sha256: str) -> Path:
    return cache_dir() / "references" / f"{sha256}.json"


def _remembered(sha256: str) -> Path | None:
    try:
        return Path(json.loads(_note(sha256).read_bytes())["path"])
    except (OSError, ValueError, KeyError, TypeError):
        return None  # a cache may be emptied or damaged at any time; what was noted there is only a hint
