"""An ONNX model in memory: the graph as a protobuf, its big weights left where they are on disk.

Everything that edits a model works on this *skeleton*: weights stored as external data are never read, so a
model over 2 GB costs as much memory as its graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import onnx


@dataclass(frozen=True)
class Digests:
    """Identity of a model: ``graph`` covers structure and inline weights, ``weights`` the external data files."""

    graph: str
    weights: str


@dataclass
class Model:
    """A model and the folder its external data is relative to (None when every weight is inline)."""

    proto: onnx.ModelProto
    folder: Path | None = None
