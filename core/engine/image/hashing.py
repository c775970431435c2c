"""Streams that are hashed and counted as they pass."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from engine.image.compression import Readable


class Hashed:
    """Hashes and counts what is read from a stream, and hands it to `also`."""

    def __init__(self, source: Readable, also: Callable[[bytes], object] | None = None) -> None:
        self._source = source
        self._also = also
        self._hash = hashlib.sha256()
        self.size = 0

    def read(self, size: int = -1, /) -> bytes:
        """Return at most `size` bytes; empty at the end."""
        data = self._source.read(size)
        self._hash.update(data)
        self.size += len(data)
        if self._also is not None:
            self._also(data)
        return data

    @property
    def digest(self) -> str:
        """Of what was read until now: `sha256:...`."""
        return "sha256:" + self._hash.hexdigest()
