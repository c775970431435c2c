"""What other name servers said, as long as it is valid."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import NamedTuple

from engine.dns import wire

ENTRIES = 4096
SIZE = 8 << 20
"""Bytes of messages that are kept."""


class _Entry(NamedTuple):
    response: bytes
    places: tuple[int, ...]
    since: float
    until: float


class Cache:
    """Responses by what was asked; those that nobody asked for longest go first. For one thread."""

    def __init__(self, entries: int = ENTRIES, size: int = SIZE, clock: Callable[[], float] = time.monotonic) -> None:
        self._most, self._room = entries, size
        self._clock = clock
        self._entries: OrderedDict[Hashable, _Entry] = OrderedDict()
        self._size = 0

    def __len__(self) -> int:
        return len(self._entries)

    @property
    def size(self) -> int:
        """Bytes of messages that are kept now."""
        return self._size

    def get(self, key: Hashable) -> bytes | None:
        """Return a response as it would be now, its times to live lowered by its age; None if there is no valid one."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        now = self._clock()
        if now >= entry.until:
            self._drop(key)
            return None
        self._entries.move_to_end(key)
        return wire.aged(entry.response, entry.places, int(now - entry.since))

    def put(self, key: Hashable, response: bytes) -> None:
        """Keep a response if it may be kept. Raises dns.exception.DNSException if it is malformed."""
        seconds, places = wire.lifetime(response)
        self._drop(key)
        if not seconds or len(response) > self._room:
            return
        now = self._clock()
        self._entries[key] = _Entry(response, places, now, now + seconds)
        self._size += len(response)
        while len(self._entries) > self._most or self._size > self._room:
            self._drop(next(iter(self._entries)))

    def _drop(self, key: Hashable) -> None:
        entry = self._entries.pop(key, None)
        if entry is not None:
            self._size -= len(entry.response)
