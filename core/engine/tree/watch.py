"""Hints of what changed: an inotify watch on every directory of the tree.

They only say where to look soon. Stores through a mapping raise no event, a queue can overflow and a limit of watches
can be reached (`fs.inotify.max_user_watches`): what a file is, only a scan says, and one of the whole tree is made on a
timer and before every barrier.

inotify and not fanotify, because it needs no capability, works on every file system, and a hint needs no file name: the
directory is scanned anyway.
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import select
import struct
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)
_EVENT = struct.Struct("=iIII")  # struct inotify_event: wd, mask, cookie, len
_ATTRIB, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x4, 0x8, 0x40, 0x80, 0x100, 0x200
_OVERFLOW, _IGNORED = 0x4000, 0x8000
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x1000000, 0x2000000, 0x4000000
_MASK = _ATTRIB | _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE | _ONLYDIR | _EXCL_UNLINK
"""Not IN_MODIFY: a file that is being written is looked at when it is closed, or by the timer."""
_BUFFER = 1 << 16


class Watch:
    """Collects directories in which something happened, and calls `wake` when there are some."""

    def __init__(self, wake: Callable[[], None]) -> None:
        """Begin. Raises OSError if the host has no more inotify instances."""
        self._wake = wake
        self._lock = threading.Lock()
        self._paths: dict[int, str] = {}
        self._touched: set[str] = set()
        self._lost = False
        self._full = False
        self._closed = False
        self._fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
        if self._fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")
        self._stop_read, self._stop = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._read_all, name="watch", daemon=True)
        self._thread.start()

    def add(self, directory: int, path: str) -> None:
        """Watch an open directory under its path in the tree. The same directory again only gets its new path.

        Nothing happens after `close`: a scan may be under way at the end.
        """
        with self._lock:
            if self._closed:
                return
            number = int(_libc.inotify_add_watch(self._fd, b"/proc/self/fd/%d" % directory, _MASK))
            code = ctypes.get_errno()
            if number >= 0:
                self._paths[number] = path
                return
        if code not in (errno.ENOSPC, errno.ENOMEM):
            raise OSError(code, os.strerror(code), path)
        if not self._full:
            self._full = True
            log.warning("fs.inotify.max_user_watches is reached: changes in %s and others wait for the timer", path)

    def take(self) -> tuple[set[str], bool]:
        """Return the directories to look at, and whether events were lost: then all has to be looked at."""
        with self._lock:
            touched, self._touched = self._touched, set()
            lost, self._lost = self._lost, False
        return touched, lost

    def close(self) -> None:
        """End."""
        os.write(self._stop, b"x")
        self._thread.join()
        with self._lock:
            self._closed = True
            for fd in (self._fd, self._stop, self._stop_read):
                os.close(fd)

    def _read_all(self) -> None:
        waiting = select.poll()
        for fd in (self._fd, self._stop_read):
            waiting.register(fd, select.POLLIN)
        while not any(fd == self._stop_read for fd, _ in waiting.poll()):
            try:
                data = os.read(self._fd, _BUFFER)
            except BlockingIOError:
                continue
            self._note(data)
            self._wake()

    def _note(self, data: bytes) -> None:
        position = 0
        with self._lock:
            while position < len(data):
                number, mask, _, length = _EVENT.unpack_from(data, position)
                position += _EVENT.size + length
                if mask & _OVERFLOW:
                    self._lost = True
                elif mask & _IGNORED:
                    self._paths.pop(number, None)
                elif number in self._paths:
                    self._touched.add(self._paths[number])
