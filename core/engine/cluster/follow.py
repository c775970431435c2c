"""List and watch: keeps somebody informed of what is below a prefix, whatever happens to the connection."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

from engine.cluster.store import Batch, ClusterStore, Compacted, Listing, Watch
from engine.spec.errors import EngineError

log = logging.getLogger(__name__)
FIRST_PAUSE, LONGEST_PAUSE = 0.1, 2.0
"""Seconds between attempts while the store cannot be reached: twice as long each time."""


class Listener(Protocol):
    """Who is kept informed. Called in the follower's thread, one call after the other."""

    def reset(self, listing: Listing) -> None:
        """All that is there: at the beginning, and whenever changes may have been missed."""

    def changed(self, batch: Batch) -> None:
        """What changed since."""


class Follower:
    """Follows one prefix in a thread of its own, from `start` to `close`."""

    def __init__(
        self, store: ClusterStore, prefix: str, listener: Listener, reachable: Callable[[str], None] = lambda why: None
    ) -> None:
        """`reachable` is told "" when the store answers, and why not when it does not."""
        self._store = store
        self._prefix = prefix
        self._listener = listener
        self._reachable = reachable
        self._closed = threading.Event()
        self._listed = threading.Event()
        self._watch: Watch | None = None
        self._guard = threading.Lock()
        self._thread = threading.Thread(target=self._run, name=f"follow {prefix}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def wait(self, seconds: float) -> bool:
        """Wait until the listener knew everything once; tell whether it does."""
        return self._listed.wait(seconds)

    def close(self) -> None:
        """End. The listener hears nothing more when this returns, if it was not called by the listener."""
        self._closed.set()
        with self._guard:
            if self._watch is not None:
                self._watch.close()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        revision, pause = 0, FIRST_PAUSE
        while not self._closed.is_set():
            try:
                if not revision:
                    listing = self._store.list(self._prefix)
                    self._listener.reset(listing)
                    revision = listing.revision
                    self._listed.set()
                self._reachable("")
                for batch in self._changes(revision + 1):
                    self._listener.changed(batch)
                    revision, pause = max(revision, batch.revision), FIRST_PAUSE
            except Compacted:
                log.info("%s: changes were missed, it is listed anew", self._prefix)
                revision = 0
            except EngineError as err:
                self._reachable(str(err))
                self._closed.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception:  # a fault of a listener must not end what it is told
                log.exception("what changed below %s could not be taken in; it is listed anew", self._prefix)
                revision = 0
                self._closed.wait(LONGEST_PAUSE)

    def _changes(self, revision: int) -> Iterator[Batch]:
        watch = self._store.watch(self._prefix, revision)
        with self._guard:
            self._watch = watch
        try:
            if not self._closed.is_set():
                yield from watch
        finally:
            watch.close()
