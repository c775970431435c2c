"""A store over obstore: object stores with conditional writes, metadata, copies and uploads in parts.

obstore (the Rust crate object_store) is used where the store has compare-and-swap, which fsspec has no interface for.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from engine_sdk.contract import (
    ABSENT,
    Conflict,
    InvalidParameter,
    Stat,
    StorageCaps,
    Store,
    Unsupported,
    check_key,
    check_range,
    exactly,
    no_object,
)
from engine_sdk.storage.errors import Translator
from engine_sdk.storage.keys import directory_of, matching
from engine_sdk.storage.signed_removals import SignedRemovals

PART = 8 << 20
"""Bytes of a part of a multipart upload, and the size from which an object is sent so."""


class ObstoreStore(Store):
    """Objects are those of an obstore store below `prefix`.

    `condition` is what a conditional write names to the server: the etag, or in GCS the version (its "generation"). An
    object is known by its etag in any case, because listings tell no version: that is asked for just before the write.
    `removals` removes on a condition, where the protocol has that.
    """

    def __init__(
        self,
        store: Any,
        prefix: str,
        *,
        caps: StorageCaps,
        translate: Translator,
        condition: Literal["e_tag", "version"] = "e_tag",
        removals: SignedRemovals | None = None,
    ) -> None:
        if caps.delete_if and removals is None:
            raise ValueError("obstore has no conditional removals: do not declare delete_if without `removals`")
        self.caps = caps
        self._removals = removals
        self._condition = condition
        self._store = store
        self._prefix = prefix.strip("/")
        self._translate = translate

    def __repr__(self) -> str:
        return f"ObstoreStore({self._translate.driver}, {self._prefix!r})"

    @staticmethod
    def client_options(deadline: float, *, allow_http: bool) -> dict[str, Any]:
        """Return obstore's `client_options` and `retry_config` for requests that end within `deadline` seconds.

        A request may move a part of 8 MiB: its own time is the whole deadline; a connection gets a third of it.
        """
        return {
            "client_options": {
                "allow_http": allow_http,
                "timeout": timedelta(seconds=deadline),
                "connect_timeout": timedelta(seconds=max(1.0, deadline / 3)),
            },
            "retry_config": {"max_retries": 5, "retry_timeout": timedelta(seconds=deadline)},
        }

    def _path(self, key: str) -> str:
        check_key(key, self.caps, driver=self._translate.driver)
        if any(ord(c) < 32 or ord(c) == 127 for c in key):
            raise InvalidParameter(
                f"the key {key!r} cannot be stored", why="it has a control character", driver=self._translate.driver
            )
        return f"{self._prefix}/{key}" if self._prefix else key

    def _stat(self, meta: Mapping[str, Any], metadata: Mapping[str, str] | None = None) -> Stat:
        changed = meta.get("last_modified")
        return Stat(
            key=self._key(meta["path"]),
            size=meta["size"],
            etag=_quoted(meta.get("e_tag")),
            mtime=changed.timestamp() if isinstance(changed, datetime) else None,
            metadata=dict(metadata or {}),
        )

    def _key(self, path: str) -> str:
        return path[len(self._prefix) + 1 :] if self._prefix else path

    def head(self, key: str) -> Stat | None:
        """Return an object's facts with its metadata, or None if there is none."""
        import obstore

        path = self._path(key)
        with self._translate(f"asking for {key!r}"):
            try:
                answer = obstore.get(self._store, path, options={"head": True})
            except FileNotFoundError:
                return None
            own = {k: v for k, v in answer.attributes.items() if isinstance(k, str) and k not in _STANDARD}
            return self._stat(answer.meta, own)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive), or to the end."""
        return bytes(self.view(key, start, end))

    def view(self, key: str, start: int = 0, end: int | None = None) -> memoryview:
        """Return the same where the client has it: for large reads the copy would cost as much as the transfer."""
        check_range(start, end)
        path, driver = self._path(key), self._translate.driver
        if start == end:
            if self.head(key) is None:
                raise no_object(key, driver=driver)
            return memoryview(b"")
        if end is None:
            return self._get_rest(key, path, start)
        return exactly(self._get_range(key, path, start, end), end - start, key, driver=driver)

    def _get_rest(self, key: str, path: str, start: int) -> memoryview:
        if start:
            facts = self.head(key)
            if facts is None:
                raise no_object(key, driver=self._translate.driver)
            return self.view(key, start, max(start, facts.size))
        import obstore

        with self._translate(f"reading {key!r}"):
            answer = obstore.get(self._store, path)
            return exactly(memoryview(answer.bytes()), answer.meta["size"], key, driver=self._translate.driver)

    def _get_range(self, key: str, path: str, start: int, end: int) -> memoryview:
        import obstore

        with self._translate(f"reading {key!r}"):
            try:
                return memoryview(obstore.get_range(self._store, path, start=start, end=end))
            except Exception:
                # A range that begins behind the end is an error of the server's, in words of its own.
                facts = self.head(key)
                if facts is not None and start >= facts.size:
                    return memoryview(b"")
                raise

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object; with `if_match` in one request, else in parts if it is large."""
        return self._put(key, data, len(data) >= PART, if_match, metadata)

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        """Write an object from pieces, in parts; with `if_match` in one request, from memory."""
        if if_match is not None:
            return self.put(key, b"".join(chunks), if_match=if_match, metadata=metadata)
        watched = _Watched(chunks)
        try:
            return self._put(key, watched, True, None, metadata)
        except Exception as err:
            if watched.error is not None:  # the caller's own error, not the store's
                raise watched.error from err
            raise

    def _put(
        self,
        key: str,
        data: bytes | Iterable[bytes],
        parts: bool,
        if_match: str | None,
        metadata: Mapping[str, str] | None,
    ) -> Stat:
        import obstore

        path, driver = self._path(key), self._translate.driver
        if not self.caps.writable:
            raise Unsupported("this store is read-only", driver=driver)
        if if_match is not None and not self.caps.put_if:
            raise Unsupported("this store cannot write on a condition", driver=driver)
        if metadata and not self.caps.metadata:
            raise Unsupported("this store keeps no metadata", driver=driver)
        with self._translate(f"writing {key!r}"), _condition_on(if_match):
            mode = self._mode(path, if_match)
            answer = obstore.put(
                self._store,
                path,
                data,
                attributes=dict(metadata) if metadata else None,
                mode=mode,
                use_multipart=parts and mode is None,
                chunk_size=PART,
                max_concurrency=4,
            )
        written = _quoted(answer.get("e_tag"))
        if isinstance(data, bytes) and written:
            # Not asked for again: the object may be somebody else's by then, and it would be taken for ours.
            return Stat(key=key, size=len(data), etag=written, metadata=dict(metadata or {}))
        facts = self.head(key)
        if facts is None:
            raise no_object(key, driver=driver)
        return facts if not written else facts.model_copy(update={"etag": written})

    def _mode(self, path: str, if_match: str | None) -> Any:
        """Return obstore's `mode` of a write on a condition; None without one."""
        if if_match is None:
            return None
        if if_match == ABSENT:
            return "create"
        if self._condition == "e_tag":
            return {"e_tag": if_match}
        import obstore

        facts = obstore.head(self._store, path)
        if _quoted(facts.get("e_tag")) != if_match:
            raise Conflict("the object that is to be replaced has changed")
        return {"version": facts.get("version")}

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove an object, with `if_match` on a condition; one that is gone already is no error."""
        import obstore

        path = self._path(key)
        if not self.caps.writable:
            raise Unsupported("this store is read-only", driver=self._translate.driver)
        if if_match is not None:
            return self._delete_if(key, path, if_match)
        with self._translate(f"removing {key!r}"):
            try:
                obstore.delete(self._store, path)
            except FileNotFoundError:
                pass

    def _delete_if(self, key: str, path: str, if_match: str) -> None:
        if not self.caps.delete_if or self._removals is None:
            raise Unsupported("this store cannot remove on a condition", driver=self._translate.driver)
        with self._translate(f"removing {key!r}"):
            if not self._removals.remove(path, if_match) and self.head(key) is not None:
                raise Conflict(f"removing {key!r}", why="the object is not what the condition says")

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over the objects; the server is asked for the directory that the prefix is in."""
        directory = directory_of(prefix)
        if directory:
            self._path(directory)
        below = "/".join(filter(None, (self._prefix, directory)))
        stats = self._one_level(below) if delimiter else self._all(below)
        return matching(stats, prefix)

    def _all(self, below: str) -> Iterator[Stat]:
        import obstore

        with self._translate(f"listing {below!r}"):
            for batch in obstore.list(self._store, f"{below}/" if below else None, chunk_size=1000):
                for meta in batch:
                    yield self._stat(meta)

    def _one_level(self, below: str) -> Iterator[Stat]:
        import obstore

        with self._translate(f"listing {below!r}"):
            found = obstore.list_with_delimiter(self._store, f"{below}/" if below else None)
            for prefix in found["common_prefixes"]:
                yield Stat(key=self._key(prefix.rstrip("/")) + "/", size=0, is_prefix=True)
            for meta in found["objects"]:
                yield self._stat(meta)

    def copy(self, source: str, target: str) -> Stat:
        """Copy an object on the server."""
        import obstore

        if not self.caps.server_copy:
            return super().copy(source, target)
        here, there = self._path(source), self._path(target)
        with self._translate(f"copying {source!r}"):
            obstore.copy(self._store, here, there)
        facts = self.head(target)
        if facts is None:
            raise no_object(target, driver=self._translate.driver)
        return facts

    def check(self) -> None:
        """List the first objects: unlike asking for one, this tells a bucket that does not exist from an empty one."""
        import obstore

        with self._translate("asking for the bucket"):
            next(iter(obstore.list(self._store, f"{self._prefix}/" if self._prefix else None, chunk_size=1)), None)

    def close(self) -> None:
        """Close the connections that are not obstore's own."""
        if self._removals is not None:
            self._removals.close()


def _quoted(etag: str | None) -> str | None:
    """Return an etag as HTTP spells it (RFC 9110, 8.8.3): in listings, Azure leaves the quotes out."""
    return etag if etag is None or etag.endswith('"') else f'"{etag}"'


@contextlib.contextmanager
def _condition_on(if_match: str | None) -> Iterator[None]:
    """Make a Conflict of "not found" in a write over an object: it is gone (unless the whole bucket is)."""
    try:
        yield
    except FileNotFoundError as err:
        if if_match in (None, ABSENT) or "NoSuchBucket" in str(err):
            raise
        raise Conflict("the object that is to be replaced does not exist") from None


_STANDARD = frozenset(
    {"Content-Disposition", "Content-Encoding", "Content-Language", "Content-Type", "Cache-Control", "StorageClass"}
)
"""Attributes of HTTP, which are no metadata of ours."""


class _Watched:
    """Pieces; remembers the error that making them raised, because obstore turns it into one of its own."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._chunks)
        except StopIteration:
            raise
        except Exception as err:
            self.error = err
            raise
