"""Copies what an image has at a mount point into a new volume.

An interrupted copy is simply made again: see `engine.volume.copying`.
"""

from __future__ import annotations

import os
from pathlib import Path

from engine.volume.copying import TreeCopy

_NOT_COPIED = ("trusted.overlay.", "user.overlay.")
"""Attributes that overlayfs keeps its own books in."""


def is_empty(directory: Path) -> bool:
    """Tell whether a directory has nothing in it (the lost+found of ext4 does not count)."""
    with os.scandir(directory) as entries:
        return all(entry.name == "lost+found" for entry in entries)


def copy_tree(source: Path, target: Path) -> None:
    """Make the directory `target`, which exists, hold what `source` has. Raises OSError."""
    TreeCopy(without=_NOT_COPIED).copy(source, target)
