"""Trees that go deeper than a path can say."""

from __future__ import annotations

import os
from pathlib import Path


def nest(path: Path, depth: int, name: str = "d") -> None:
    """Directories within each other: deeper than a path can say.

    To be removed by the test, with `engine.treewalk`: pytest's own removal would end in RecursionError.
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY | os.O_DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
