"""Do these scales belong to this model, this TensorRT, this calibrator? Asked before TensorRT would answer silently.

TensorRT drops a cache with another header without an error, and ignores names that the network does not have.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from trtforge.errors.scales import CacheOfAnotherCalibrator, CacheOfAnotherVersion, ScalesNotOfModel
from trtforge.graph.index import Index
from trtforge.graph.model import Model
from trtforge.scales.codecs.trt_cache import CalibrationCache, header_version

ENOUGH = 0.5
"""The share of a table's names that a model must have. Two networks share `input` or `/conv1/Conv_output_0` by chance;
one network after surgery still has most of its names."""

UNNAMED = "(Unnamed Layer*"
"""How TensorRT calls what it adds to a network itself. No model has these names."""


@dataclass(frozen=True)
class Match:
    """Names of a table against those of a model. ``internal``: TensorRT's own, which count neither way."""

    known: tuple[str, ...]
    unknown: tuple[str, ...]
    internal: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the names that count, those the model has; 0 when none counts."""
        total = len(self.known) + len(self.unknown)
        return len(self.known) / total if total else 0.0

    def findings(self) -> list[str]:
        """What to tell about scales that are taken although not all names fit."""
        told = []
        if self.unknown:
            shown = ", ".join(self.unknown[:5]) + (", ..." if len(self.unknown) > 5 else "")
            total = len(self.known) + len(self.unknown)
            told.append(f"{len(self.unknown)} of {total} scales name no tensor of the model and are not used: {shown}")
        if self.internal:
            told.append(
                f"{len(self.internal)} scales are of tensors that TensorRT added itself ({UNNAMED} N)); "
                "another TensorRT may number them otherwise"
            )
        return told


@dataclass(frozen=True)
class CheckedCache:
    """A cache that fits. ``findings``: what is worth telling nevertheless, one sentence each."""

    cache: CalibrationCache
    match: Match
    findings: tuple[str, ...]


def match(names: Iterable[str], model: Model) -> Match:
    """Which of the names are tensors of the model's graph (its subgraphs not counted)."""
    present = Index(model.proto.graph).names()
    known, unknown, internal = list[str](), list[str](), list[str]()
    for name in names:
        (known if name in present else internal if name.startswith(UNNAMED) else unknown).append(name)
    return Match(tuple(known), tuple(unknown), tuple(internal))


def check_names(names: Iterable[str], model: Model, *, where: str = "") -> Match:
    """The match, when at least half of the names fit. Raises ScalesNotOfModel. ``where``: the file of the scales."""
    found = match(names, model)
    if found.share < ENOUGH:
        total = len(found.known) + len(found.unknown)
        stranger = found.unknown[0] if found.unknown else next(iter(found.internal), "")
        raise ScalesNotOfModel(
            f"the scales are not of this model: it has {len(found.known)} of their {total} tensors",
            where=where,
            why=f"the model has no {stranger!r}; at least {ENOUGH:.0%} of the names must be its own"
            if stranger
            else "they name no tensor at all",
            next="use the model that was calibrated, or calibrate this one: `trtforge calibrate RECIPE`",
        )
    return found


def cache_for(
    model: Model, data: bytes, *, tensorrt: str | None = None, algorithm: str | None = None, where: str = "cache"
) -> CheckedCache:
    """Read a calibration cache and make sure that it is one for this use.

    Args:
        model: the plain graph that the engine is built from.
        data: the cache file.
        tensorrt: the TensorRT that will read it; one without a patch ("8.6") accepts every patch. None: not checked.
        algorithm: the calibrator that will ask, as in a header ("MinMaxCalibration"). None: not checked.
        where: the file, for messages.

    Raises:
        TensorRTCacheInvalid: a line is not one of a cache; the message has its number.
        CacheOfAnotherVersion, CacheOfAnotherCalibrator, ScalesNotOfModel: it is for something else.
        TensorRTCacheUnsupported: ``tensorrt`` is no version, or one that reads no cache.
    """
    cache = CalibrationCache.from_bytes(data, where=where)
    if tensorrt is not None:
        _check_version(cache, tensorrt, algorithm, where)
    if algorithm is not None and cache.algorithm != algorithm:
        raise CacheOfAnotherCalibrator(
            f"the cache is of {cache.algorithm}, and {algorithm} is to read it",
            where=f"{where}:1",
            why="TensorRT drops a cache that names another calibrator, and calibrates from the beginning",
            next=_rewrite(cache, tensorrt, algorithm, where),
        )
    found = check_names(cache.scales, model, where=where)
    return CheckedCache(cache, found, tuple(found.findings()))


def _check_version(cache: CalibrationCache, tensorrt: str, algorithm: str | None, where: str) -> None:
    wanted = header_version(tensorrt)
    parts = tensorrt.count(".") + 1
    # Without a patch, only major and minor are said: the patch is the last two digits of the number.
    same = cache.version == wanted if parts > 2 else cache.version // 100 == wanted // 100
    if not same:
        raise CacheOfAnotherVersion(
            f"the cache is of TensorRT {shown_version(cache.version)}, and TensorRT {tensorrt} is to read it",
            where=f"{where}:1",
            why=f"its first line has {cache.version} where this TensorRT wants {wanted}; TensorRT then drops the cache",
            next=_rewrite(cache, tensorrt, algorithm, where),
        )


def _rewrite(cache: CalibrationCache, tensorrt: str | None, algorithm: str | None, where: str) -> str:
    version = tensorrt or shown_version(cache.version)
    return (
        f"the same scales under another first line: `trtforge scales convert {where} NEW.cache --to trt-cache "
        f"--tensorrt {version} --algorithm {algorithm or cache.algorithm}`"
    )


def shown_version(number: int) -> str:
    """8602 -> "8.6.2", 100300 -> "10.3.0": the version behind the number in a header."""
    major_part = 10000 if number >= 100000 else 1000
    return f"{number // major_part}.{number % major_part // 100}.{number % 100}"
