"""Reading tars of strangers: limits that tarfile does not have, and what a member says about its file."""

from __future__ import annotations

import errno
import os
import tarfile
from collections.abc import Iterator
from typing import Any, ClassVar

_XATTR = "SCHILY.xattr."
_CHUNK = 256 * 1024

FAULTS_OF_ARCHIVES = frozenset({
    errno.EEXIST, errno.EINVAL, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENOENT, errno.ENOTDIR,
    errno.ENOTEMPTY, errno.ERANGE, errno.E2BIG, errno.EOVERFLOW, errno.EMLINK,
})  # fmt: skip
"""What the kernel answers to a member that asks for something that cannot be."""


class Header(tarfile.TarInfo):
    """A tar header of a stranger: what its extensions need in memory is limited.

    A damaged header is an error also in the middle of an archive, where tarfile would silently stop.
    """

    most: ClassVar[int] = 1 << 20
    """Bytes of a long name or of a set of pax records: an extended attribute may have 64 KiB (xattr(7))."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        """Read a block of 512 bytes. Raises tarfile.ReadError for an extension that is too large."""
        found = super().frombuf(buf, encoding, errors)
        assert isinstance(found, cls)
        if found.type in _EXTENSIONS and found.size > cls.most:
            raise tarfile.ReadError(f"a header has {found.size} bytes; more than {cls.most} are not taken")
        return found

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Header:
        """Read the next header. Raises tarfile.ReadError for a damaged one."""
        try:
            found = super().fromtarfile(archive)
        except tarfile.HeaderError as err:
            if type(err).__name__ in ("InvalidHeaderError", "TruncatedHeaderError"):
                raise tarfile.ReadError(str(err)) from err
            raise  # the end of the archive is reported in the same way
        assert isinstance(found, cls)
        return found


class ShortHeader(Header):
    """A header that has to say hardly more than a path: so little that a search in it is soon over (CVE-2024-6232)."""

    most = 1 << 13


_EXTENSIONS = (
    tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK,
)  # fmt: skip


def write_content(archive: tarfile.TarFile, member: tarfile.TarInfo, fd: int) -> None:
    """Write a regular member of an archive that is read as a stream into an empty file. Raises tarfile.ReadError."""
    content: Any = archive.fileobj
    content.seek(member.offset_data)
    sparse: Any = member.sparse if member.issparse() else None
    for offset, length in sparse if sparse is not None else ((0, member.size),):
        os.lseek(fd, offset, os.SEEK_SET)
        _copy(content, fd, length, member.name)
    if sparse is not None:
        os.ftruncate(fd, member.size)


def _copy(content: Any, fd: int, length: int, name: str) -> None:
    while length:
        data = content.read(min(length, _CHUNK))
        if not data:
            raise tarfile.ReadError(f"unexpected end of data in {name!r}")
        length -= len(data)
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]


def attributes(member: tarfile.TarInfo) -> Iterator[tuple[str, bytes]]:
    """Give the extended attributes of a member."""
    for key, value in member.pax_headers.items():
        if key.startswith(_XATTR):
            yield key.removeprefix(_XATTR), value.encode("utf-8", "surrogateescape")


def times(member: tarfile.TarInfo) -> tuple[int, int]:
    """Return (access, modification) in nanoseconds. Raises OverflowError."""
    modified = int(member.mtime * 1_000_000_000) if isinstance(member.mtime, float) else member.mtime * 1_000_000_000
    return modified, modified
