"""Brings one change into the store: a file's content, or the removal of an object.

A file is read, and its stat(2) must be the same before and after: what is sent is what the file was at one moment. It
is on the local disk (fsync) before the journal calls it clean. Its digest is in the journal before the first byte is
sent, and stays there until one answer comes: if answers are lost, the object is known for ours, whichever of the
uploads it is of.

Writes are conditional on the object that the local content was made from. Where the store has no such condition, and
for objects that are sent in parts, the object is asked for immediately before the write becomes visible; somebody who
writes within that moment is not noticed.
"""

from __future__ import annotations

import enum
import hashlib
import logging
import os
import stat as modes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unavailable, Unsupported
from engine.spec.storage import ABSENT, Stat
from engine.tree import journal
from engine.tree.budget import Budget
from engine.tree.conflict import Conflicts
from engine.tree.hydration import Signature
from engine.tree.journal import Database, Removal, Row, parent_of
from engine.tree.listing import version_of
from engine.tree.parts import Parts
from engine.tree.placing import CHUNK
from engine.tree.scan import STAYS_LOCAL

log = logging.getLogger(__name__)

IN_MEMORY = 64 << 20
"""Bytes up to which a file is sent in one conditional request, from memory; larger ones are sent in parts."""
MEMORY = 256 << 20
"""Bytes of files that are in memory at one time."""
COPY_FROM = 1 << 20
"""Bytes from which a renamed file is copied in the store; a smaller one is sent again, which is one request."""
_PIECE = 1 << 20
_COPY = "copy:"
"""Beginning of a word of `sent` while a copy in the store is under way: the version that is copied follows."""
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


class _Moving(Exception):  # it ends an upload, but is no fault
    """The file changes while it is read."""


class _Content(NamedTuple):
    fd: int
    before: Signature
    digest: str
    data: bytes | None
    """None for a file that is sent in parts."""


class Uploader:
    """Uploads and removes. Called from many threads, for one path only from one at a time."""

    def __init__(self, parts: Parts, conflicts: Conflicts) -> None:
        self._parts = parts
        self._conflicts = conflicts
        self._budget = Budget(MEMORY)

    def upload(self, path: str, *, moving: bool = False) -> Outcome:
        """Bring a file's content into the store. Raises what the store raises, and OSError.

        With `moving`, also that of a file that is being written all the time: it stays dirty, and what is sent may be
        of several moments. A log would never be uploaded otherwise.
        """
        row = self._parts.journal.row(path)
        if row is None or row.kind != "file" or row.state not in ("dirty", "uploading"):
            return Outcome.DONE
        try:
            fd = self._parts.hydration.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return Outcome.DONE  # the next scan sees that it is gone
        try:
            facts = os.fstat(fd)
            if not modes.S_ISREG(facts.st_mode):
                return Outcome.DONE  # the next scan sees that, too
            if not self._parts.hydration.complete(fd):
                return self._upload_placeholder(row, fd)
            with self._budget.of(min(facts.st_size, IN_MEMORY)):
                return self._upload(row, fd, moving)
        except _Moving:
            return Outcome.CHANGED
        except InvalidParameter as err:
            self._stay(row, err)
            return Outcome.DONE
        finally:
            os.close(fd)

    # Content

    def _upload(self, row: Row, fd: int, moving: bool) -> Outcome:
        content = self._read(fd, moving)
        if row.version and content.digest == row.digest and not row.sent:
            return self._confirm(row, content.before, row.version, content.digest)  # only attributes have changed
        if not row.version and content.before.size >= COPY_FROM and (found := self._copy(row, content.digest)):
            return self._confirm(row, content.before, version_of(found), content.digest)
        self._intend(row.path, content.digest)
        try:
            found = self._send(row, content, moving)
        except Conflict:
            if not self._conflicts.resolve(row, content.digest):
                raise  # nobody changed the object: the store has another reason
            return Outcome.CHANGED
        self._parts.written.written(row.path)
        return self._confirm(row, content.before, version_of(found), content.digest)

    def _read(self, fd: int, moving: bool) -> _Content:
        """Read a file, or only its digest if it is large; raise _Moving if it changed meanwhile."""
        os.fsync(fd)  # before stat(2), too: a later store through a mapping becomes a change of mtime by it
        before = Signature.of(os.fstat(fd))
        digest, data = hashlib.sha256(), bytearray()
        large = before.size > IN_MEMORY
        for piece in _pieces(fd, before.size):
            digest.update(piece)
            if not large:
                data += piece
        if not moving and Signature.of(os.fstat(fd)) != before:
            raise _Moving
        return _Content(fd, before, digest.hexdigest(), None if large else bytes(data))

    def _send(self, row: Row, content: _Content, moving: bool) -> Stat:
        store, condition = self._parts.store, row.version or ABSENT
        seconds, rest = divmod(content.before.mtime_ns, 10**9)
        # What rclone's `mtime` is: other tools see the file's own time.
        metadata = {"mtime": f"{seconds}.{rest:09}"} if store.caps.metadata else None
        if content.data is None:
            return store.put_stream(row.path, self._parts_of(row, content, moving), metadata=metadata)
        if store.caps.put_if:
            return store.put(row.path, content.data, if_match=condition, metadata=metadata)
        self._compare(row)
        return store.put(row.path, content.data, metadata=metadata)

    def _parts_of(self, row: Row, content: _Content, moving: bool) -> Iterator[bytes]:
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

    # The journal

    def _intend(self, path: str, *contents: str) -> None:
        """Note what the object may be from now on, whether or not there is an answer."""

        def change(database: Database) -> None:
            row = journal.get(database, path)
            if row is None:
                raise _Moving
            earlier = [each for each in row.sent.split() if each not in contents]
            sent = " ".join([*earlier, *contents][-_REMEMBERED:])
            journal.put(database, [row._replace(state="uploading", sent=sent)])

        if self._parts.journal.row(path) is None:
            raise _Moving
        self._parts.journal.change(change)

    def _confirm(self, sent: Row, before: Signature, version: str, digest: str) -> Outcome:
        """Note that the store has this content; the file may have changed, moved or gone meanwhile."""

        def change(database: Database) -> bool:
            row = journal.get(database, sent.path)
            journal.mark_changed(database, [parent_of(sent.path)])
            if row is None or row.kind != "file":
                journal.update_removal(database, sent.path, version, digest)
                return True
            clean = row.signature == before
            state: journal.State = "clean" if clean else "dirty"
            journal.put(database, [row._replace(version=version, digest=digest, sent="", state=state)])
            return clean

        return Outcome.DONE if self._parts.journal.change(change) else Outcome.SENT

    def _stay(self, row: Row, err: EngineError) -> None:
        """Note that the store refuses the name of a file."""
        self._parts.health.note(STAYS_LOCAL, row.path, err.why or err.what)

        def change(database: Database) -> None:
            now = journal.get(database, row.path)
            if now is not None and not now.version:
                journal.put(database, [now._replace(state="local", sent="")])

        self._parts.journal.change(change)

    # Renames

    def _copy(self, row: Row, digest: str) -> Stat | None:
        """Have a renamed file's object copied by the store; None if that cannot be, or might not be the content."""
        store, old = self._parts.store, self._parts.journal.removed_inode(row.signature.ino)
        if old is None or not old.version or not store.caps.server_copy or (digest and digest != old.digest):
            return None
        there = store.head(row.path)
        if there is not None:
            ours = _COPY + old.version in row.sent.split() and there.size == row.signature.size
            return there if ours else None
        source = store.head(old.path)
        if source is None or version_of(source) != old.version:
            return None
        self._intend(row.path, _COPY + old.version, *filter(None, [old.digest]))
        try:
            copied = store.copy(old.path, row.path)
        except (NotFound, Unsupported, InvalidParameter) as err:  # too large for one request, for example
            log.info("%s is sent instead of being copied: %s", row.path, err)
            return None
        self._parts.written.written(row.path)
        return copied if copied.size == source.size else None

    def _upload_placeholder(self, row: Row, fd: int) -> Outcome:
        """Bring a renamed file into the store whose content is not here: copied there, or fetched first."""
        if os.fstat(fd).st_ino != row.signature.ino:
            return Outcome.CHANGED  # another file has the name since
        found = None if self._parts.hydration.written(fd) else self._copy(row, "")
        if found is None:
            self._parts.hydration.ensure(row.path)
            return Outcome.CHANGED
        version = version_of(found)
        self._parts.hydration.moved(row.path, version, row.signature.ino)

        def change(database: Database) -> bool:
            now = journal.get(database, row.path)
            journal.mark_changed(database, [parent_of(row.path)])
            if now is None:
                journal.update_removal(database, row.path, version, "")
                return True
            same = now.signature.ino == row.signature.ino and not now.hydrated
            state: journal.State = "clean" if same else "dirty"
            journal.put(database, [now._replace(version=version, digest="", sent="", state=state)])
            return same

        return Outcome.DONE if self._parts.journal.change(change) else Outcome.SENT

    # Removals

    def remove(self, removal: Removal) -> Outcome:
        """Remove the object of a file that was removed here; not if somebody else wrote it meanwhile."""
        found = self._parts.store.head(removal.path)
        if found is not None and self._ours(removal, found):
            for path in self._parts.journal.unsaved_names(removal.ino):
                self._parts.hydration.ensure(path)  # it cannot be stored before this is gone, and may be nowhere else
            self._parts.store.delete(removal.path)
            self._parts.written.removed(removal.path)
        elif found is not None:
            self._parts.health.note("removed here, changed elsewhere", removal.path, "the object is kept")
        ended = self._parts.journal.change(lambda database: journal.end_removal(database, removal))
        return Outcome.DONE if ended else Outcome.CHANGED

    def _ours(self, removal: Removal, found: Stat) -> bool:
        if version_of(found) == removal.version:
            return True
        if not removal.sent:
            return False
        digest = hashlib.sha256()
        try:
            for start in range(0, found.size, CHUNK):
                digest.update(self._parts.store.get(removal.path, start, min(found.size, start + CHUNK)))
        except NotFound:
            return False
        return digest.hexdigest() in removal.sent.split()


def _pieces(fd: int, size: int) -> Iterator[bytes]:
    """Give the first `size` bytes of a file; raise _Moving if it has become shorter."""
    position = 0
    while position < size:
        piece = os.pread(fd, min(_PIECE, size - position), position)
        if not piece:
            raise _Moving
        position += len(piece)
        yield piece
