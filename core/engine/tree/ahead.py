"""Small files are fetched with their neighbours: who opens one of a directory often opens the others next."""

from __future__ import annotations

import contextlib
import os
import threading
import time

from engine.tree import content as contents
from engine.tree.content import UnknownContent
from engine.tree.fanotify import handle_of
from engine.tree.hydrate import AHEAD_SIZE, Hydrator
from engine.tree.quiet import QuietMount

_MOST_FILES = 4096
"""So many files of a directory are fetched ahead at one time."""
_AGAIN = 2.0
"""Seconds before a directory is looked through again."""


class Ahead:
    """Fetches the small files of a directory when one of them is wanted."""

    def __init__(self, hydrator: Hydrator, quiet: QuietMount) -> None:
        self._hydrator = hydrator
        self._quiet = quiet
        self._lock = threading.Lock()
        self._seen: dict[str, float] = {}

    def near(self, fd: int) -> None:
        """Fetch the small neighbours of a file, given by its descriptor on the quiet mount."""
        path = self._quiet.path_of(fd)
        if path is None:
            return
        directory = path.rpartition("/")[0]
        now = time.monotonic()
        with self._lock:
            if now - self._seen.get(directory, -_AGAIN) < _AGAIN:
                return
            if len(self._seen) > _MOST_FILES:
                self._seen.clear()
            self._seen[directory] = now
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._look_through(directory)

    def _look_through(self, directory: str) -> None:
        below = self._quiet.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with os.scandir(below) as entries:
                left = _MOST_FILES
                for entry in entries:
                    if (
                        left
                        and entry.is_file(follow_symlinks=False)
                        and self._wanted(f"/proc/self/fd/{below}/{entry.name}")
                    ):
                        left -= 1
        finally:
            os.close(below)

    def _wanted(self, file: str) -> bool:
        """Have a file fetched if it is small and not here."""
        try:
            if os.lstat(file).st_size > AHEAD_SIZE:
                return False
            found = contents.read_at(file, follow=False)
            if found is None or found.where != "remote":
                return False
            fd = os.open(file, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
        except (OSError, UnknownContent):  # gone meanwhile, or a file that must not be touched
            return False
        try:
            self._hydrator.ahead(handle_of(fd))
        finally:
            os.close(fd)
        return True
