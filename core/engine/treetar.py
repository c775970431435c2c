"""Writing tars of trees that somebody else may change meanwhile, by descriptors.

What is opened is a regular file or a directory, and was seen to be one before: opening a device may do something, and
opening a pipe waits for ever. No names of users are looked up, for which glibc would load libraries of a foreign root.
"""

from __future__ import annotations

import errno
import io
import os
import stat
import tarfile
from typing import IO, Any, cast

from engine.treewalk import Entry

PATH_MAX = 4096
"""Bytes of a path that the kernel takes, with the NUL at its end (linux/limits.h)."""
_XATTR = "SCHILY.xattr."
_NOT_KEPT = ("trusted.overlay.", "security.selinux")
_TYPES = {
    stat.S_IFREG: tarfile.REGTYPE, stat.S_IFDIR: tarfile.DIRTYPE, stat.S_IFLNK: tarfile.SYMTYPE,
    stat.S_IFIFO: tarfile.FIFOTYPE, stat.S_IFCHR: tarfile.CHRTYPE, stat.S_IFBLK: tarfile.BLKTYPE,
}  # fmt: skip


class TreeTar:
    """One tar that is being written. To be made before the process changes its root directory."""

    def __init__(self, out: IO[bytes], mode: str = "w|") -> None:
        kind: Any = mode
        self._tar = tarfile.open(fileobj=out, mode=kind, format=tarfile.PAX_FORMAT)  # noqa: SIM115 - until `close`
        self._descriptors = os.open("/proc/self/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self._links: dict[tuple[int, int], str] = {}

    def close(self) -> None:
        """Write the end of the archive."""
        os.close(self._descriptors)
        self._tar.close()

    def mark(self, name: str) -> None:
        """Add an empty file that stands for something."""
        self._tar.addfile(tarfile.TarInfo(name))

    def add(self, entry: Entry, name: str) -> tuple[str, ...]:
        """Add an entry under a name, and return the names of all its extended attributes.

        Sockets and what is gone are left out; a file that gets shorter meanwhile is filled up with zeroes. Raises
        OSError, ENAMETOOLONG for a path that nobody could unpack.
        """
        if len(os.fsencode(name)) >= PATH_MAX:
            raise OSError(errno.ENAMETOOLONG, f"its path is longer than {PATH_MAX} bytes", f"{name[:60]}...")
        try:
            if entry.is_directory or stat.S_ISREG(entry.facts.st_mode):
                fd = self._open(entry)
                try:
                    return self._add_opened(fd, name)
                finally:
                    os.close(fd)
            if stat.S_IFMT(entry.facts.st_mode) in _TYPES:
                info = _header(entry.facts, name)
                if info.issym():
                    info.linkname = os.readlink(entry.name, dir_fd=entry.parent)
                self._add_header(info, entry.facts)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.ESTALE):
                raise
            # it went, or is another thing by now
        return ()

    def _open(self, entry: Entry) -> int:
        """Open what is a directory or a regular file, and nothing else."""
        seen = os.open(entry.name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=entry.parent)
        try:
            if stat.S_IFMT(os.fstat(seen).st_mode) != stat.S_IFMT(entry.facts.st_mode):
                raise OSError(errno.ESTALE, "it was exchanged", entry.name)
            return os.open(str(seen), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=self._descriptors)
        finally:
            os.close(seen)

    def _add_opened(self, fd: int, name: str) -> tuple[str, ...]:
        facts = os.fstat(fd)
        info = _header(facts, name)
        names = _attribute_names(fd)
        info.pax_headers = {
            _XATTR + key: os.getxattr(fd, key).decode("utf-8", "surrogateescape")
            for key in names
            if not key.startswith(_NOT_KEPT)
        }
        self._add_header(info, facts, fd)
        return names

    def _add_header(self, info: tarfile.TarInfo, facts: os.stat_result, fd: int = -1) -> None:
        """Add a header; what has another name in the tar already becomes a link to that."""
        identity = (facts.st_dev, facts.st_ino)
        first = self._links.get(identity)
        if first is not None:
            info.type, info.linkname, info.size = tarfile.LNKTYPE, first, 0
        elif facts.st_nlink > 1 and not info.isdir():
            self._links[identity] = info.name
        if info.isreg():
            self._tar.addfile(info, cast(Any, _Exactly(fd, info.size)))
        else:
            self._tar.addfile(info)
        self._tar.members = []  # type: ignore[attr-defined]  # else every header stays in memory


def _header(facts: os.stat_result, name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = _TYPES[stat.S_IFMT(facts.st_mode)]
    info.mode = stat.S_IMODE(facts.st_mode)
    info.uid, info.gid, info.mtime = facts.st_uid, facts.st_gid, facts.st_mtime
    if info.isreg():
        info.size = facts.st_size
    elif info.isdev():
        info.devmajor, info.devminor = os.major(facts.st_rdev), os.minor(facts.st_rdev)
    return info


def _attribute_names(fd: int) -> tuple[str, ...]:
    try:
        return tuple(os.listxattr(fd))
    except OSError:
        return ()


class _Exactly(io.RawIOBase):
    """Reads as many bytes as the header says, also when the file changes meanwhile: missing ones are zeroes."""

    def __init__(self, fd: int, size: int) -> None:
        self._fd = fd
        self._left = size

    def read(self, size: int = -1, /) -> bytes:
        size = self._left if size < 0 else min(size, self._left)
        data = os.read(self._fd, size)
        data += b"\0" * (size - len(data))
        self._left -= len(data)
        return data
