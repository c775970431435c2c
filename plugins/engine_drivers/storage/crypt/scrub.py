"""Looks at every object of an encrypted store: is it the one that the manifest knows, whole and unchanged?"""

from __future__ import annotations

import time
from collections.abc import Iterator

from engine_drivers.storage.crypt.content import BLOCK, HEADER, SEALED, Content, Damaged, nonce_of, plain_size
from engine_drivers.storage.crypt.manifest import DELAY, Manifest, Tampered
from engine_drivers.storage.crypt.names import Names
from engine_drivers.storage.crypt.segments import DIRECTORY, Entry
from engine_sdk import SCRUB_PART, Checked, NotFound, ShortRead, Stat, Store

_BLOCKS = SCRUB_PART // BLOCK


class Scrub:
    """One walk over a store."""

    def __init__(self, inner: Store, content: Content, names: Names, manifest: Manifest | None, accept: bool) -> None:
        self._inner, self._content, self._names = inner, content, names
        self._manifest, self._accept = manifest, accept
        self._seen: set[str] = set()

    def run(self) -> Iterator[Checked]:
        """Yield what is found of each object, and of those that are missing."""
        for stat in self._inner.list():
            if stat.key.startswith(DIRECTORY):
                continue
            self._seen.add(stat.key)
            found = self._object(stat)
            if found is not None:
                yield found
        yield from self._missing()
        if self._manifest is not None:
            self._manifest.flush()

    def _object(self, stat: Stat) -> Checked | None:
        """Look at one object; None if it was removed meanwhile."""
        try:
            key = self._names.show(stat.key)
        except Damaged as err:
            return Checked(key=stat.key, size=stat.size, problem="foreign", detail=str(err))
        for last in (False, True):
            try:
                return self._read(key, stat)
            except NotFound:
                return None
            except (Damaged, ShortRead) as err:
                fresh = self._inner.head(stat.key)
                if fresh is None:
                    return None
                if not last and (fresh.etag, fresh.size, fresh.mtime) != (stat.etag, stat.size, stat.mtime):
                    stat = fresh  # it was written meanwhile
                    continue
                problem = err.problem if isinstance(err, Tampered) else "damaged"
                if self._accept and isinstance(err, Tampered):
                    self._take(stat)
                return Checked.model_validate(
                    {"key": key, "size": stat.size, "problem": problem, "detail": getattr(err, "why", "") or str(err)}
                )
        return None

    def _read(self, key: str, stat: Stat) -> Checked:
        size = plain_size(stat.size)
        nonce = nonce_of(self._inner.get(stat.key, 0, HEADER))
        known = self._manifest is None or self._manifest.known(stat.key) is not None
        if self._manifest is not None:
            self._manifest.check(stat.key, Entry(nonce, stat.size))
        for first in range(0, -(-size // BLOCK), _BLOCKS):
            start = HEADER + first * SEALED
            sealed = self._inner.get(stat.key, start, min(stat.size, start + _BLOCKS * SEALED))
            self._content.open(sealed, nonce, first)
        if known:
            return Checked(key=key, size=size)
        detail = "it was not in the manifest; somebody with the key wrote it, for example rclone"
        return Checked(key=key, size=size, problem="foreign", detail=detail)

    def _take(self, stat: Stat) -> None:
        assert self._manifest is not None
        nonce = nonce_of(self._inner.get(stat.key, 0, HEADER))
        self._manifest.accept(stat.key, Entry(nonce, stat.size))

    def _missing(self) -> Iterator[Checked]:
        if self._manifest is None or not self._manifest.names() - self._seen:
            return
        time.sleep(2 * DELAY)  # another process may have removed them, and not noted it yet
        self._manifest.refresh()
        for name in sorted(self._manifest.names() - self._seen):
            if self._inner.head(name) is not None:
                continue
            if self._accept:
                self._manifest.accept(name, None)
            detail = "it was removed by somebody else, or just before the engine was killed"
            try:
                yield Checked(key=self._names.show(name), problem="missing", detail=detail)
            except Damaged:
                yield Checked(key=name, problem="missing", detail=detail)
