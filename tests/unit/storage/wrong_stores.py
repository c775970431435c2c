"""Stores that break the contract, one way each."""

from __future__ import annotations

import itertools
import time

from engine_drivers.storage.memory import MemoryStore, _Bucket
from engine_sdk import Conflict, Field, SecretRef, Stat, StorageCaps, StorageDriver, StorageOptions


class Options(StorageOptions):
    """Options of all of them."""

    token: SecretRef | None = Field(default=None, description="Where a token is")


class Wrong(StorageDriver[Options]):
    """A store in memory, spoilt."""

    store: type[MemoryStore] = MemoryStore
    buckets = _Bucket()

    def open_store(self, url, options, secrets):
        opened = self.store(self.buckets, "")
        opened.token = secrets.get("token")
        return opened


class Blind(Wrong):
    """Ignores conditions."""

    class store(MemoryStore):
        def put(self, key, data, *, if_match=None, metadata=None):
            return super().put(key, data, metadata=metadata)


class Racy(Wrong):
    """Looks first and writes later."""

    class store(MemoryStore):
        def put(self, key, data, *, if_match=None, metadata=None):
            found = self.head(key)
            if if_match is not None and if_match != (found.etag if found else "absent"):
                raise Conflict("changed")
            time.sleep(0.01)
            return super().put(key, data, metadata=metadata)


class Careless(Wrong):
    """Ignores the conditions of removals."""

    class store(MemoryStore):
        def delete(self, key, *, if_match=None):
            super().delete(key)


class Peeping(Wrong):
    """Looks first and removes later."""

    class store(MemoryStore):
        def delete(self, key, *, if_match=None):
            found = self.head(key)
            if found is not None and if_match not in (None, found.etag):
                raise Conflict("changed")
            time.sleep(0.01)
            super().delete(key)


class Old(Wrong):
    """Is not wrong: it was written before contract 1.2, and its removals know no condition."""

    caps = StorageCaps(ranged=True, put_if=True, server_copy=True, metadata=True, delimiter=True)

    class store(MemoryStore):
        caps = StorageCaps(ranged=True, put_if=True, server_copy=True, metadata=True, delimiter=True)

        def delete(self, key):
            super().delete(key)


class Whole(Wrong):
    """Ignores the end of a range."""

    class store(MemoryStore):
        def get(self, key, start=0, end=None):
            return super().get(key, start) if end is not None and end > start else super().get(key, start, end)


class Short(Wrong):
    """Gives less at the end of an object, and says nothing."""

    class store(MemoryStore):
        def get(self, key, start=0, end=None):
            if start > 0 or end is not None:
                stat = self.head(key)
                end = end if stat is None or end is None or end < start else max(start, min(end, stat.size))
            return super().get(key, start, end)


class Paged(Wrong):
    """Lists the first page only."""

    class store(MemoryStore):
        def list(self, prefix="", *, delimiter=""):
            return itertools.islice(super().list(prefix, delimiter=delimiter), 1000)


class Deep(Wrong):
    """Ignores the delimiter."""

    class store(MemoryStore):
        def list(self, prefix="", *, delimiter=""):
            return super().list(prefix)


class Talkative(Wrong):
    """Shows its token."""

    class store(MemoryStore):
        def __repr__(self):
            return f"Talkative({self.token!r})"


class Raw(Wrong):
    """Lets errors of its own out."""

    class store(MemoryStore):
        def get(self, key, start=0, end=None):
            if self._find(key) is None:
                raise KeyError(key)
            return super().get(key, start, end)


class Strict(Wrong):
    """Takes a second deletion for an error."""

    class store(MemoryStore):
        def delete(self, key, *, if_match=None):
            if self._find(key) is None:
                raise Conflict("not there")
            super().delete(key, if_match=if_match)


class Credulous(Wrong):
    """Takes every key."""

    class store(MemoryStore):
        def _find(self, key):
            return self._bucket.objects.get(key)


class Pretender(Wrong):
    """Does not declare conditions, and writes blindly."""

    caps = StorageCaps(ranged=True, server_copy=True, metadata=True, delimiter=True)

    class store(MemoryStore):
        caps = StorageCaps(ranged=True, server_copy=True, metadata=True, delimiter=True)

        def put(self, key, data, *, if_match=None, metadata=None):
            return super().put(key, data, metadata=metadata)


class Hasty(Wrong):
    """Shows what is not whole yet."""

    class store(MemoryStore):
        def put_stream(self, key, chunks, *, if_match=None, metadata=None):
            data, written = b"", self.put(key, b"", if_match=if_match, metadata=metadata)
            for chunk in chunks:
                data += chunk
                written = self.put(key, data, metadata=metadata)
            return written


class Forgetful(Wrong):
    """Loses metadata."""

    class store(MemoryStore):
        def head(self, key):
            found = super().head(key)
            return found and Stat(**{**found.model_dump(), "metadata": {}})


class Vague(Wrong):
    """Tells no etags in listings."""

    class store(MemoryStore):
        def list(self, prefix="", *, delimiter=""):
            return (stat.model_copy(update={"etag": None}) for stat in super().list(prefix, delimiter=delimiter))
