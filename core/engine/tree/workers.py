"""Threads that do small tasks, the most urgent first."""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
import time
from collections.abc import Callable
from enum import IntEnum

log = logging.getLogger(__name__)


class Urgency(IntEnum):
    """Whether somebody waits for a task."""

    WANTED = 0
    AHEAD = 1


class Workers:
    """A number of threads and their tasks. Tasks must not wait for other tasks."""

    def __init__(self, name: str, threads: int) -> None:
        self._ready: list[tuple[int, int, Callable[[], None]]] = []
        self._later: list[tuple[float, int, Urgency, Callable[[], None]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [
            threading.Thread(target=self._work, name=f"{name}-{number}", daemon=True) for number in range(threads)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, task: Callable[[], None], urgency: Urgency, *, delay: float = 0.0) -> None:
        """Have a task done, not before `delay` seconds have passed. After `close` nothing is done any more."""
        with self._changed:
            if delay:
                heapq.heappush(self._later, (time.monotonic() + delay, next(self._order), urgency, task))
            else:
                heapq.heappush(self._ready, (urgency, next(self._order), task))
            self._changed.notify()

    def _next(self) -> Callable[[], None] | None:
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                while self._later and self._later[0][0] <= now:
                    _, order, urgency, task = heapq.heappop(self._later)
                    heapq.heappush(self._ready, (urgency, order, task))
                if self._ready:
                    return heapq.heappop(self._ready)[2]
                self._changed.wait(self._later[0][0] - now if self._later else None)
            return None

    def _work(self) -> None:
        while task := self._next():
            try:
                task()
            except Exception:  # a task says its own errors; this one would end the thread
                log.exception("a task failed")

    def close(self, deadline: float) -> None:
        """Let running tasks end, for at most so many seconds, and forget the others."""
        end = time.monotonic() + deadline
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
