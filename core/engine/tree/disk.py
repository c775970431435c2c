"""Brings the file system of a tree to its disk, for many threads at once."""

from __future__ import annotations

import threading

from engine.tree.beneath import Root


class Disk:
    """The file system that a tree is on. Called from any thread."""

    def __init__(self, root: Root) -> None:
        self._root = root
        self._changed = threading.Condition()
        self._running = False
        self._begun = 0
        self._ended = 0

    def sync(self) -> None:
        """Return when all that was written before the call is on the disk. Raises OSError.

        Threads that ask while syncfs(2) runs share the next one: it costs about as much for many files as for one.
        """
        with self._changed:
            wanted = self._begun + 1  # one that begins from now on
            while self._ended < wanted:
                if self._running:
                    self._changed.wait()
                else:
                    self._sync()

    def _sync(self) -> None:
        """Run it, without the lock that the caller has."""
        self._running = True
        self._begun += 1
        number = self._begun
        self._changed.release()
        try:
            self._root.sync()
        except BaseException:
            number = 0
            raise
        finally:
            self._changed.acquire()
            self._running = False
            self._ended = max(self._ended, number)
            self._changed.notify_all()
