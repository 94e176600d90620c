"""One zstd frame as a stream: written so that equal content gives equal bytes, read within bounds.

Python 3.14 has zstd in its standard library; before that, `backports.zstd` is the same module.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

if sys.version_info >= (3, 14):
    from compression.zstd import (
        CompressionParameter,
        DecompressionParameter,
        ZstdCompressor,
        ZstdDecompressor,
        ZstdError,
    )
else:
    from backports.zstd import CompressionParameter, DecompressionParameter, ZstdCompressor, ZstdDecompressor, ZstdError

MAGIC = b"\x28\xb5\x2f\xfd"
LEVEL = 6  # weights hardly get smaller at a higher one
WINDOW_LOG = 27
"""128 MiB: what a reader holds at most, and as far back as a writer finds a repetition. A kit has its weights up to
three times, in graphs of different form. It is the largest window that `zstd -d` and `tar -xf` take unasked."""

CHUNK = 1 << 18


__all__ = ["MAGIC", "Reader", "TooMuch", "Writer", "ZstdError", "writing"]


class TooMuch(ValueError):
    """A frame holds more than its reader allows."""


class Writer:
    """A file to write to; what is written goes compressed into ``stream``. One thread: more give other bytes."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        """``size``: about how many bytes will be written; decides how much memory a reader needs."""
        self._stream = stream
        self._zstd = ZstdCompressor(
            options={
                CompressionParameter.compression_level: LEVEL,
                CompressionParameter.window_log: min(WINDOW_LOG, max(20, size.bit_length())),
                CompressionParameter.enable_long_distance_matching: 1,
                CompressionParameter.checksum_flag: 1,
            }
        )
        self._written = 0

    def write(self, data: bytes) -> int:
        self._stream.write(self._zstd.compress(data))
        self._written += len(data)
        return len(data)

    def tell(self) -> int:
        return self._written

    def finish(self) -> None:
        self._stream.write(self._zstd.flush(ZstdCompressor.FLUSH_FRAME))


@contextmanager
def writing(stream: BinaryIO, size: int) -> Iterator[Writer]:
    """A :class:`Writer` whose frame is complete when the block ends without an error."""
    writer = Writer(stream, size)
    yield writer
    writer.finish()


class Reader:
    """Reads what one frame holds, and refuses to hold more than is allowed at a time (`allow`; nothing at first).

    Takes a window of 128 MiB and a chunk of memory, whatever the frame says. Raises ZstdError for what is no frame or
    is damaged, EOFError for one that is cut off, TooMuch.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._zstd = ZstdDecompressor(options={DecompressionParameter.window_log_max: WINDOW_LOG})
        self._left = 0

    def allow(self, size: int) -> None:
        """At most so many bytes may be read from here on."""
        self._left = size

    def read(self, size: int) -> bytes:
        """As many bytes as asked for, fewer only at the end of the frame."""
        pieces: list[bytes] = []
        while size > 0 and not self._zstd.eof:
            piece = self._zstd.decompress(self._input(), size)
            if len(piece) > self._left:
                raise TooMuch("it holds more than it lists")
            self._left -= len(piece)
            pieces.append(piece)
            size -= len(piece)
        return b"".join(pieces)

    def rest(self) -> bool:
        """Is there anything behind the frame?"""
        return bool(self._zstd.unused_data) or bool(self._stream.read(1))

    def _input(self) -> bytes:
        if not self._zstd.needs_input:
            return b""
        if not (data := self._stream.read(CHUNK)):
            raise EOFError("it is cut off")
        return data
