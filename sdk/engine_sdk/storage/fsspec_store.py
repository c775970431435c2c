"""A store over any fsspec file system.

What fsspec does not have, this store does not pretend to have: writes on a condition are refused. Traps that it knows:
`ls` answers in another form when `detail` is left out; instances and listings are cached unless one says otherwise;
`fs.to_json()` and `fs.storage_options` contain the credentials, so that neither is ever used here.
"""

from __future__ import annotations

import secrets as random_names
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal, TypeVar

from engine_sdk.contract import (
    Conflict,
    EngineError,
    NotFound,
    Stat,
    StorageCaps,
    Store,
    Unavailable,
    Unsupported,
    check_key,
    check_range,
    exactly,
    no_object,
)
from engine_sdk.storage.deadline import within
from engine_sdk.storage.errors import Translator
from engine_sdk.storage.keys import directory_of, level

T = TypeVar("T")
_TEMPORARY = ".engine-part-"
"""Beginning of the name under which a file is written before it gets its own. Listings leave such names out."""


def filesystem(protocol: str, **arguments: Any) -> Any:
    """Return a file system of an installed fsspec protocol, of its own: neither instance nor listings are cached.

    Raises Unsupported if the protocol, or the package that it needs, is not installed.
    """
    import fsspec

    try:
        return without_listings_cache(fsspec.filesystem(protocol, skip_instance_cache=True, **arguments))
    except (ImportError, ValueError) as err:
        if isinstance(err, ValueError) and "Protocol not known" not in str(err):
            raise
        raise Unsupported(
            f"there is no client for {protocol}://", why=str(err), hint="Install the package that it names"
        ) from err


def without_listings_cache(fs: Any) -> Any:
    """Turn off the cache of listings of a file system, and of those that it is chained to; return the first.

    It is done afterwards: some clients hand an argument `use_listings_cache` on to a library that does not know it.
    """
    inner = fs
    while inner is not None:
        cache = getattr(inner, "dircache", None)
        if cache is not None and hasattr(cache, "use_listings_cache"):
            cache.use_listings_cache = False
        inner = getattr(inner, "fs", None)
    return fs


class FsspecStore(Store):
    """Objects are the files below `root` of an fsspec file system.

    `deadline` (seconds) bounds every request. Of a file system with directories (`caps.hierarchical`) a file is written
    under a temporary name and renamed, so that nobody sees half of it.
    """

    def __init__(self, fs: Any, root: str, *, caps: StorageCaps, translate: Translator, deadline: float = 60.0) -> None:
        if caps.put_if:
            raise ValueError("fsspec has no conditional writes: do not declare put_if")
        if caps.delete_if:
            raise ValueError("fsspec has no conditional removals: do not declare delete_if")
        self.caps = caps
        self.heads_first = caps.hierarchical
        """Ask what a key is before reading it: it may be a directory."""
        self.fs = fs
        self.root = root.rstrip("/") or root[:1]
        self._base = self.root if self.root in ("", "/") else self.root + "/"  # some have paths without a first slash
        self.translate = translate
        self._deadline = deadline
        self._made: set[str] = set()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.translate.driver}, {self.root!r})"

    # For subclasses

    def path(self, key: str) -> str:
        """Return the path of an object; InvalidParameter for a key that cannot be one."""
        check_key(key, self.caps, driver=self.translate.driver)
        return self._base + key

    def read(self, path: str, start: int, end: int | None) -> bytes:
        """Read a range. A subclass may know a better way than the file system's `cat_file`."""
        if start == 0 and end is None:
            return bytes(self.fs.cat_file(path))
        return bytes(self.fs.cat_file(path, start=start, end=end))

    def ask(self, what: str, call: Callable[[], T]) -> T:
        """Make a call within the deadline, its errors translated."""
        with self.translate(what):
            return within(self._deadline, call)

    # Store

    def head(self, key: str) -> Stat | None:
        """Return an object's facts, or None if there is none."""
        info = self._info(self.path(key), f"asking for {key!r}")
        return None if info is None or info["type"] == "directory" else self._stat(key, info)

    def _info(self, path: str, what: str) -> dict[str, Any] | None:
        def info() -> dict[str, Any] | None:
            try:
                return dict(self.fs.info(path))
            except NotADirectoryError:
                return None
            except FileNotFoundError as err:
                # Some clients say "not found" for whatever went wrong, and name the cause.
                if err.__cause__ is not None and self.translate.kind(err.__cause__) is not NotFound:
                    raise err.__cause__ from None
                return None

        return self.ask(what, info)

    def _stat(self, key: str, info: Mapping[str, Any]) -> Stat:
        changed = next((info[n] for n in ("mtime", "LastModified", "last_modified", "created") if info.get(n)), None)
        if isinstance(changed, datetime):
            changed = (changed if changed.tzinfo else changed.replace(tzinfo=UTC)).timestamp()
        etag = next((str(info[n]) for n in ("ETag", "etag", "e_tag") if info.get(n)), None)
        size = info.get("size")
        if size is None:  # listings of web servers do not tell it
            size = (self._info(self.path(key), f"asking for {key!r}") or {}).get("size")
        if size is None:
            raise Unsupported(f"the size of {key!r} is not known", why="the server does not tell it")
        mtime = float(changed) if isinstance(changed, int | float) else None
        return Stat(key=key, size=int(size), etag=etag, mtime=mtime)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive); ShortRead where the answer is longer or shorter."""
        check_range(start, end)
        path = self.path(key)
        if self.heads_first or end == start or (end is None and start):
            facts = self.head(key)  # it also tells a directory from a file
            if facts is None:
                raise no_object(key, driver=self.translate.driver)
            if end is None:
                end = max(facts.size, start)
            elif end > facts.size:
                return exactly(b"", end - start, key, driver=self.translate.driver)
        if end == start:
            return b""
        try:
            data = self.ask(f"reading {key!r}", partial(self.read, path, start, end))
        except Unavailable:
            facts = self.head(key) if end is not None else None
            if facts is None or end is None or end <= facts.size:
                raise
            data = b""  # servers answer with an error of their own to a range behind the end
        return data if end is None else exactly(data, end - start, key, driver=self.translate.driver)

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object. Unsupported with `if_match` or `metadata`: fsspec has neither."""
        return self.put_stream(key, (data,), if_match=if_match, metadata=metadata)

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        """Write an object from pieces."""
        path = self.path(key)
        self._writable(if_match, metadata)
        what = f"writing {key!r}"
        if not self.caps.hierarchical:
            data = b"".join(chunks)
            self.ask(what, lambda: self.fs.pipe_file(path, data))
        else:
            self._put_file(key, path, iter(chunks), what)
        facts = self.head(key)
        if facts is None:
            raise Conflict(f"{key!r} was removed while it was written", driver=self.translate.driver)
        return facts

    def _put_file(self, key: str, path: str, chunks: Iterator[bytes], what: str) -> None:
        info = self._info(path, what)
        if info and info["type"] == "directory":
            raise Conflict(f"{key!r} is a directory of other objects", driver=self.translate.driver)
        directory = directory_of(path)
        try:
            if directory:
                self.ask(what, lambda: self.fs.makedirs(directory, exist_ok=True))
        except EngineError as err:
            self._refuse_below_a_file(key, err)
            raise
        beginning = path[: path.rfind("/") + 1]
        temporary = f"{beginning}{_TEMPORARY}{random_names.token_hex(8)}"
        try:
            file = self.ask(what, lambda: self.fs.open(temporary, "wb"))
            try:
                for chunk in chunks:
                    self.ask(what, partial(file.write, chunk))
            finally:
                self.ask(what, file.close)
            self.ask(what, lambda: self.fs.mv(temporary, path))
        except BaseException:
            with self.translate(what):
                if self._info(temporary, what):
                    self.ask(what, lambda: self.fs.rm_file(temporary))
            raise

    def _refuse_below_a_file(self, key: str, err: EngineError) -> None:
        """Raise Conflict if a directory could not be made because an object is in its place."""
        parts = key.split("/")
        for n in range(1, len(parts)):
            if self.head("/".join(parts[:n])) is not None:
                raise Conflict(f"{'/'.join(parts[:n])!r} is an object already", driver=self.translate.driver) from err

    def _writable(self, if_match: str | None, metadata: Mapping[str, str] | None) -> None:
        driver = self.translate.driver
        if not self.caps.writable:
            raise Unsupported("this store is read-only", driver=driver)
        if if_match is not None:
            raise Unsupported("this store knows no conditions", driver=driver, hint="s3, gcs and azure can")
        if metadata:
            raise Unsupported("this store keeps no metadata", driver=driver)

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove an object; one that is gone already is no error. Unsupported with `if_match`."""
        path = self.path(key)
        self._writable(if_match, None)
        info = self._info(path, f"removing {key!r}")
        if info is None or info["type"] == "directory":
            return

        def remove() -> None:
            try:
                self.fs.rm_file(path)
            except FileNotFoundError:
                pass

        self.ask(f"removing {key!r}", remove)

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over the files below the root, or over one directory of them."""
        directory = directory_of(prefix)
        if directory:
            self.path(directory)
        stats = self._walk((self._base + directory).rstrip("/"), bool(delimiter))
        if delimiter:
            return level(stats, prefix)
        return (stat for stat in stats if stat.key.startswith(prefix))

    def _walk(self, path: str, one_level: bool) -> Iterator[Stat]:
        todo = [path]
        while todo:
            directory = todo.pop()
            for info in self._ls(directory):
                key = self._key(str(info["name"]))
                if key is None or key.rpartition("/")[2].startswith(_TEMPORARY):
                    continue
                if info["type"] != "directory":
                    yield self._stat(key, info)
                elif one_level:
                    yield Stat(key=f"{key}/x", size=0)  # `level` makes a common prefix of it
                else:
                    todo.append(self._base + key)

    def _key(self, name: str) -> str | None:
        """Return the key of what a listing names; None for the root itself and for what is not below it."""
        root = self.root.lstrip("/")
        name = name.lstrip("/").rstrip("/")
        if not root:
            return name or None
        return name[len(root) + 1 :] or None if name.startswith(root + "/") else None

    def _ls(self, path: str) -> Sequence[dict[str, Any]]:
        def ls() -> Sequence[dict[str, Any]]:
            try:
                found = [dict(info) for info in self.fs.ls(path or self.root, detail=True)]
            except (FileNotFoundError, NotADirectoryError):
                return []
            own = path.strip("/")
            return [info for info in found if str(info["name"]).strip("/") != own]

        return self.ask(f"listing {path!r}", ls)

    def copy(self, source: str, target: str) -> Stat:
        """Copy an object on the server, where `caps` says so."""
        if not self.caps.server_copy:
            return super().copy(source, target)
        here, there = self.path(source), self.path(target)
        self.ask(f"copying {source!r}", lambda: self.fs.cp_file(here, there))
        facts = self.head(target)
        if facts is None:
            raise no_object(target, driver=self.translate.driver)
        return facts

    def check(self) -> None:
        """Ask for the root; NotFound if a file system with directories does not have it."""
        info = self._info(self.root or "/", f"asking for {self.root or '/'}")
        if info is None and self.caps.hierarchical and self.root:
            raise NotFound(
                f"there is no directory {self.root!r}", driver=self.translate.driver, hint="Make it on the server first"
            )
