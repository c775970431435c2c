"""Exchanges two names in one step. Source: renameat2(2)."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

_AT_FDCWD, _EXCHANGE = -100, 2
_libc = ctypes.CDLL(None, use_errno=True)


def exchange(one: Path, other: Path) -> None:
    """Let two names on one file system change places; nobody ever sees one missing. Raises OSError."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), ctypes.c_uint(_EXCHANGE)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(one))
