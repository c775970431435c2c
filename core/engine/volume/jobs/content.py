"""The content of a volume as a whole: take it away, and is there room for more."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_ALWAYS = frozenset({"lost+found"})
"""What a file system makes by itself."""
_ROOM = 1 << 20


def empty(path: Path) -> None:
    """Remove all that is in a directory, and leave the directory. Raises OSError."""
    with os.scandir(path) as entries:
        found = list(entries)
    for entry in found:
        if entry.name in _ALWAYS:
            continue
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path)
        else:
            os.unlink(entry.path)  # noqa: PTH108 - the entry has a text


def is_full(path: Path) -> bool:
    """Tell whether a file system has less than 1 MiB left, or no inode."""
    facts = os.statvfs(path)
    return facts.f_bavail * facts.f_frsize < _ROOM or (facts.f_files > 0 and facts.f_favail == 0)
