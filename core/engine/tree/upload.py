"""Brings one change into the store: a file's content, or the removal of an object.

A file is on the local disk (fsync) before it is read, and so before the journal calls it clean. What is ordinary is in
`engine.tree.sending`; here are the ways around: copies of renamed files, conflicts, names that the store refuses.
"""

from __future__ import annotations

import hashlib
import logging
import os
import stat as modes

from engine.spec.errors import Conflict, EngineError, InvalidParameter, NotFound, Unsupported
from engine.spec.storage import Stat
from engine.tree import changes
from engine.tree.budget import Budget
from engine.tree.conflict import Conflicts
from engine.tree.listing import version_of
from engine.tree.parts import Parts
from engine.tree.placing import CHUNK
from engine.tree.removing import remove
from engine.tree.rows import Removal, Row, State, parent_of
from engine.tree.scan import STAYS_LOCAL
from engine.tree.schema import Database
from engine.tree.sending import IN_MEMORY, Content, Moving, Outcome, Sender, confirm, intend, read

log = logging.getLogger(__name__)

MEMORY = 256 << 20
"""Bytes of files that are in memory at one time."""
COPY_FROM = 1 << 20
"""Bytes from which a renamed file is copied in the store; a smaller one is sent again, which is one request."""
_COPY = "copy:"
"""Beginning of a word of `sent` while a copy in the store is under way: the version that is copied follows."""


class Uploader:
    """Uploads and removes. Called from many threads, for one path only from one at a time."""

    def __init__(self, parts: Parts, conflicts: Conflicts) -> None:
        self._parts = parts
        self._conflicts = conflicts
        self._sender = Sender(parts)
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
        except Moving:
            return Outcome.CHANGED
        except InvalidParameter as err:
            self._stay(row, err)
            return Outcome.DONE
        finally:
            os.close(fd)

    # Content

    def _upload(self, row: Row, fd: int, moving: bool) -> Outcome:
        os.fsync(fd)
        content = read(fd, moving=moving)
        if row.version and content.digest == row.digest and not row.sent:
            return self._confirm(row, content, row.version)  # only attributes have changed
        if not row.version and content.before.size >= COPY_FROM and (found := self._copy(row, content.digest)):
            return self._confirm(row, content, version_of(found))
        self._intend(row.path, content.digest)
        try:
            version = self._sender.send(row, content, moving=moving)
        except Conflict:
            if self._conflicts.resolve(row, content.digest):
                return Outcome.CHANGED
            if row.version:
                raise  # nobody changed the object: the store has another reason
            version = self._send_new(row, content, moving)
        return self._confirm(row, content, version)

    def _send_new(self, row: Row, content: Content, moving: bool) -> str:
        """Send a file whose write was refused as if there were an object, though there is none.

        SeaweedFS keeps a directory where objects were below a name, and its condition takes that for an object. A write
        of another host that was under way would be one by now: only what is refused again is sent without a condition.
        """
        try:
            return self._sender.send(row, content, moving=moving)
        except Conflict:
            return self._sender.send(row, content, moving=moving, conditional=False)

    # The journal

    def _intend(self, path: str, *contents: str) -> None:
        if not self._parts.journal.change(lambda database: intend(database, path, *contents)):
            raise Moving

    def _confirm(self, row: Row, content: Content, version: str) -> Outcome:
        return self._parts.journal.change(lambda database: confirm(database, row.path, content, version))

    def _stay(self, row: Row, err: EngineError) -> None:
        """Note that the store refuses the name of a file."""
        self._parts.health.note(STAYS_LOCAL, row.path, err.why or err.what)

        def change(database: Database) -> None:
            now = changes.get(database, row.path)
            if now is not None and not now.version:
                changes.put(database, [now._replace(state="local", sent="")])

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
        moved = self._parts.hydration.moved(row.path, version, row.signature.ino)

        def change(database: Database) -> bool:
            now = changes.get(database, row.path)
            changes.mark_changed(database, [parent_of(row.path)])
            if changes.update_removal(database, row.path, version, "") or now is None:
                return True
            same = moved and now.signature.ino == row.signature.ino and not now.hydrated
            state: State = "clean" if same else "dirty"
            changes.put(database, [now._replace(version=version, digest="", sent="", state=state)])
            return same

        return Outcome.DONE if self._parts.journal.change(change) else Outcome.SENT

    # Removals

    def remove(self, removal: Removal) -> Outcome:
        """Remove the object of a file that was removed here; not if somebody else wrote it meanwhile."""
        if self._is_elsewhere(removal):
            return Outcome.HELD
        alone = not self._parts.journal.names(removal.ino)
        if not (alone and removal.version and self._removed(removal, removal.version)):
            found = self._parts.store.head(removal.path)
            if found is not None and self._ours(removal, found):
                if not self._is_here(removal):
                    return Outcome.HELD
                if not self._removed(removal, version_of(found)):
                    return Outcome.CHANGED
            elif found is not None:
                self._parts.health.note("removed here, changed elsewhere", removal.path, "the object is kept")
        ended = self._parts.journal.change(lambda database: changes.end_removal(database, removal))
        return Outcome.DONE if ended else Outcome.CHANGED

    def _removed(self, removal: Removal, version: str) -> bool:
        """Remove an object if it is of that version; False if it is another one."""
        try:
            remove(self._parts.store, removal.path, version)
        except Conflict:
            return False
        self._parts.written.removed(removal.path)
        return True

    def _is_elsewhere(self, removal: Removal) -> bool:
        """Whether the file was never read, and exists under a name that no scan has seen yet.

        What scans have seen proves nothing: a file may be renamed during each of them, out of what is looked at next.
        """
        if not removal.handle or self._parts.journal.names(removal.ino):
            return False
        return self._parts.hydration.needs(removal.handle, removal.path)

    def _is_here(self, removal: Removal) -> bool:
        """Make sure that a removed file which has other names does not need the object; False: look again later.

        Stored under another name, it is fetched from there. Otherwise it is fetched now: this object is in its way.
        """
        hydration = self._parts.hydration
        for row in self._parts.journal.names(removal.ino):
            if row.state == "clean" and not hydration.moved(row.path, row.version, removal.ino):
                return False
            if row.state in ("dirty", "uploading") and not self._fetched(row.path, removal.ino):
                return False
        return True

    def _fetched(self, path: str, ino: int) -> bool:
        hydration = self._parts.hydration
        try:
            fd = hydration.open(path)
        except (FileNotFoundError, NotADirectoryError):
            return False  # it was renamed again: the next scan says where it is
        try:
            if os.fstat(fd).st_ino != ino:
                return False
            if not hydration.complete(fd):
                hydration.ensure(path)
            return hydration.complete(fd)
        finally:
            os.close(fd)

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
