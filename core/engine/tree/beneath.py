"""Access to a tree that somebody else changes at the same time: never through a symbolic link, never outside.

What is in the tree belongs to containers, and this process is root on the host: a directory that is exchanged for a
link to `/etc` must lead nowhere. Every path is resolved by openat2(2) below the tree's own descriptor, and the last
component is used with that directory's descriptor and never followed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import signal
from collections.abc import Iterator

from engine.durable import sync_file_system
from engine.opening import (
    RESOLVE_BENEATH,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    RESOLVE_NO_XDEV,
    openat2,
)
from engine.tree.spelling import Spelling

_libc = ctypes.CDLL(None, use_errno=True)
_RESOLVE = RESOLVE_NO_XDEV | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH
_NOREPLACE, _EXCHANGE = 1, 2  # renameat2(2)
_AT_EMPTY_PATH = 0x1000  # linkat(2)
_WAIT_BEFORE, _WRITE = 1, 2  # sync_file_range(2)
_F_SETLEASE, _F_WRLCK, _F_UNLCK = 1024, 1, 2


class Root:
    """The directory of a tree, held by a descriptor. Paths in it are spelled as in the store."""

    def __init__(self, path: str, spelling: Spelling) -> None:
        """Open it. Raises OSError."""
        self.path = path
        self.spelling = spelling
        self._fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self.device = os.fstat(self._fd).st_dev

    def close(self) -> None:
        """Give up the descriptor."""
        os.close(self._fd)

    def sync(self) -> None:
        """Write all of its file system to the disk. Raises OSError."""
        sync_file_system(self._fd)

    @contextlib.contextmanager
    def directory(self, path: str) -> Iterator[int]:
        """Open a directory of the tree ("" is the root). Raises OSError (ELOOP, ENOTDIR, ENOENT, EXDEV)."""
        fd = self.open_directory(path)
        try:
            yield fd
        finally:
            os.close(fd)

    def open_directory(self, path: str) -> int:
        """The same, for the caller to close."""
        name = self.spelling.local(path)
        while True:
            try:
                return openat2(self._fd, name, os.O_RDONLY | os.O_DIRECTORY, _RESOLVE)
            except BlockingIOError:  # a rename elsewhere disturbed the look-up
                continue

    @contextlib.contextmanager
    def place(self, path: str) -> Iterator[tuple[int, str]]:
        """Open the directory that a path is in; give its descriptor and the file's name."""
        parent, _, name = path.rpartition("/")
        with self.directory(parent) as fd:
            yield fd, self.spelling.local(name)

    def open(self, path: str) -> int:
        """Open a file for reading. A link, a device or a FIFO is not followed and does not block. Raises OSError."""
        with self.place(path) as (fd, name):
            return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=fd)

    def lstat(self, path: str) -> os.stat_result | None:
        """Return what is at a path; None if nothing is."""
        try:
            with self.place(path) as (fd, name):
                return os.stat(name or ".", dir_fd=fd, follow_symlinks=False)
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise


def name_in(fd: int, name: str) -> str:
    """Return a path for functions that take no descriptor of a directory; its last component must not be followed."""
    return f"/proc/self/fd/{fd}/{name}"


def rename_new(source: str, fd: int, name: str) -> bool:
    """Move a file to a name that must be free; return whether it was."""
    return _renameat2(-100, source, fd, name, _NOREPLACE, errno.EEXIST)


def link_new(file: int, fd: int, name: str) -> bool:
    """Give an open file a name in a directory that must be free; return whether it was.

    Needs CAP_DAC_READ_SEARCH (linkat(2), AT_EMPTY_PATH).
    """
    if _libc.linkat(file, b"", fd, os.fsencode(name), _AT_EMPTY_PATH) == 0:
        return True
    return _failed_with(errno.EEXIST, name)


def take_out(fd: int, name: str, target: str) -> bool:
    """Move a file from a directory to a path that is free; return whether there was one."""
    return _renameat2(fd, name, -100, target, _NOREPLACE, errno.ENOENT)


def exchange(staged: str, fd: int, name: str) -> bool:
    """Let two names change places in one step; return whether both were there."""
    return _renameat2(-100, staged, fd, name, _EXCHANGE, errno.ENOENT)


def _renameat2(from_fd: int, source: str, to_fd: int, target: str, flags: int, expected: int) -> bool:
    if _libc.renameat2(from_fd, os.fsencode(source), to_fd, os.fsencode(target), flags) == 0:
        return True
    return _failed_with(expected, target)


def _failed_with(expected: int, name: str) -> bool:
    """Return False if the last call failed with that error; else raise OSError."""
    number = ctypes.get_errno()
    if number == expected:
        return False
    raise OSError(number, os.strerror(number), name)


def settle_pages(fd: int) -> None:
    """Begin to write a file's dirty pages, so that a later store through a mapping is a change of its mtime.

    A store to a page that is dirty already changes no time: without this, what is stored after an upload read the page
    would never be seen. On a file system without the call fdatasync(2) does the same.
    """
    if _libc.sync_file_range(fd, ctypes.c_int64(0), ctypes.c_int64(0), _WAIT_BEFORE | _WRITE) != 0:
        os.fdatasync(fd)


def lease(fd: int) -> bool:
    """Take a lease for writing (fcntl(2), "Leases"); False while another descriptor or a mapping of the file exists.

    Whoever opens the file meanwhile waits until the lease is given back (`end_lease`, or the descriptor is closed). The
    kernel tells us so by a signal: SIGURG, which nothing happens by, instead of SIGIO, which would end the process.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, _F_SETLEASE, _F_WRLCK)
    except OSError as err:
        if err.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def end_lease(fd: int) -> None:
    """Give a lease back."""
    fcntl.fcntl(fd, _F_SETLEASE, _F_UNLCK)


def in_use(fd: int) -> bool:
    """Return whether another descriptor or a mapping of a file that is open for reading exists."""
    if not lease(fd):
        return True
    end_lease(fd)
    return False
