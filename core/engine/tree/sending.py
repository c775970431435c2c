"""A file's content on its way into the store: read at one moment, noted in the journal, sent on a condition.

A file is read, and its stat(2) must be the same before and after: what is sent is what the file was at one moment. Its
digest is in the journal before the first byte is sent, and stays there until one answer comes: if answers are lost, the
object is known for ours, whichever of the uploads it is of.

Writes are conditional on the object that the local content was made from. Where the store has no such condition, and
for objects that are sent in parts, the object is asked for immediately before the write becomes visible; somebody who
writes within that moment is not noticed.
"""

from __future__ import annotations

import enum
import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from engine.spec.errors import Conflict, Unavailable
from engine.spec.storage import ABSENT, Stat
from engine.tree import changes
from engine.tree.hydration import Signature
from engine.tree.listing import version_of
from engine.tree.parts import Parts
from engine.tree.rows import Row, State, parent_of
from engine.tree.schema import Database

IN_MEMORY = 64 << 20
"""Bytes up to which a file is sent in one conditional request, from memory; larger ones are sent in parts."""
_PIECE = 1 << 20
_REMEMBERED = 1000
"""Uploads without an answer that are remembered of one file: a store that is away for hours must not fill the journal.
One that is forgotten would be kept as a conflict copy of our own; nothing is lost."""


class Outcome(enum.Enum):
    """What became of a try."""

    DONE = enum.auto()
    SENT = enum.auto()
    """The store has it, and there is more: the file was changed meanwhile."""
    CHANGED = enum.auto()
    """The file changed while it was read, or the journal did: look again."""
    HELD = enum.auto()
    """Something else comes first."""
    ALONE = enum.auto()
    """It is nothing to be done together with others: try it by itself."""


class Moving(Exception):  # it ends an upload, but is no fault
    """The file changes while it is read."""


class Content(NamedTuple):
    """What a file was at one moment."""

    fd: int
    before: Signature
    digest: str
    data: bytes | None
    """None for a file that is sent in parts."""


def read(fd: int, *, moving: bool = False) -> Content:
    """Read an open file, or only its digest if it is large; raise Moving if it changed meanwhile (unless `moving`).

    It must be on the disk: then a later store through a mapping becomes a change of mtime.
    """
    before = Signature.of(os.fstat(fd))
    digest, data = hashlib.sha256(), bytearray()
    large = before.size > IN_MEMORY
    for piece in _pieces(fd, before.size):
        digest.update(piece)
        if not large:
            data += piece
    if not moving and Signature.of(os.fstat(fd)) != before:
        raise Moving
    return Content(fd, before, digest.hexdigest(), None if large else bytes(data))


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    """Give the first `size` bytes of a file; raise Moving if it has become shorter."""
    position = 0
    while position < size:
        piece = os.pread(fd, min(_PIECE, size - position), position)
        if not piece:
            raise Moving
        position += len(piece)
        yield piece


# Parts of changes: called inside Journal.change


def intend(database: Database, path: str, *contents: str) -> bool:
    """Note what a file's object may be from now on, whether or not there is an answer; False if it has no row."""
    row = changes.get(database, path)
    if row is None:
        return False
    earlier = [each for each in row.sent.split() if each not in contents]
    sent = " ".join([*earlier, *contents][-_REMEMBERED:])
    changes.put(database, [row._replace(state="uploading", sent=sent)])
    return True


def confirm(database: Database, path: str, content: Content, version: str) -> Outcome:
    """Note that the store has this content; the file may have changed, moved or gone meanwhile."""
    row = changes.get(database, path)
    changes.mark_changed(database, [parent_of(path)])
    if changes.update_removal(database, path, version, content.digest) or row is None or row.kind != "file":
        return Outcome.DONE
    clean = row.signature == content.before
    state: State = "clean" if clean else "dirty"
    changes.put(database, [row._replace(version=version, digest=content.digest, sent="", state=state)])
    return Outcome.DONE if clean else Outcome.SENT


class Sender:
    """Sends content. Called from many threads, for one path only from one at a time."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def send(self, row: Row, content: Content, *, moving: bool = False, conditional: bool = True) -> str:
        """Write an object over the one that the row knows, and return its version.

        Raises what the store raises: Conflict if there is another object. Without `conditional` the object is asked
        for before it is written, as where the store knows no conditions.
        """
        version = version_of(self._put(row, content, moving, conditional))
        self._parts.written.written(row.path)
        return version

    def _put(self, row: Row, content: Content, moving: bool, conditional: bool) -> Stat:
        store, condition = self._parts.store, row.version or ABSENT
        seconds, rest = divmod(content.before.mtime_ns, 10**9)
        # What rclone's `mtime` is: other tools see the file's own time.
        metadata = {"mtime": f"{seconds}.{rest:09}"} if store.caps.metadata else None
        if content.data is None:
            return store.put_stream(row.path, self._parts_of(row, content, moving), metadata=metadata)
        if store.caps.put_if and conditional:
            return store.put(row.path, content.data, if_match=condition, metadata=metadata)
        self._compare(row)
        return store.put(row.path, content.data, metadata=metadata)

    def _parts_of(self, row: Row, content: Content, moving: bool) -> Iterator[bytes]:
        """Give a large file's pieces; raise at their end, before there is an object, if anything has changed."""
        digest = hashlib.sha256()
        for piece in _pieces(content.fd, content.before.size):
            digest.update(piece)
            yield piece
        if digest.hexdigest() != content.digest or (
            not moving and Signature.of(os.fstat(content.fd)) != content.before
        ):
            raise Unavailable(f"{row.path!r} is changed while it is sent", why="it is tried again")
        with ThreadPoolExecutor(1) as other:  # a client that asks for the next piece may not be called from within
            other.submit(self._compare, row).result()

    def _compare(self, row: Row) -> None:
        """Raise Conflict if the object is not the one that the local content was made from."""
        found = self._parts.store.head(row.path)
        if (version_of(found) if found else "") != row.version:
            raise Conflict(f"writing {row.path!r}", why="somebody else wrote or removed the object")
