"""Takes away the content of a volume as a whole."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

_ALWAYS = frozenset({"lost+found"})
"""What a file system makes by itself."""


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
