"""fanotify with pre-content events, by ctypes: who opens or reads a marked file waits until we have answered.

Sources: fanotify(7), fanotify_init(2), fanotify_mark(2), linux/fanotify.h of Linux 6.14. Needs CAP_SYS_ADMIN, Linux
6.14 and a file system that takes part (ext4, xfs, btrfs). Every function raises OSError.

Only marks on inodes are used: they hold in every mount of the file, in every namespace. A mark on a mount would not be
seen by a container that has a mount of its own. A group, its marks and those who wait live as long as any process has
a descriptor of it open; when the last one is closed, the kernel lets everybody go on, to read zeroes. See `holder`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

_libc = ctypes.CDLL(None, use_errno=True)

_CLASS_PRE_CONTENT, _CLOEXEC, _NONBLOCK, _UNLIMITED_QUEUE, _UNLIMITED_MARKS = 0x08, 0x01, 0x02, 0x10, 0x20
_REPORT_FD_ERROR = 0x2000  # a descriptor that cannot be opened is reported in the event, and read(2) does not fail
_INIT = _CLASS_PRE_CONTENT | _CLOEXEC | _NONBLOCK | _UNLIMITED_QUEUE | _UNLIMITED_MARKS | _REPORT_FD_ERROR
_EVENT_FLAGS = os.O_RDONLY | os.O_CLOEXEC | getattr(os, "O_LARGEFILE", 0)  # never O_RDWR: EROFS on a read-only mount

_MARK_ADD, _MARK_REMOVE, _MARK_MOUNT, _MARK_IGNORED_SURVIVES, _MARK_IGNORE = 0x01, 0x02, 0x10, 0x40, 0x400
OPEN_PERM, PRE_ACCESS = 0x0001_0000, 0x0010_0000
"""Events: a file is being opened; a part of one is about to be read or written."""
_CONTENT = OPEN_PERM | PRE_ACCESS
_CLOSE_WRITE = 0x08  # never happens to a directory: a mark that only says whose group it is
_ALLOW, _DENY = 1, 2
_AT_FDCWD, _AT_EMPTY_PATH = -100, 0x1000

_EVENT = struct.Struct(
    "=IBBHQii"
)  # struct fanotify_event_metadata: length, version, reserved, own length, mask, fd, pid
_ANSWER = struct.Struct("=iI")
_MAX_HANDLE = 128  # MAX_HANDLE_SZ
_PIDFD_GETFD = 438  # the same number on every architecture


class _Handle(ctypes.Structure):  # struct file_handle of open_by_handle_at(2)
    _fields_: ClassVar = [("size", ctypes.c_uint), ("type", ctypes.c_int), ("data", ctypes.c_ubyte * _MAX_HANDLE)]


DENIABLE = frozenset({errno.EPERM, errno.EIO, errno.EBUSY, errno.ETXTBSY, errno.EAGAIN, errno.ENOSPC, errno.EDQUOT})
"""What an access can fail with; the kernel refuses other errors (FAN_DENY_ERRNO)."""


@dataclass(frozen=True, slots=True)
class Event:
    """Somebody waits. `fd` is the file, open for reading without events of its own, and the number to answer by."""

    fd: int
    mask: int
    pid: int


def _check(result: int, what: str) -> int:
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), what)
    return result


class Group:
    """One fanotify group. The calls may be made from any thread; `read` only from one."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def create(cls) -> Group:
        """Return a new group without marks."""
        return cls(_check(_libc.fanotify_init(_INIT, _EVENT_FLAGS), "fanotify_init"))

    @classmethod
    def of(cls, directory: int) -> tuple[Group, bool]:
        """Return the group that belongs to a directory (its descriptor), and whether it was there already.

        A group belongs to a directory that it has a certain mark on. Whoever holds it, a holder or a container's
        monitor, is asked for it: by pidfd_getfd(2), so that they need no protocol.
        """
        new = cls.create()
        try:
            new._mark(_MARK_ADD, _CLOSE_WRITE, directory)
            for _, fd in new._equals():
                new.close()
                return cls(fd), True
        except BaseException:
            new.close()
            raise
        return new, False

    def _equals(self) -> Iterator[tuple[int, int]]:
        """Iterate over the processes that hold a group with the marks that this one has, with a copy of it."""
        wanted = set(Path(f"/proc/self/fdinfo/{self.fd}").read_text().splitlines())
        wanted = {line for line in wanted if line.startswith("fanotify ")}
        for process in Path("/proc").iterdir():
            if not process.name.isdecimal() or int(process.name) == os.getpid():
                continue
            with contextlib.suppress(OSError):  # it ended meanwhile
                for entry in os.scandir(process / "fd"):
                    if os.readlink(entry.path) != "anon_inode:[fanotify]":
                        continue
                    lines = (process / "fdinfo" / entry.name).read_text().splitlines()
                    if wanted.issubset(lines):
                        yield int(process.name), _copy_of(int(process.name), int(entry.name))

    def close(self) -> None:
        """Close this descriptor of the group."""
        os.close(self.fd)

    def mark(self, fd: int) -> None:
        """From now on, whoever opens or reads the file of a descriptor waits for an answer.

        Descriptors that are open already raise no events.
        """
        self._mark(_MARK_ADD, _CONTENT, fd)

    def unmark(self, fd: int) -> None:
        """Take the mark away; it is no error if there was none."""
        try:
            self._mark(_MARK_REMOVE, _CONTENT, fd)
        except FileNotFoundError:
            pass

    def ignore_mount(self, directory: int) -> None:
        """Let what happens through one mount raise no events: that of an open directory."""
        flags = _MARK_ADD | _MARK_MOUNT | _MARK_IGNORE | _MARK_IGNORED_SURVIVES
        result = _libc.fanotify_mark(self.fd, flags, ctypes.c_uint64(_CONTENT), directory, b".")
        _check(result, "fanotify_mark")

    def _mark(self, flags: int, mask: int, fd: int) -> None:
        # By name, so that it works with O_PATH, too.
        path = f"/proc/self/fd/{fd}".encode()
        _check(_libc.fanotify_mark(self.fd, flags, ctypes.c_uint64(mask), _AT_FDCWD, path), "fanotify_mark")

    def read(self) -> list[Event]:
        """Return the events that are there, at most some dozens. The caller owns their descriptors."""
        try:
            data = os.read(self.fd, 4096)
        except BlockingIOError:
            return []
        events = []
        while data:
            length, _, _, _, mask, fd, pid = _EVENT.unpack_from(data)
            data = data[length:]
            if fd >= 0:  # otherwise the kernel could not open it, and has refused the access itself
                events.append(Event(fd, mask, pid))
        return events

    def answer(self, number: int, error: int = 0) -> bool:
        """Let the access go on, or fail with an errno of `DENIABLE`. False if nobody waits for that number."""
        response = _ALLOW if not error else _DENY | error << 24
        try:
            os.write(self.fd, _ANSWER.pack(number, response))
        except FileNotFoundError:
            return False
        return True


def _copy_of(pid: int, fd: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        return _check(_libc.syscall(_PIDFD_GETFD, pidfd, fd, 0), "pidfd_getfd")  # close-on-exec
    finally:
        os.close(pidfd)


def handle_of(fd: int) -> bytes:
    """Return what names a file on its file system, whatever becomes of its path: see `open_handle`."""
    handle, mount = _Handle(_MAX_HANDLE), ctypes.c_int()
    result = _libc.name_to_handle_at(fd, b"", ctypes.byref(handle), ctypes.byref(mount), _AT_EMPTY_PATH)
    _check(result, "name_to_handle_at")
    return bytes(handle)[: _Handle.data.offset + handle.size]


def open_handle(directory: int, handle: bytes, flags: int) -> int:
    """Open a file by its handle through the mount of `directory` (open_by_handle_at(2)). ESTALE if it is gone."""
    buffer = ctypes.create_string_buffer(handle, len(handle))
    return _check(_libc.open_by_handle_at(directory, buffer, flags | os.O_CLOEXEC), "open_by_handle_at")
