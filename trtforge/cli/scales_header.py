"""The first line of a calibration cache: the TensorRT and the calibrator that are to read it, and how they are known.

TensorRT drops a cache whose first line names another of either, with no more than a line in its log.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from trtforge.cli.ui import Ui

if TYPE_CHECKING:
    from trtforge.scales.codecs.trt_cache import Algorithm
    from trtforge.targets.model import Target

FALLBACK = "8.6.2"
"""Of JetPack 6.0, the last TensorRT 8; where nothing says which it is to be."""

READERS = {
    "EntropyCalibration2": "an IInt8EntropyCalibrator2 reads it: trtexec's, a DLA's, and Polygraphy's by default",
    "MinMaxCalibration": "an IInt8MinMaxCalibrator reads it, and neither trtexec nor a DLA",
    "EntropyCalibration": "an IInt8EntropyCalibrator reads it, and neither trtexec nor a DLA",
    "LegacyCalibration": "an IInt8LegacyCalibrator reads it, and neither trtexec nor a DLA",
}


@dataclass(frozen=True)
class Header:
    """``doubt``: what is not known about the release; empty where it was said. ``guess``: nothing speaks for it."""

    release: str
    algorithm: Algorithm
    doubt: str = ""
    guess: bool = False

    def tell(self, ui: Ui) -> None:
        ui.say(f"  {READERS[self.algorithm]}")
        if self.guess:
            ui.warn(f"the first line says TensorRT {self.release}, {self.doubt}; another TensorRT drops the cache")
        elif self.doubt:
            ui.say(f"  TensorRT {self.release} is {self.doubt}")

    def to_json(self) -> dict[str, Any]:
        return {"tensorrt": self.release, "algorithm": self.algorithm, "guessed": self.guess}


def header(
    target: Target | None, tensorrt: str | None, algorithm: Algorithm | None, notes: Mapping[str, Any]
) -> Header:
    """The header that is asked for, that the device needs, or that the scales had when they were a cache.

    Else it is that of the calibrator that reads on every device. ``notes``: of the table. Raises
    TensorRTCacheUnsupported.
    """
    from trtforge.scales.codecs.trt_cache import header_version

    before = _before(notes)
    release, doubt, guess = _release(target, tensorrt, before)
    header_version(release)  # said now, before the work, when it is no version
    dla = target is not None and target.is_dla
    _check(target, release, algorithm)
    fallback: Algorithm = "EntropyCalibration2"
    return Header(release, algorithm or (fallback if dla or before is None else before[1]), doubt, guess)


def _before(notes: Mapping[str, Any]) -> tuple[str, Algorithm] | None:
    """Release and calibrator of the cache that the scales come from."""
    from trtforge.scales.codecs.trt_cache import ALGORITHMS, NOTE
    from trtforge.scales.identity import shown_version

    note = notes.get(NOTE)
    if not isinstance(note, dict) or not isinstance(version := note.get("version"), int):
        return None
    algorithm = next((known for known in ALGORITHMS if known == note.get("algorithm")), None)
    return None if algorithm is None else (shown_version(version), algorithm)


def _release(
    target: Target | None, tensorrt: str | None, before: tuple[str, Algorithm] | None
) -> tuple[str, str, bool]:
    """The release, the doubt about it, and whether it is a guess. Raises TensorRTCacheUnsupported."""
    from packaging.specifiers import InvalidSpecifier

    from trtforge.targets.load import device_release, dla_support, releases

    known = releases(target) if target is not None else []
    if tensorrt is not None:
        release = tensorrt
        if target is not None:
            with suppress(InvalidSpecifier):  # `header_version` says that it is none
                release = device_release(target, tensorrt) or tensorrt
        short = release.count(".") == 1
        return release, "with 0 for the patch, which --tensorrt leaves out" if short else "", short
    if target is not None and known:
        fit = [release for release in known if int(release.split(".")[0]) < 11]
        usable = [release for release in fit if not target.is_dla or dla_support(target.key, release)[0]]
        more = f"the newest for {target.key} that reads caches; --tensorrt names another"
        return (usable or [FALLBACK])[0], more if len(usable) != 1 else "", False
    if before is not None:
        return before[0], "", False
    return FALLBACK, "which is a guess: --tensorrt says which, or --target for a Jetson", True


def _check(target: Target | None, release: str, algorithm: Algorithm | None) -> None:
    """What a DLA does not take. Raises TensorRTCacheUnsupported."""
    from trtforge.errors.calibration import TensorRTCacheUnsupported
    from trtforge.targets.load import dla_support

    if target is None or not target.is_dla:
        return
    supported, why = dla_support(target.key, release)
    if not supported and int(release.split(".", maxsplit=1)[0]) < 11:
        raise TensorRTCacheUnsupported(
            f"no engine for {target.key} can be built with TensorRT {release}",
            why=why,
            next=f"leave --tensorrt out, or see `trtforge targets {target.key}`",
        )
    if algorithm not in (None, "EntropyCalibration2"):
        raise TensorRTCacheUnsupported(
            f"a DLA takes no cache of {algorithm}",
            where="--algorithm",
            why="TensorRT builds INT8 for a DLA with its EntropyCalibration2 calibrator only",
            next="leave --algorithm out: the scales are the same under either name",
        )
