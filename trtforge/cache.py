"""Where trtforge keeps what it can make again: downloads and calibrated scales. Never in the package, never in /tmp."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """`$TRTFORGE_CACHE`, or the platform's user cache folder."""
    if chosen := os.environ.get("TRTFORGE_CACHE"):
        return Path(chosen)
    from platformdirs import user_cache_path

    return user_cache_path("trtforge")
