"""Opening a path that somebody else may change meanwhile, by openat2(2), which Python does not have.

Sources: openat2(2) and linux/openat2.h. The system call has the same number on every architecture; Linux 5.6.
"""

from __future__ import annotations

import ctypes
import os

RESOLVE_NO_XDEV, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS = 0x01, 0x02, 0x04
RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x08, 0x10

_OPENAT2 = 437
_libc = ctypes.CDLL(None, use_errno=True)


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def openat2(directory: int, path: str, flags: int, resolve: int) -> int:
    """Open a path ("" is the directory itself) relative to a directory's descriptor under RESOLVE_* rules.

    Raises OSError: EXDEV when the path leads out, ELOOP where a link is in the way, EAGAIN when a rename elsewhere
    disturbed the look-up.
    """
    how = _OpenHow(flags | os.O_CLOEXEC, 0, resolve)
    size = ctypes.c_long(ctypes.sizeof(how))
    descriptor = int(
        _libc.syscall(_OPENAT2, ctypes.c_long(directory), os.fsencode(path or "."), ctypes.byref(how), size)
    )
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    return descriptor
