"""`file`: each object is a file below a directory.

fsspec's local file system writes in place and knows no condition, so that this store is written against the kernel: an
object appears by rename(2), whole and synced, and conditions are decided under an flock(2) on the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets as random_names
import shutil
import stat as modes
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

from engine_sdk import (
    ABSENT,
    Conflict,
    Field,
    InvalidParameter,
    Stat,
    StorageCaps,
    StorageDriver,
    StorageOptions,
    Store,
    Unsupported,
    check_key,
    check_range,
    exactly,
    no_object,
)
from engine_sdk.storage import Location, Translator, level, matching

_CAPS = StorageCaps(
    ranged=True,
    put_if=True,
    delete_if=True,
    server_copy=True,
    multipart=True,
    delimiter=True,
    hierarchical=True,
    max_key=3800,  # PATH_MAX is 4096 with the root and the final NUL
    max_segment=255,  # NAME_MAX (linux/limits.h)
)
_PART = ".engine-part-"
"""Beginning of the names of files that are being written. Listings leave them out."""


class FileOptions(StorageOptions):
    """Options of a directory of objects."""

    create: bool = Field(default=True, description="Make the directory if it does not exist")
    fsync: bool = Field(default=True, description="Have each object on the disk before its write returns")


class DirectoryStore(Store):
    """Objects are the files below a directory; symbolic links and special files are none.

    A condition holds among all programs that take the flock(2) of the directory for their writes, as this store does.
    """

    caps = _CAPS

    def __init__(self, root: Path, *, fsync: bool = True) -> None:
        self._root = root
        self._fsync = fsync
        self._translate = Translator("file")

    def __repr__(self) -> str:
        return f"DirectoryStore({str(self._root)!r})"

    def _path(self, key: str) -> Path:
        check_key(key, self.caps, driver="file")
        if any(segment.startswith(_PART) for segment in key.split("/")):
            raise InvalidParameter(f"the key {key!r} cannot be stored", why=f"{_PART} is for unfinished files")
        return self._root / key

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        descriptor = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def head(self, key: str) -> Stat | None:
        """Return a file's facts, or None if there is none."""
        path = self._path(key)
        with self._translate(f"asking for {key!r}"):
            try:
                facts = path.lstat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return _stat(key, facts) if modes.S_ISREG(facts.st_mode) else None

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive), or to the end."""
        check_range(start, end)
        path = self._path(key)
        with self._translate(f"reading {key!r}"):
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except NotADirectoryError:
                raise no_object(key, driver="file") from None
            try:
                facts = os.fstat(descriptor)
                if not modes.S_ISREG(facts.st_mode):
                    raise no_object(key, driver="file")
                size = (max(facts.st_size, start) if end is None else end) - start
                if start + size > facts.st_size:
                    size = max(0, facts.st_size - start)
                data = _read(descriptor, start, size)
            finally:
                os.close(descriptor)
        return exactly(data, size if end is None else end - start, key, driver="file")

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Write an object; it appears whole."""
        return self.put_stream(key, (data,), if_match=if_match, metadata=metadata)

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        """Write an object from pieces; it appears whole, after the last one."""
        path = self._path(key)
        if metadata:
            raise Unsupported("this store keeps no metadata", driver="file")
        with self._translate(f"writing {key!r}"):
            temporary = self._root / f"{_PART}{random_names.token_hex(8)}"
            try:
                with temporary.open("xb") as file:
                    for chunk in chunks:
                        file.write(chunk)
                    file.flush()
                    if self._fsync:
                        os.fsync(file.fileno())
                with self._locked():
                    self._publish(key, temporary, path, if_match)
                    return _stat(key, path.lstat())
            finally:
                temporary.unlink(missing_ok=True)

    def _publish(self, key: str, temporary: Path, path: Path, if_match: str | None) -> None:
        """Give a finished file its name. The lock is held, so that nobody takes away an empty directory meanwhile."""
        found = self.head(key)
        if if_match is not None and if_match != (found.etag if found else ABSENT):
            raise Conflict(f"writing {key!r}", driver="file", why="the object is not what the condition says")
        missing = [p for p in (path.parent, *path.parents) if p.is_relative_to(self._root) and not p.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir() and not path.is_symlink():
            raise Conflict(f"writing {key!r}", driver="file", why="it is a directory of other objects")
        temporary.rename(path)
        if self._fsync:
            for directory in {path.parent, *(p.parent for p in missing)}:
                _sync_directory(directory)

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove a file and the directories that are empty then; one that is gone already is no error."""
        path = self._path(key)
        with self._translate(f"removing {key!r}"), self._locked():
            found = self.head(key)
            if found is None:
                return
            if if_match is not None and found.etag != if_match:
                raise Conflict(f"removing {key!r}", driver="file", why="the object is not what the condition says")
            path.unlink(missing_ok=True)
            for directory in path.parents:
                if directory == self._root:
                    break
                try:
                    directory.rmdir()
                except OSError:  # not empty: it stays
                    break
            if self._fsync:
                _sync_directory(next(p for p in path.parents if p.exists()))

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over the files below the directory that the prefix is in."""
        directory = prefix.rpartition("/")[0]
        if directory:
            self._path(directory)
        stats = self._walk(directory, bool(delimiter))
        return level(stats, prefix) if delimiter else matching(stats, prefix)

    def _walk(self, below: str, one_level: bool) -> Iterator[Stat]:
        todo = [below]
        while todo:
            directory = todo.pop()
            for entry in self._scan(directory):
                key = f"{directory}/{entry.name}" if directory else entry.name
                if entry.name.startswith(_PART):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    if one_level:
                        yield Stat(key=f"{key}/x", size=0)  # `level` makes a common prefix of it
                    else:
                        todo.append(key)
                elif entry.is_file(follow_symlinks=False) and (facts := _facts(entry)):
                    yield _stat(_readable(key), facts)

    def _scan(self, directory: str) -> Sequence[os.DirEntry[str]]:
        with self._translate(f"listing {directory!r}"):
            try:
                with os.scandir(self._root / directory) as entries:
                    return list(entries)
            except (FileNotFoundError, NotADirectoryError):
                return []

    def copy(self, source: str, target: str) -> Stat:
        """Copy a file: by reflink or in the kernel, where the file system can."""
        here = self._path(source)
        with self._translate(f"copying {source!r}"):
            if self.head(source) is None:
                raise no_object(source, driver="file")
            temporary = self._root / f"{_PART}{random_names.token_hex(8)}"
            there = self._path(target)
            try:
                shutil.copyfile(here, temporary, follow_symlinks=False)
                if self._fsync:
                    with temporary.open("rb") as file:
                        os.fsync(file.fileno())
                with self._locked():
                    self._publish(target, temporary, there, None)
                    return _stat(target, there.lstat())
            finally:
                temporary.unlink(missing_ok=True)

    def check(self) -> None:
        """Look into the directory; NotFound if it is gone."""
        with self._translate(f"asking for {self._root}"), os.scandir(self._root) as entries:
            next(entries, None)


def _readable(key: str) -> str:
    """Return a file's name as a key; InvalidParameter for one that is not UTF-8: it must not be lost silently."""
    try:
        key.encode()
    except UnicodeEncodeError as err:
        raise InvalidParameter(f"the name of the file {key!r} is not UTF-8", driver="file", hint="Rename it") from err
    return key


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # removed since the directory was read
        return None


def _stat(key: str, facts: os.stat_result) -> Stat:
    etag = f'"{facts.st_ino:x}-{facts.st_size:x}-{facts.st_mtime_ns:x}"'
    return Stat(key=key, size=facts.st_size, etag=etag, mtime=facts.st_mtime_ns / 1e9)


def _read(descriptor: int, start: int, size: int) -> bytes:
    """Read a range, or up to the end of the file if that comes first."""
    parts = []
    while size > 0 and (part := os.pread(descriptor, min(size, 1 << 30), start)):
        parts.append(part)
        start, size = start + len(part), size - len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class FileDriver(StorageDriver[FileOptions]):
    """Keep objects as files below a directory: `file:///srv/objects`."""

    caps = _CAPS
    schemes = ("file", "local")

    def open_store(self, url: str, options: FileOptions, secrets: Mapping[str, bytes]) -> Store:
        """Return the store, its directory made if it was not there."""
        location = Location.parse(url, driver="file")
        if location.host not in ("", "localhost"):
            raise InvalidParameter(f"file://{location.host}/ is on another host", driver="file", hint="file:///PATH")
        root = Path("/" + location.path)
        with Translator("file")(f"opening {root}"):
            if options.create:
                root.mkdir(parents=True, exist_ok=True)
            if not root.is_dir():
                raise no_object(str(root), driver="file")
        return DirectoryStore(root, fsync=options.fsync)
