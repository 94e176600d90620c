"""The cache key of an engine: one digest over everything that decides its bytes."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from trtforge.digest import digest_json

SOURCE_ROOT = Path(__file__).resolve().parent.parent
SOURCES = (".py", ".cu", ".cuh", ".hpp", ".cpp")


def engine_key(inputs: Mapping[str, Any]) -> str:
    """Hex sha256 of the canonical JSON of a build's named inputs.

    Two builds with equal inputs give the same engine; the order of the names does not matter. Raises ValueError for
    NaN, TypeError for a value that JSON does not have: an input that cannot be written down cannot be compared.
    """
    return digest_json(dict(inputs))


@cache
def source_digest() -> str:
    """Hex sha256 over the names and contents of trtforge's own sources, kernels of the plugins included: code is an
    input of a build too."""
    return digest_sources(SOURCE_ROOT)


def digest_sources(root: Path) -> str:
    """Hex sha256 over the relative names and contents of the sources under ``root``. Raises OSError."""
    total = hashlib.sha256()
    # plugins/ is a link in a source tree and a folder in an installed package
    walked = os.walk(root, followlinks=True)
    for path in sorted(Path(folder, name) for folder, _, names in walked for name in names if name.endswith(SOURCES)):
        content = hashlib.sha256(path.read_bytes()).digest()
        # A length before each name keeps (name, content) pairs from running into each other.
        name = path.relative_to(root).as_posix().encode()
        total.update(len(name).to_bytes(4, "little") + name + content)
    return total.hexdigest()
