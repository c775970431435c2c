"""The content of a volume as a whole: is there any, and take it away."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_ALWAYS = frozenset({"lost+found"})
"""What a file system makes by itself."""


def is_empty(path: Path) -> bool:
    """Tell whether a directory has nothing in it (the lost+found of ext4 does not count)."""
    with os.scandir(path) as entries:
        return all(entry.name in _ALWAYS for entry in entries)


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
