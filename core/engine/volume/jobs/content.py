"""The content of a volume as a whole: take it away, and is there room for more."""

from __future__ import annotations

import os
from pathlib import Path

from engine import treewalk

_ALWAYS = frozenset({"lost+found"})
"""What a file system makes by itself."""
_ROOM = 1 << 20


def empty(path: Path) -> None:
    """Remove all that is in a directory, and leave the directory. Raises OSError."""
    treewalk.empty(path, keep=_ALWAYS)


def is_full(path: Path) -> bool:
    """Tell whether a file system has less than 1 MiB left, or no inode."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize < _ROOM or (facts.f_files > 0 and facts.f_favail == 0)
