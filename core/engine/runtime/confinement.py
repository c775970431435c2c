"""Giving up rights for good, before a process touches files of a stranger.

After that it can do to files what their owner could, and nothing else: it sees only the tree that is its root, loads
no code, and gains nothing by running anything. Sources: capabilities(7), prctl(2), capset(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import resource
import signal
import sys
from collections.abc import Collection

from engine.runtime.capabilities import ALL, available

FILES = ("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP")
"""What it takes to read and write any file, and to give it any owner, mode, type and file capability."""

_MEMORY = 1 << 30
_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT = 1, 4, 24, 38, 47
_AMBIENT_CLEAR_ALL = 4
_VERSION_3 = 0x20080522  # linux/capability.h
_libc = ctypes.CDLL(None, use_errno=True)


def enter(root: int) -> None:
    """Make the directory of a descriptor the root directory, and `give_up`. Raises OSError."""
    available()  # while there is a /proc
    os.fchdir(root)
    os.chroot(".")
    os.close(root)
    give_up()


def give_up(capabilities: Collection[str] = FILES) -> None:
    """Give up all but some capabilities, and most memory. Raises OSError.

    What this process may need of its own was imported before: from now on nothing is.
    """
    held = available()
    os.umask(0)
    for search in (sys.path, sys.meta_path, sys.path_hooks):
        search.clear()
    _limit(resource.RLIMIT_AS, _MEMORY)
    _limit(resource.RLIMIT_CORE, 0)
    for number in range(len(ALL)):
        _libc.prctl(_PR_CAPBSET_DROP, number, 0, 0, 0)  # refused without CAP_SETPCAP: what follows is enough then
    _libc.prctl(_PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL, 0, 0, 0)
    _set_capabilities(sum(1 << ALL.index(name) for name in capabilities if name in held))
    _check(_libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0))  # nobody of a container looks into its memory or descriptors
    _check(_libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))


def end_with_parent() -> None:
    """Let the kernel end this process when the thread that started it is gone."""
    _check(_libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0))


def _limit(which: int, most: int) -> None:
    _, hard = resource.getrlimit(which)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(which, (most, most))


def _set_capabilities(mask: int) -> None:
    header = (ctypes.c_uint32 * 2)(_VERSION_3, 0)
    halves = [mask & 0xFFFFFFFF, mask >> 32]
    data = (ctypes.c_uint32 * 6)(*(value for half in halves for value in (half, half, 0)))
    _check(_libc.capset(header, data))


def _check(result: int) -> None:
    if result != 0:
        number = ctypes.get_errno() or errno.EPERM
        raise OSError(number, os.strerror(number))
