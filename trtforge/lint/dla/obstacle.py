"""What keeps a layer off the DLA, as data: a clause, how it is known, and for which TensorRT."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Literal

from trtforge.targets.dla_layers import READ_FOR

Origin = Literal["documented", "observed", "recalled"]
Kind = Literal["unavailable", "plugin", "operator", "volume", "parameter", "limit"]


@dataclass(frozen=True)
class Obstacle:
    """``why``: a clause, no full stop. ``origin``: read in NVIDIA's documentation, seen in a build log, or from memory.

    ``versions``: the TensorRT versions that this was read for. ``fix``: what to change, where something is known.
    ``certain`` False: the layer is placed on the DLA all the same, and TensorRT may decide otherwise.
    """

    kind: Kind
    why: str
    origin: Origin = "documented"
    versions: str = READ_FOR
    fix: str = ""
    certain: bool = True

    @property
    def sentence(self) -> str:
        """With its provenance: `the DLA does not run TopK (documented, TensorRT 8.2 to 10.3)`."""
        return f"{self.why} ({self.origin}, TensorRT {self.versions})"

    def to_json(self) -> dict[str, object]:
        return asdict(self)
