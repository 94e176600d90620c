"""TensorRT's INT8 calibration cache: text, one scale a line, read strictly and written bit for bit.

    TRT-8201-MinMaxCalibration
    input: 3caa46e8

The number is the version of the TensorRT that wrote it, the hex the big-endian bits of the float32 scale amax / 127.
TensorRT ignores a cache whose first line is not its own version and calibrator, and then wants to calibrate; a kit for
a device therefore writes the header of the device's TensorRT.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from trtforge.errors.calibration import TensorRTCacheInvalid, TensorRTCacheUnsupported
from trtforge.files import write_bytes
from trtforge.scales.table import ScaleTable, TensorRange

Algorithm = Literal["MinMaxCalibration", "EntropyCalibration2", "EntropyCalibration", "LegacyCalibration"]
ALGORITHMS: tuple[Algorithm, ...] = get_args(Algorithm)
"""The calibrators of TensorRT 7 to 10. DLA only takes a cache that says EntropyCalibration2."""

NOTE = "tensorrt_cache"
"""Key of the note that keeps version and algorithm of a cache in a ScaleTable."""

_HEADER = re.compile(r"TRT-(\d{1,9})-(\w+)", re.ASCII)
_HEX = re.compile(r"[0-9A-Fa-f]{8}")
_VERSION = re.compile(r"(\d+)\.(\d+)(?:\.(\d+))?(?:\.\d+)*")


@dataclass(frozen=True)
class CalibrationCache:
    """``scales``: tensor name -> amax / 127, in the order of the file."""

    version: int
    algorithm: Algorithm
    scales: Mapping[str, np.float32]

    @classmethod
    def from_table(
        cls, table: ScaleTable, *, tensorrt: str, algorithm: Algorithm = "MinMaxCalibration"
    ) -> CalibrationCache:
        """The cache a TensorRT of version ``tensorrt`` ("8.6.2", "10.3.0.26") takes. Zero ranges get scale 1.

        Raises TensorRTCacheUnsupported.
        """
        if algorithm not in ALGORITHMS:
            raise TensorRTCacheUnsupported(
                f"TensorRT has no calibrator {algorithm!r}",
                why=f"it has {', '.join(ALGORITHMS)}",
                next="use MinMaxCalibration on a GPU, EntropyCalibration2 on DLA",
            )
        scales = {name: seen.scale or seen.usable_scale for name, seen in table.ranges.items()}
        return cls(header_version(tensorrt), algorithm, scales)

    def to_table(self) -> ScaleTable:
        """Ranges whose scales are these, bit for bit; no receipt, since a cache does not say what it was made from."""
        ranges = {name: TensorRange.from_scale(scale) for name, scale in self.scales.items()}
        return ScaleTable(ranges, notes={NOTE: {"version": self.version, "algorithm": self.algorithm}})

    def to_bytes(self) -> bytes:
        """The file. Raises TensorRTCacheUnsupported for a name that cannot stand on a line."""
        lines = [f"TRT-{self.version}-{self.algorithm}"]
        for name, scale in self.scales.items():
            if not name or "\n" in name or "\r" in name:
                raise TensorRTCacheUnsupported(
                    f"the tensor name {name!r} cannot be written to a TensorRT cache",
                    why="a name must be a piece of one line",
                    next="rename the tensor in the ONNX model, or use Q/DQ",
                )
            lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
        return ("\n".join(lines) + "\n").encode()

    @classmethod
    def from_bytes(cls, data: bytes, *, where: str = "cache") -> CalibrationCache:
        """Read a cache; lines may end with CR LF. Raises TensorRTCacheInvalid with line number and line."""
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise _invalid(where, data[:32], f"byte {error.start} is not UTF-8 text") from error
        lines = [line.removesuffix("\r") for line in text.split("\n")]
        version, algorithm = _header(lines[0], f"{where}:1")
        scales: dict[str, np.float32] = {}
        for number, line in enumerate(lines[1:], start=2):
            if line == "" and number == len(lines):
                continue  # what follows the last line break
            name, scale = _entry(line, f"{where}:{number}")
            if name in scales:
                raise _invalid(f"{where}:{number}", line, f"the tensor {name!r} was already given")
            scales[name] = scale
        return cls(version, algorithm, scales)

    def save(self, path: Path) -> None:
        """Write the file whole or not at all. Raises OSError, TensorRTCacheUnsupported."""
        write_bytes(path, self.to_bytes())

    @classmethod
    def load(cls, path: Path) -> CalibrationCache:
        """Raises TensorRTCacheInvalid, also when the file cannot be read."""
        try:
            data = path.read_bytes()
        except OSError as error:
            raise TensorRTCacheInvalid(
                "the TensorRT calibration cache cannot be opened",
                where=str(path),
                why=error.strerror or str(error),
                next=f"check the path: `ls -l {path.parent}`",
            ) from error
        return cls.from_bytes(data, where=str(path))


def header_version(tensorrt: str) -> int:
    """The integer in a cache's header: 8602 for "8.6.2", 100300 for "10.3.0"; a build number is ignored.

    This is the library's own version number: major * 1000 + minor * 100 + patch before TensorRT 10, and
    major * 10000 + minor * 100 + patch since. A missing patch counts as 0. Raises TensorRTCacheUnsupported.
    """
    match = _VERSION.fullmatch(tensorrt)
    if match is None:
        raise TensorRTCacheUnsupported(
            f"{tensorrt!r} is not a TensorRT version", next='write it as major.minor.patch, like "8.6.2"'
        )
    major, minor, patch = (int(part or 0) for part in match.groups())
    if major >= 11:
        raise TensorRTCacheUnsupported(
            f"TensorRT {tensorrt} reads no calibration cache",
            why="version 11 removed the INT8 calibrators; ranges are given as Q/DQ nodes",
            next="name the release of the device, 10 or older; for TensorRT 11 `trtforge scales convert` with "
            "`--to qdq --model MODEL` writes the same scales as Q/DQ nodes; a kit of `trtforge build` has them too",
        )
    return major * (10000 if major >= 10 else 1000) + minor * 100 + patch


def _header(line: str, where: str) -> tuple[int, Algorithm]:
    match = _HEADER.fullmatch(line)
    if match is None:
        raise _invalid(where, line, "the first line must be `TRT-<version>-<algorithm>`")
    for algorithm in ALGORITHMS:
        if match[2] == algorithm:
            return int(match[1]), algorithm
    raise _invalid(where, line, f"the algorithm {match[2]!r} is none of {', '.join(ALGORITHMS)}")


def _entry(line: str, where: str) -> tuple[str, np.float32]:
    # Tensor names may hold colons ("input:0"): the last one separates.
    name, separator, value = line.rpartition(": ")
    if not separator or not name:
        raise _invalid(where, line, "it must be `<tensor>: <8 hex digits>`")
    if _HEX.fullmatch(value) is None:
        raise _invalid(where, line, f"{value!r} is not 8 hex digits")
    (scale,) = struct.unpack(">f", bytes.fromhex(value))
    if not math.isfinite(scale) or scale <= 0:
        raise _invalid(where, line, f"the scale is {scale}; it must be a positive number")
    return name, np.float32(scale)


def _invalid(where: str, line: str | bytes, why: str) -> TensorRTCacheInvalid:
    shown = line if len(line) <= 120 else line[:120]
    return TensorRTCacheInvalid(
        f"not a line of a TensorRT calibration cache: {shown!r}",
        where=where,
        why=why,
        next="write the cache again: `trtforge scales convert SCALES OUT --to trt-cache --tensorrt VERSION`",
    )
