"""One scan to be segmented, and what came of it: data, apart from the code that does it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trtforge.errors.volume import OutputUnsupported
from trtforge.evaluate.dice import mean
from trtforge.files import check_place
from trtforge.runtime.windows.loop import Where
from trtforge.volumes.write import check_writable

AGAINST = ("truth", "FP32")
"""What labels are compared with: people's, the FP32 model's."""


@dataclass(frozen=True)
class Request:
    """A scan, its truth if there is one, and where results go; what is None is not made."""

    scan: Path
    name: str
    truth: Path | None = None
    labels: Path | None = None
    probabilities: Path | None = None
    picture: Path | None = None
    page: Path | None = None

    def outputs(self) -> dict[str, Path]:
        places = {name: getattr(self, name) for name in ("labels", "probabilities", "picture", "page")}
        return {name: path for name, path in places.items() if path is not None}

    def check(self) -> None:
        """Can every result be written? Raises VOL301, ENV101, ENV102, OSError."""
        for path in (self.labels, self.probabilities):
            if path is not None:
                check_writable(path)
        for path, suffix in ((self.picture, ".png"), (self.page, ".html")):
            if path is None:
                continue
            if path.suffix.lower() != suffix:
                raise OutputUnsupported(
                    f"`{path.name}` is of a kind that is not written",
                    where=str(path),
                    why=f"this is a {suffix} file",
                    next=f"name it {path.with_suffix(suffix).name}",
                )
            check_place(path)


@dataclass(frozen=True)
class CaseResult:
    """What a scan gave. ``dice``: "truth", "FP32" -> class -> Dice, on the scan's grid.

    ``seconds``: in the loop, of which ``engine_seconds`` in the engine; ``whole_seconds``: reading and writing too.
    ``digest``: sha256 of the scan, None where it was not taken.
    """

    name: str
    scan: Path
    shape: tuple[int, ...]
    grid: tuple[int, ...]
    windows: int
    loop: Where
    seconds: float
    engine_seconds: float
    whole_seconds: float
    memory: Mapping[str, int]
    millilitres: Mapping[str, float]
    dice: Mapping[str, Mapping[str, float]]
    outputs: Mapping[str, Path]
    warnings: tuple[str, ...] = ()
    digest: Any = None
    reused: bool = field(default=False, compare=False)

    @property
    def composite(self) -> dict[str, float]:
        """MLPerf's score of a case: the mean of Dice over the classes."""
        return {against: mean(list(scores.values())) for against, scores in self.dice.items()}

    def to_json(self) -> dict[str, Any]:
        return {
            "case": self.name,
            "scan": str(self.scan),
            "sha256": self.digest,
            "shape": list(self.shape),
            "grid": list(self.grid),
            "windows": self.windows,
            "loop": self.loop,
            "seconds": round(self.seconds, 3),
            "engine_seconds": round(self.engine_seconds, 3),
            "whole_seconds": round(self.whole_seconds, 3),
            "memory": dict(self.memory),
            "classes": list(self.millilitres),
            "millilitres": dict(self.millilitres),
            "dice": {against: dict(scores) for against, scores in self.dice.items()},
            "composite": self.composite,
            "outputs": {name: str(path) for name, path in self.outputs.items()},
            "warnings": list(self.warnings),
            "reused": self.reused,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> CaseResult:
        """A result written earlier; the file's keys are sorted, so classes are put in order by the amounts' list.

        Raises KeyError, TypeError, ValueError.
        """
        names = value["classes"]
        plain = {key: value[key] for key in ("windows", "loop", "seconds", "engine_seconds", "whole_seconds", "memory")}
        return cls(
            name=value["case"],
            scan=Path(value["scan"]),
            shape=tuple(value["shape"]),
            grid=tuple(value["grid"]),
            millilitres={name: value["millilitres"][name] for name in names},
            dice={
                against: {name: value["dice"][against][name] for name in names}
                for against in AGAINST
                if against in value["dice"]
            },
            outputs={name: Path(path) for name, path in value["outputs"].items()},
            warnings=tuple(value["warnings"]),
            digest=value["sha256"],
            reused=True,
            **plain,
        )
