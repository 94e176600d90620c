"""Which ONNX operators the DLA runs, since which TensorRT, and how that is known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Literal

TABLE = Path(__file__).with_name("dla_layers.json")

READ_FOR = "8.2 to 10.3"
"""The TensorRT versions whose documentation and headers the table was read from."""


@dataclass(frozen=True)
class DlaLayer:
    """One operator. ``precisions`` are those it runs in; ``ranges``: parameter -> (lowest, highest), inclusive.

    ``runs`` False: TensorRT gives it to the GPU; ``instead`` may then name a rewrite. ``since``: first TensorRT.
    """

    op: str
    runs: bool
    origin: Literal["documented", "observed", "recalled"]
    layer: str = ""
    precisions: tuple[str, ...] = ()
    since: str = "8.0"
    int8_since: str = ""
    """The first TensorRT it runs on in INT8, recalled, where that is a later one than ``since``."""
    until: str = ""
    """The last TensorRT the row holds for, where it is known to have changed; later ones: not known."""
    v1: bool = True
    """Also on NVDLA v1 (Xavier)."""
    limits: str = ""
    instead: str = ""
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)


@lru_cache(maxsize=1)
def dla_layers() -> Mapping[str, DlaLayer]:
    """The table by ONNX operator (default domain). An operator that is absent is not known to run."""
    return {
        op: DlaLayer(
            op=op,
            **{
                **row,
                "precisions": tuple(row.get("precisions", ())),
                "ranges": {name: (low, high) for name, (low, high) in row.get("ranges", {}).items()},
            },
        )
        for op, row in json.loads(TABLE.read_text(encoding="utf-8"))["layers"].items()
    }
