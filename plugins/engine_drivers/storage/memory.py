"""`memory`: objects in this process, gone with it. For tests, and the shortest complete store there is."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Literal

from engine_sdk import (
    ABSENT,
    Conflict,
    Stat,
    StorageCaps,
    StorageDriver,
    StorageOptions,
    Store,
    check_key,
    check_range,
    exactly,
    no_object,
)
from engine_sdk.storage import Location, level, matching

_CAPS = StorageCaps(
    durable=False, ranged=True, put_if=True, delete_if=True, server_copy=True, metadata=True, delimiter=True
)
_Object = tuple[bytes, Stat]


class _Bucket:
    """Objects by their names. The lock makes a condition and its write one step."""

    def __init__(self) -> None:
        self.objects: dict[str, _Object] = {}
        self.lock = threading.Lock()
        self.writes = 0


_buckets: dict[str, _Bucket] = {}
_buckets_lock = threading.Lock()


class MemoryStore(Store):
    """Objects of one bucket, below a prefix."""

    caps = _CAPS

    def __init__(self, bucket: _Bucket, prefix: str) -> None:
        self._bucket = bucket
        self._prefix = prefix + "/" if prefix else ""

    def _find(self, key: str) -> _Object | None:
        check_key(key, self.caps, driver="memory")
        return self._bucket.objects.get(self._prefix + key)

    def head(self, key: str) -> Stat | None:
        """Return an object's facts, or None if there is none."""
        found = self._find(key)
        return found and found[1]

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive), or to the end."""
        check_range(start, end)
        found = self._find(key)
        if found is None:
            raise no_object(key, driver="memory")
        size = max(0, len(found[0]) - start) if end is None else end - start
        return exactly(found[0][start:end], size, key, driver="memory")

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object, with `if_match` on a condition."""
        check_key(key, self.caps, driver="memory")
        with self._bucket.lock:
            found = self.head(key)
            if if_match is not None and if_match != (found.etag if found else ABSENT):
                raise Conflict(f"writing {key!r}", driver="memory", why="the object is not what the condition says")
            self._bucket.writes += 1
            etag = f'"{self._bucket.writes}-{hashlib.blake2b(data, digest_size=8).hexdigest()}"'
            stat = Stat(key=key, size=len(data), etag=etag, mtime=time.time(), metadata=dict(metadata or {}))
            self._bucket.objects[self._prefix + key] = (bytes(data), stat)
        return stat

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove an object, with `if_match` on a condition; one that is gone already is no error."""
        check_key(key, self.caps, driver="memory")
        with self._bucket.lock:
            found = self.head(key)
            if if_match is not None and found is not None and found.etag != if_match:
                raise Conflict(f"removing {key!r}", driver="memory", why="the object is not what the condition says")
            self._bucket.objects.pop(self._prefix + key, None)

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over the objects as they are now."""
        with self._bucket.lock:
            now = sorted(self._bucket.objects.items())
        stats = (
            stat.model_copy(update={"key": name[len(self._prefix) :], "metadata": {}})
            for name, (_, stat) in now
            if name.startswith(self._prefix)
        )
        return level(stats, prefix) if delimiter else matching(stats, prefix)

    def copy(self, source: str, target: str) -> Stat:
        """Copy an object with its metadata."""
        found = self._find(source)
        if found is None:
            raise no_object(source, driver="memory")
        return self.put(target, found[0], metadata=found[1].metadata)


class MemoryDriver(StorageDriver[StorageOptions]):
    """Keep objects in the memory of one process: `memory://name/prefix`. They are gone when it ends."""

    caps = _CAPS
    schemes = ("memory",)

    def open_store(self, url: str, options: StorageOptions, secrets: Mapping[str, bytes]) -> Store:
        """Return the store; every process has its own, by the name in the URL."""
        location = Location.parse(url, driver="memory")
        with _buckets_lock:
            bucket = _buckets.setdefault(location.host, _Bucket())
        return MemoryStore(bucket, location.path)
