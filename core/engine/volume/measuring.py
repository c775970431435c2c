"""How much a tree occupies on its disk."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from engine.treewalk import walk

_BLOCK = 512
"""Unit of st_blocks (inode(7))."""
_TELL = 1000


class Occupied(NamedTuple):
    """What was found below a directory; what is mounted inside is not entered."""

    files: int
    """All that are no directories; a file with several names counts once."""
    bytes: int
    """Of their blocks. A sparse file counts with the blocks that it has."""
    of_directories: int
    """Bytes of the directories' own blocks."""
    entries: int


def occupied(directory: Path, *, without: str = "", tell: Callable[[int], object] = lambda files: None) -> Occupied:
    """Measure a tree, `without` one name at its top; `tell` is called with the number of files now and then.

    Raises OSError.
    """
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        files = total = of_directories = entries = 0
        seen: set[tuple[int, int]] = set()
        for entry in walk(root):
            facts = entry.facts
            if entry.name == without and not entry.above:
                continue
            entries += 1
            if entry.is_directory:
                of_directories += facts.st_blocks * _BLOCK
                continue
            if facts.st_nlink > 1:
                identity = (facts.st_dev, facts.st_ino)
                if identity in seen:
                    continue
                seen.add(identity)
            files += 1
            if files % _TELL == 0:
                tell(files)
            total += facts.st_blocks * _BLOCK
        return Occupied(files, total, of_directories, entries)
    finally:
        os.close(root)
