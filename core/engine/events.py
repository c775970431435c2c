"""What happened, as a stream: for `docker events`, and for plugins that listen."""

from __future__ import annotations

import itertools
import logging
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping

from engine.spec.plugin import Event

log = logging.getLogger(__name__)

REMEMBERED = 1024
"""Events that `since` can reach back to, as long as the daemon runs (Docker remembers 256)."""


class EventBus:
    """Takes events from any thread, remembers the last ones, and hands each to all listeners in order.

    Listeners run in one thread of the bus: a slow one delays the others' news, never an operation of the engine.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._tokens = itertools.count()
        self._past: deque[Event] = deque(maxlen=REMEMBERED)
        self._listeners: dict[int, tuple[int, Callable[[Event], None]]] = {}
        self._news: queue.SimpleQueue[tuple[int, Event] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._deliver, name="events", daemon=True)
        self._thread.start()

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str] | None = None) -> Event:
        """Tell that something happened, and return the event."""
        event = Event(type=type, action=action, id=id, attributes=dict(attributes or {}), time_ns=time.time_ns())
        with self._lock:
            self._count += 1
            self._past.append(event)
            self._news.put((self._count, event))
        return event

    def subscribe(
        self, listener: Callable[[Event], None], *, since_ns: int | None = None
    ) -> tuple[list[Event], Callable[[], None]]:
        """Listen from now on. Return the remembered events since `since_ns` (none without it), and how to stop.

        No event is both in the list and handed to the listener, and none is in neither.
        """
        with self._lock:
            past = [e for e in self._past if since_ns is not None and e.time_ns >= since_ns]
            # Events up to this number were emitted before, even if they are not delivered yet.
            token = next(self._tokens)
            self._listeners[token] = (self._count, listener)

        def stop() -> None:
            with self._lock:
                self._listeners.pop(token, None)

        return past, stop

    def close(self) -> None:
        """Deliver what is left, then stop."""
        self._news.put(None)
        self._thread.join(5)

    def _deliver(self) -> None:
        while (news := self._news.get()) is not None:
            number, event = news
            with self._lock:
                listeners = [listener for after, listener in self._listeners.values() if number > after]
            for listener in listeners:
                try:
                    listener(event)
                except Exception:
                    log.exception("a listener failed on %s %s", event.type, event.action)
