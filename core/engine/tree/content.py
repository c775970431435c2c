"""What a file's own attribute says of its content: where it is, and which object it is of.

The attribute goes with the inode through every rename, and is changed in one step. It is the truth for hydration: a file
that is marked and has no readable attribute is never shown. Files that were made locally have none.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

ATTRIBUTE = "trusted.engine.content"
"""Only the host's administrator can read or change it (xattr(7))."""
CHUNK = 8 << 20
"""Bytes of one request to the store."""
_MAX_BITS = 4096  # of the record of chunks: 1 KiB in hex; ext4 has 4 KiB for all attributes of a file
_VERSION = 1

Where = Literal["remote", "filled", "local"]
"""`remote`: some of the content is only in the store. `filled`: all of it is here, perhaps not on the disk yet: it counts
until the machine ends. `local`: all of it is on the disk."""


class UnknownContent(Exception):  # noqa: N818  # what is unknown is the content
    """A file has no attribute, or one that nobody can understand."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content. Sizes in bytes, times in nanoseconds since the epoch."""

    where: Where
    key: str
    """The object's."""
    etag: str
    """Of the version that the content is or will be; empty where the store has none."""
    object_size: int
    size: int
    """Of the local file, where that was cut or made longer before the content was fetched."""
    mtime: int
    inode: int
    """The file's own number. Another one: the attribute was copied from another file."""
    boot: str = ""
    """The kernel's run in which `chunks` and `filled` were true: what was only in memory ends with it."""
    begun: bool = False
    """Content was written since: the file's times are not its own, `mtime` is."""
    chunks: bytes = b""
    """A bit for each group of chunks that is here."""

    def encode(self) -> bytes:
        """Return the attribute's value: JSON."""
        fields = {
            "v": _VERSION, "where": self.where, "key": self.key, "etag": self.etag, "object": self.object_size,
            "size": self.size, "mtime": self.mtime, "inode": self.inode, "boot": self.boot, "begun": self.begun,
            "chunks": self.chunks.hex(),
        }  # fmt: skip
        return json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()

    @classmethod
    def decode(cls, data: bytes) -> Content:
        """Read the attribute's value. Raises UnknownContent."""
        try:
            fields = json.loads(data)
            if fields["v"] != _VERSION or fields["where"] not in ("remote", "filled", "local"):
                raise UnknownContent(f"version {fields['v']}, {fields['where']!r}")
            return cls(
                where=fields["where"], key=str(fields["key"]), etag=str(fields["etag"]),
                object_size=int(fields["object"]), size=int(fields["size"]), mtime=int(fields["mtime"]),
                inode=int(fields["inode"]), boot=str(fields["boot"]), begun=bool(fields["begun"]),
                chunks=bytes.fromhex(fields["chunks"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as err:
            raise UnknownContent(f"its attribute {ATTRIBUTE} cannot be read: {err}") from err

    @property
    def extent(self) -> int:
        """How many bytes of the object the file shows."""
        return min(self.size, self.object_size)

    @property
    def present(self) -> bool:
        """All of the content can be read."""
        return self.where == "local" or (self.where == "filled" and self.boot == boot_id())

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges (start, end) that are to be fetched, of at most `CHUNK` bytes."""
        have = self.chunks if self.boot == boot_id() else b""
        ranges = [(start, min(start + CHUNK, self.extent)) for start in range(0, self.extent, CHUNK)]
        return [r for r in ranges if not _bit(have, r[0] // (CHUNK * self._group))]

    def with_ranges(self, starts: set[int]) -> Content:
        """Return the content when the ranges that begin at `starts` are here: all that were and are."""
        step = CHUNK * self._group
        bits = bytearray(-(-self.extent // step) // 8 + 1)
        for begin in range(0, self.extent, step):
            if all(s in starts for s in range(begin, min(begin + step, self.extent), CHUNK)):
                bits[begin // step // 8] |= 1 << begin // step % 8
        return replace(self, chunks=bytes(bits), boot=boot_id())

    @property
    def _group(self) -> int:
        """How many chunks have one bit."""
        return -(-self.extent // (CHUNK * _MAX_BITS)) or 1


def _bit(bits: bytes, number: int) -> bool:
    return number // 8 < len(bits) and bool(bits[number // 8] >> number % 8 & 1)


def read(file: int | str) -> Content | None:
    """Return what the attribute of a file says, None if it has none. Raises UnknownContent, OSError."""
    try:
        return Content.decode(os.getxattr(file, ATTRIBUTE, follow_symlinks=isinstance(file, int)))
    except OSError as err:
        if err.errno == errno.ENODATA:
            return None
        raise


def write(fd: int, content: Content) -> None:
    """Set a file's attribute."""
    os.setxattr(fd, ATTRIBUTE, content.encode())


@functools.cache
def boot_id() -> str:
    """Return what names this run of the kernel (random(4))."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
