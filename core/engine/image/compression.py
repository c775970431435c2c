"""Layers and archives as plain bytes: gzip, zstd, bzip2 and xz are recognised by their first bytes."""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from typing import BinaryIO, Protocol, cast

import zstandard

CHUNK = 256 * 1024


class Readable(Protocol):
    """The one method that streams need here."""

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; empty at the end only."""
        ...


class _Gzip(io.RawIOBase):
    """Gunzip of a stream of any number of members (pigz and eStargz write many), with large reads.

    `gzip.GzipFile` does the same with 8 KiB reads and a second checksum pass.
    """

    def __init__(self, source: Readable) -> None:
        self._source = source
        self._member = zlib.decompressobj(31)
        self._input = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        while True:
            if self._member.eof:
                self._input = self._input.lstrip(b"\0")  # zero padding between and after members is customary
            if not self._input:
                self._input = self._source.read(CHUNK)
                if not self._input:
                    if self._member.eof:
                        return 0
                    raise zlib.error("the gzip stream ends too early")
                continue
            if self._member.eof:
                self._member = zlib.decompressobj(31)
            data = self._member.decompress(self._input, len(buffer))
            self._input = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if data:
                buffer[: len(data)] = data
                return len(data)


def decompressed(source: Readable) -> BinaryIO:
    """The plain bytes of `source`; data that is not compressed passes unchanged.

    Reading raises one of `DECOMPRESSION_ERRORS` when the data is damaged.
    """
    peekable = io.BufferedReader(_Raw(source), CHUNK)
    magic = peekable.peek(6)[:6]
    if magic.startswith(b"\x1f\x8b"):
        return cast(BinaryIO, io.BufferedReader(_Gzip(peekable), CHUNK))
    if magic.startswith(b"\x28\xb5\x2f\xfd") or (magic[1:4] == b"\x2a\x4d\x18" and 0x50 <= magic[0] <= 0x5F):
        reader = zstandard.ZstdDecompressor().stream_reader(cast(BinaryIO, peekable), CHUNK, read_across_frames=True)
        return cast(BinaryIO, reader)
    if magic.startswith(b"BZh"):
        return cast(BinaryIO, bz2.BZ2File(peekable))
    if magic.startswith(b"\xfd7zXZ\0"):
        return cast(BinaryIO, lzma.LZMAFile(peekable))
    return cast(BinaryIO, peekable)


DECOMPRESSION_ERRORS = (zlib.error, zstandard.ZstdError, lzma.LZMAError, EOFError)
"""What `decompressed` streams raise for damaged data (bz2 raises OSError without an errno)."""


class _Raw(io.RawIOBase):
    """Any object with read() as a raw stream."""

    def __init__(self, source: Readable) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)
