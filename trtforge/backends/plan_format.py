"""What the first bytes of a plan say, read in plain Python: no TensorRT, no GPU, nothing deserialized.

Two families of plans exist. TensorRT's starts with ``ftrt`` (or ``ptrt`` in old releases); what is known of it is
the four version bytes that NVIDIA's own trtexec prints. TensorRT-RTX's starts with ``vtrt`` and carries its size,
version, the GPUs it was built for and a section table; that layout is not documented, it was read off plans built
by 1.7 and is checked for consistency before it is believed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from trtforge.errors.engine import NotAPlan, PlanSizeMismatch, UnknownPlanLayout

HEADER_BYTES = 0x74
"""As many bytes from the start of a plan hold everything read here."""

RTX_LAYOUT = 2  # the u64 at offset 8 of every plan seen from TensorRT-RTX 1.7
_RTX_SMS = {0: "7.5", 1: "8.0", 2: "8.6", 3: "8.9", 4: "12.0", 5: "12.1"}
_RTX_AND_LATER = 6  # only set in a plan built without a list of GPUs, which NVIDIA says runs on "and later"
_LONGEST_PREFIX = 1 << 24  # a JSON prefix is recognised by the top byte of its length being zero
_OLD_SERIALIZATIONS = {0x2B, 0x57, 0x59, 0x60, 0x61}


@dataclass(frozen=True)
class PlanHeader:
    """Facts from a plan's first bytes.

    ``version``: "10.3.0.26", or "" where the layout is too old to hold a readable one. ``sms``: compute
    capabilities the plan was built for ("8.0"), None where the header does not say. ``and_later``: built for
    these GPUs and newer ones. ``declared_size``: bytes from the start of the plan to its end. ``offset``: where
    in the file the plan starts; not 0 when something was written in front of it.
    """

    kind: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    sms: tuple[str, ...] | None = None
    and_later: bool = False
    declared_size: int | None = None
    weights_bytes: int | None = None
    offset: int = 0

    @property
    def maker(self) -> str:
        """Who wrote it, for a person: "TensorRT-RTX 1.7.1.116"."""
        name = "TensorRT-RTX" if self.kind == "tensorrt_rtx" else "TensorRT"
        return f"{name} {self.version}" if self.version else f"{name}, older than 8.6"


def read_header(source: Path | bytes, size: int | None = None) -> PlanHeader:
    """Read the header of a plan.

    Args:
        source: a file, or the first bytes of one (``HEADER_BYTES`` are enough for a plan with nothing in front).
        size: size of the whole file in bytes; needed when only the first bytes are given.

    Raises:
        NotAPlan: neither family's magic is there.
        PlanSizeMismatch: the file ends before, or after, the plan does.
        UnknownPlanLayout: the magic is right and the fields behind it are not ones known here.
        OSError: the file cannot be read.
    """
    if isinstance(source, bytes):
        return _parse(_Start(source, len(source) if size is None else size, "the bytes given"))
    with source.open("rb") as stream:
        total = source.stat().st_size
        head = stream.read(HEADER_BYTES)
        offset = _prefix_length(head)
        if not offset:
            return _parse(_Start(head, total, str(source)))
        stream.seek(offset)
        return _parse(_Start(stream.read(HEADER_BYTES), total, str(source), offset))


def as_in_header(version: str) -> str:
    """A library version as the header's four bytes hold it: a part over 255 wraps."""
    return ".".join(str(int(part) % 256) for part in version.split(".")[:4])


@dataclass(frozen=True)
class _Start:
    """The first bytes of a plan that lies at ``offset`` in something of ``total`` bytes called ``where``."""

    head: bytes
    total: int
    where: str
    offset: int = 0

    def field(self, layout: str, offset: int) -> int:
        value: int = struct.unpack_from(layout, self.head, offset)[0]
        return value


def _parse(start: _Start) -> PlanHeader:
    offset = _prefix_length(start.head)
    if offset and not start.offset:
        start = _Start(start.head[offset:], start.total, start.where, offset)
    magic = start.head[:4]
    if magic == b"vtrt":
        return _parse_rtx(start)
    if magic in (b"ftrt", b"ptrt"):
        return _parse_tensorrt(start)
    raise NotAPlan(
        "the file is not an engine plan",
        where=start.where,
        why=_what_it_is(start),
        next="give the engine's folder in the store, or build it: trtforge build RECIPE",
    )


def _parse_tensorrt(start: _Start) -> PlanHeader:
    _need(start, 28)
    serialization = start.field("<I", 4)
    if start.head[:4] == b"ptrt" or serialization in _OLD_SERIALIZATIONS:
        return PlanHeader("tensorrt", "", offset=start.offset)
    if serialization != 0:
        raise UnknownPlanLayout(
            "this TensorRT plan has a header that is not known here",
            where=start.where,
            why=f"serialization version {serialization:#x}; 0 is the one whose version can be read",
            next="rebuild the engine with the TensorRT of the target, or report the TensorRT version that wrote it",
        )
    return PlanHeader("tensorrt", ".".join(str(byte) for byte in start.head[24:28]), offset=start.offset)


def _parse_rtx(start: _Start) -> PlanHeader:
    _need(start, HEADER_BYTES)
    layout, declared = start.field("<Q", 0x08), start.field("<Q", 0x10)
    if layout != RTX_LAYOUT or start.head[0x1C:0x20] != b"vtrt":
        raise _unknown_rtx(start, f"layout number {layout}; {RTX_LAYOUT} is the one known")
    if declared != start.total - start.offset:
        raise PlanSizeMismatch(
            "the plan's header and the file disagree about its size",
            where=start.where,
            why=f"the header declares {declared} bytes, the file holds {start.total - start.offset}",
            next="copy the file again, or rebuild it: trtforge build RECIPE",
        )
    for entry in (0x40, 0x58):
        begin, length = start.field("<Q", entry + 8), start.field("<Q", entry + 16)
        if begin < 0x70 or begin + length > declared:
            raise _unknown_rtx(start, f"a section lies outside the plan: {length} bytes at {begin} of {declared}")
    mask = start.field("<Q", 0x20)
    if mask >> (_RTX_AND_LATER + 1):
        raise _unknown_rtx(start, f"it names GPUs by a mask with unknown bits, {mask:#x}")
    return PlanHeader(
        "tensorrt_rtx",
        ".".join(str(byte) for byte in start.head[0x18:0x1C]),
        sms=tuple(sm for bit, sm in _RTX_SMS.items() if mask >> bit & 1),
        and_later=bool(mask >> _RTX_AND_LATER & 1),
        declared_size=declared,
        weights_bytes=start.field("<Q", 0x38),
        offset=start.offset,
    )


def _prefix_length(head: bytes) -> int:
    """Bytes in front of a plan that has a length and JSON before it (as Ultralytics writes it); 0 for none."""
    if len(head) < 5 or head[4:5] != b"{":
        return 0
    length = int(struct.unpack_from("<I", head)[0])
    return 4 + length if 2 <= length < _LONGEST_PREFIX else 0


def _need(start: _Start, count: int) -> None:
    if len(start.head) < count:
        raise PlanSizeMismatch(
            "the file ends inside the plan's header",
            where=start.where,
            why=f"{len(start.head)} bytes of it are there, the header takes {count}",
            next="copy the file again, or rebuild it: trtforge build RECIPE",
        )


def _unknown_rtx(start: _Start, why: str) -> UnknownPlanLayout:
    return UnknownPlanLayout(
        "this TensorRT-RTX plan has a header that is not known here",
        where=start.where,
        why=why,
        next="rebuild it with the TensorRT-RTX this trtforge supports: pip install 'trtforge[rtx]'",
    )


def _what_it_is(start: _Start) -> str:
    if not start.total:
        return "it is empty"
    if start.offset:
        return f"it starts with {start.offset} bytes of JSON, and no plan follows them"
    if start.head[:1] == b"\x08" and b"onnx" in start.head[:HEADER_BYTES].lower():
        return "it looks like an ONNX model"
    return f"its first bytes are {start.head[:4].hex(' ')}; a plan starts with ftrt, ptrt or vtrt"
