"""What a file's own attribute says of its content: where it is, and which object it is of.

The attribute goes with the inode through every rename, and is changed in one step. It is the truth for hydration: a
file that is marked and has no readable attribute is never shown. Files that were made locally have none.
"""

from __future__ import annotations

import errno
import functools
import json
import os
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

ATTRIBUTE = "trusted.engine.content"
"""Only the host's administrator can read or change it (xattr(7))."""
CHUNK = 8 << 20
"""Bytes of one request to the store."""
_MAX_BITS = 4096  # of the record of chunks: 1 KiB in hex; ext4 has 4 KiB for all attributes of a file
_VERSION = 1
_encode = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False).encode  # json.dumps would make one for each file

Where = Literal["remote", "filled"]
"""`remote`: some of the content is only in the store. `filled`: all of it is here, perhaps not on the disk yet."""


class UnknownContent(Exception):
    """A file has no attribute, or one that nobody can understand."""


@dataclass(frozen=True, slots=True)
class Content:
    """A file's content. Sizes in bytes, times in nanoseconds since the epoch."""

    where: Where
    key: str
    """The object's."""
    version: str
    """Of the object that the content is or will be: its etag, or what stands for it."""
    size: int
    mtime: int
    """The file's own, while `begun`."""
    ctime: int
    """When its inode had last changed before we changed it, while `begun`."""
    inode: int
    """The file's own number. Another one: the attribute was copied from another file."""
    begun: bool = False
    """We have changed the file since: its times are not its own, those above are."""
    boot: str = ""
    """The kernel's run in which `chunks` or `filled` became true: what was only in memory ends with it."""
    at: int = 0
    """When it was filled, on the clock of that run (CLOCK_BOOTTIME)."""
    chunks: bytes = b""
    """A bit for each group of chunks that is here."""

    def encode(self) -> bytes:
        """Return the attribute's value: JSON."""
        fields = {
            "v": _VERSION, "where": self.where, "key": self.key, "version": self.version, "size": self.size,
            "mtime": self.mtime, "ctime": self.ctime, "inode": self.inode, "begun": self.begun, "boot": self.boot,
            "at": self.at, "chunks": self.chunks.hex(),
        }  # fmt: skip
        return _encode(fields).encode()

    @classmethod
    def decode(cls, data: bytes) -> Content:
        """Read the attribute's value. Raises UnknownContent."""
        try:
            fields = json.loads(data)
            if fields["v"] != _VERSION or fields["where"] not in ("remote", "filled"):
                raise UnknownContent(f"version {fields['v']}, {fields['where']!r}")
            return cls(
                where=fields["where"], key=str(fields["key"]), version=str(fields["version"]),
                size=int(fields["size"]), mtime=int(fields["mtime"]), ctime=int(fields["ctime"]),
                inode=int(fields["inode"]), begun=bool(fields["begun"]), boot=str(fields["boot"]),
                at=int(fields["at"]), chunks=bytes.fromhex(fields["chunks"]),
            )  # fmt: skip
        except (ValueError, KeyError, TypeError) as err:
            raise UnknownContent(f"its attribute {ATTRIBUTE} cannot be read: {err}") from err

    def changed(self, facts: os.stat_result) -> bool:
        """Return whether a file with this attribute has another size or time by now."""
        return (facts.st_mtime_ns, facts.st_size) != (self.mtime, self.size)

    def missing(self) -> list[tuple[int, int]]:
        """Return the ranges (start, end) that are to be fetched, of at most `CHUNK` bytes."""
        have = self.chunks if self.boot == boot_id() else b""
        ranges = [(start, min(start + CHUNK, self.size)) for start in range(0, self.size, CHUNK)]
        return [r for r in ranges if not _bit(have, r[0] // (CHUNK * self._group))]

    def with_chunks(self, starts: Collection[int]) -> Content:
        """Return the content when the chunks that begin at `starts` are here: all that were and are."""
        step = CHUNK * self._group
        bits = bytearray(-(-self.size // step) // 8 + 1)
        for begin in range(0, self.size, step):
            if all(s in starts for s in range(begin, min(begin + step, self.size), CHUNK)):
                bits[begin // step // 8] |= 1 << begin // step % 8
        return replace(self, chunks=bytes(bits), boot=boot_id())

    @property
    def _group(self) -> int:
        """How many chunks have one bit."""
        return -(-self.size // (CHUNK * _MAX_BITS)) or 1


def _bit(bits: bytes, number: int) -> bool:
    return number // 8 < len(bits) and bool(bits[number // 8] >> number % 8 & 1)


def read(fd: int) -> Content | None:
    """Return what the attribute of an open file says, None if it has none. Raises UnknownContent, OSError."""
    return _read(fd, follow=True)


def read_at(path: str, *, follow: bool = True) -> Content | None:
    """Return what the attribute of a file says, by a path; otherwise like `read`."""
    return _read(path, follow=follow)


def _read(file: int | str, *, follow: bool) -> Content | None:
    try:
        return Content.decode(os.getxattr(file, ATTRIBUTE, follow_symlinks=follow))
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
