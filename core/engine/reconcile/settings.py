"""Noticing that somebody else changed a kernel parameter: inotify(7) on files of /proc/sys.

There is no netlink notification for most parameters. Writes by sysctl(8) and the like are seen, through any path of
this mount of /proc; a parameter that is changed through another mount of it is found at the next repair.

Each file is held open (O_PATH: no parameter is read, and its link may go): once the kernel has dropped its entry for
the path from memory, the path means another inode, of which a watch on the first one would hear nothing.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
from pathlib import Path
from typing import NamedTuple

_IN_MODIFY, _IN_IGNORED, _IN_Q_OVERFLOW = 0x2, 0x8000, 0x4000
_EVENT = struct.Struct("=iIII")
MANY = 1024
"""With so many files, those that are gone (with their link) are looked for and forgotten."""
_libc = ctypes.CDLL(None, use_errno=True)


class _Watched(NamedTuple):
    """A file, and what it is to say."""

    path: Path
    value: str
    held: int
    """Descriptor that keeps the path's inode the same."""


class Settings:
    """The files that are watched, and what they are to say. Safe to use from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd: int = _libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), "inotify_init1")
        self._watched: dict[int, _Watched] = {}

    def fileno(self) -> int:
        """Return what poll(2) waits for."""
        return self._fd

    def close(self) -> None:
        """Watch no longer."""
        with self._lock:
            for watch in list(self._watched):
                self._forget(watch)
        os.close(self._fd)

    def keep(self, path: Path, value: str) -> None:
        """Watch a file that says `value` now. One that cannot be watched is only looked at by repairs."""
        with self._lock:
            if len(self._watched) >= MANY:
                self._forget_gone()
            try:
                held = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except OSError:
                return
            watch = _libc.inotify_add_watch(self._fd, os.fsencode(f"/proc/self/fd/{held}"), _IN_MODIFY)
            if watch < 0 or watch in self._watched:
                os.close(held)
            if watch in self._watched:
                self._watched[watch] = self._watched[watch]._replace(value=value)
            elif watch >= 0:
                self._watched[watch] = _Watched(path, value, held)

    def _forget_gone(self) -> None:
        for watch, file in list(self._watched.items()):
            if not file.path.exists():
                _libc.inotify_rm_watch(self._fd, watch)
                self._forget(watch)

    def _forget(self, watch: int) -> None:
        file = self._watched.pop(watch, None)
        if file is not None:
            os.close(file.held)

    def changed(self) -> bool:
        """Read what has happened, and tell whether a file says something else than it is to say."""
        try:
            data = os.read(self._fd, 1 << 16)
        except BlockingIOError:
            return False
        different, at = False, 0
        while at + _EVENT.size <= len(data):
            watch, mask, _, length = _EVENT.unpack_from(data, at)
            at += _EVENT.size + length
            different |= bool(mask & _IN_Q_OVERFLOW) or self._differs(watch, mask)
        return different

    def _differs(self, watch: int, mask: int) -> bool:
        with self._lock:
            if mask & _IN_IGNORED:
                self._forget(watch)
            file = self._watched.get(watch)
        try:
            return file is not None and file.path.read_text().split() != file.value.split()
        except OSError as err:
            if err.errno in (errno.ENOENT, errno.ENODEV):
                return False  # its link is gone, which is noticed otherwise
            raise
