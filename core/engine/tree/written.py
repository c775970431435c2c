"""What was written and removed here while the store is listed: of that a listing says nothing.

A listing takes its time, and shows each object as it was at some moment of it. An object that an upload has made since
may be missing in it, and one that was removed since may be in it; neither is news.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Meanwhile:
    """The keys of one listing's time. They become more while they are looked at."""

    def __init__(self) -> None:
        self.written: set[str] = set()
        """Objects that were written here."""
        self.removed: set[str] = set()
        """Objects that were removed here."""


class Written:
    """Keeps them. All methods may be called from any thread.

    Whoever writes or removes an object says so when the store has answered, before the journal is told: then what the
    journal has of it beside a listing is explained by that listing, or is said here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._listings: list[Meanwhile] = []

    def written(self, key: str) -> None:
        """Say that an object was written."""
        with self._lock:
            for each in self._listings:
                each.written.add(key)

    def removed(self, key: str) -> None:
        """Say that an object was removed."""
        with self._lock:
            for each in self._listings:
                each.removed.add(key)

    @contextlib.contextmanager
    def meanwhile(self) -> Iterator[Meanwhile]:
        """Collect while a store is listed, and while use is made of the listing."""
        found = Meanwhile()
        with self._lock:
            self._listings.append(found)
        try:
            yield found
        finally:
            with self._lock:
                self._listings.remove(found)
