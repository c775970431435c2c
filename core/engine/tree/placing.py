"""Puts files into the tree while containers use it: whole, under their names, and never over something that is unsaved.

A file is made in the staging directory and gets its name by rename(2). Where a file is to be replaced, the two names
change places in one step (renameat2(2), RENAME_EXCHANGE), and only then is looked at what came out: if it is what the
journal believed, it goes, and if a container was faster, it is kept as a conflict copy. The journal knows of the
exchange before it happens, so that after a crash what lies in the staging directory is known for what it is.
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import count
from pathlib import Path

from engine.spec.errors import EngineError, Unavailable
from engine.spec.storage import ShortRead
from engine.spec.trees import TreeProgress
from engine.tree import attributes, bulk, changes, rows
from engine.tree.attributes import Attributes
from engine.tree.beneath import exchange, in_use, rename_new, take_out
from engine.tree.bulk import REFUSED
from engine.tree.hydration import Entry, Initializer, Local, Signature
from engine.tree.listing import version_of
from engine.tree.names import conflict_name
from engine.tree.parts import Parts
from engine.tree.rows import NEVER, Row, Swap
from engine.tree.schema import Database

log = logging.getLogger(__name__)

CHUNK = 8 << 20
"""Bytes of one request for a large object."""
TOGETHER = 256
"""Rows of new files that are written to the journal together."""
SPOILED = "not what was stored, so that the files here stay"
"""Topic of notes on objects that were tampered with, or are damaged."""


class Placer:
    """Installs, replaces and removes local files; it is the `Site` of the tree's hydration."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.root = Path(parts.root.path)
        self.staging = parts.staging
        self.store = parts.store
        self._numbers = count()
        self._lock = threading.Lock()
        self._new: list[Row] = []
        self._digests: dict[str, str] = {}

    def open(self) -> None:
        """Make the staging directory, finish what a crash left in it, and empty it. Raises OSError."""
        self.staging.mkdir(mode=0o700, exist_ok=True)
        for swap in self._parts.journal.swaps():
            self._recover(swap)
        for left in self.staging.iterdir():
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()

    def staged(self, purpose: str) -> Path:
        """Return a new name in the staging directory."""
        return self.staging / f"{purpose}-{next(self._numbers)}"

    # Site

    def progressed(self, step: str, done: int, total: int) -> None:
        """Show how far long work is."""
        self._parts.health.progress = TreeProgress(step=step, done=done, total=total, unit="bytes")

    def gone(self, path: str) -> None:
        """Show that an object is not there any more."""
        self._parts.health.note("gone from the store", path, "somebody removed it")

    def has(self, path: str) -> bool:
        """Return whether a file is complete here and unchanged."""
        row = self._parts.journal.row(path)
        return row is not None and row.kind == "file" and row.state == "clean" and row.hydrated

    def spoiled(self, path: str, error: EngineError) -> None:
        """Show that a file here is better than its object; it is looked at again by the next listing."""
        self._parts.health.note(SPOILED, path, error.why or str(error))

    def evictable(self) -> Iterator[Local]:
        """Iterate over complete files that are as in the store."""
        for row in self._parts.journal.rows("clean"):
            if row.kind == "file" and row.hydrated and row.version:
                yield Local(row.path, row.signature, row.version)

    def download(self, entry: Entry, descriptor: int) -> None:
        """Write an object's content to a file. Raises ShortRead, NotFound, Unavailable, OSError."""
        digest = hashlib.sha256()
        for start in range(0, entry.size, CHUNK):
            whole = entry.size <= CHUNK
            data = self.store.view(entry.path) if whole else self.store.view(entry.path, start, self._end(entry, start))
            wanted = self._end(entry, start) - start
            if len(data) != wanted:
                raise ShortRead(f"{entry.path!r} gave {len(data)} bytes instead of {wanted}", why="it was changed")
            digest.update(data)
            _write(descriptor, data, start)
        if entry.size > CHUNK:  # its parts may be of two objects
            facts = self.store.head(entry.path)
            if facts is None or version_of(facts) != entry.version:
                raise ShortRead(f"{entry.path!r} was changed while it was read")
        if entry.digest and digest.hexdigest() != entry.digest:
            raise Unavailable(
                f"the object {entry.path!r} is not what was stored",
                why="its SHA-256 is another one, though it has the etag that its sidecar names",
                hint="Restore the object, or remove its entry from the sidecar to accept it as it is",
            )
        with self._lock:
            self._digests[entry.path] = digest.hexdigest()

    @staticmethod
    def _end(entry: Entry, start: int) -> int:
        return min(entry.size, start + CHUNK)

    def install(self, entry: Entry, staged: Path, *, hydrated: bool, handle: bytes = b"") -> bool:
        """Give a staged file its attributes and its name; see `Site.install`. Raises OSError."""
        self.give_attributes(entry.path, staged, entry.attributes)
        with self._lock:
            digest = self._digests.pop(entry.path, entry.digest)
        row = self._parts.journal.row(entry.path)
        new = rows.new_row(entry, NEVER, hydrated=hydrated, digest=digest, handle=handle)
        with self._parts.root.place(entry.path) as (fd, name):
            facts = os.stat(staged, follow_symlinks=False)
            if rename_new(str(staged), fd, name):
                self._note(new._replace(signature=rows.placed_signature(facts, _now(fd, name, facts))))
                return True
            expected = self._replaceable(entry.path, row, fd, name)
            if expected is None or self._exchange(staged, new, expected, fd, name) is None:
                staged.unlink(missing_ok=True)
                return False
            return True

    def install_new(self, entries: Sequence[Entry], initialize: Initializer) -> Sequence[Entry]:
        """Put many new files into the tree; see `Site.install_new`."""
        return bulk.place(self._parts, entries, initialize)

    def settle(self, path: str, before: Signature, after: Signature, *, hydrated: bool, handle: bytes = b"") -> bool:
        """Note that the strategy changed a file itself; see `Site.settle`."""
        self.flush()

        def change(database: Database) -> bool:
            row = changes.get(database, path)
            if row is None or row.signature != before:
                return False
            changes.put(database, [row._replace(signature=after, hydrated=hydrated, handle=handle or row.handle)])
            return True

        # Who reads a file that was filled does not wait for the disk. After a crash of the machine the file's own
        # attribute says whether its content is here, and a file that is then complete and unknown is compared.
        return self._parts.journal.change(change, durable=not hydrated)

    def keep_settled(self) -> None:
        """Have the disk hold what was noted; see `Site.keep_settled`."""
        self._parts.journal.change(lambda database: changes.write_note(database, "settled", str(time.time())))

    def renewed(self, path: str, before: Signature, after: Signature, *, old: str, new: str) -> None:
        """Note that a placeholder is of another object now; see `Site.renewed`."""
        self.flush()

        def change(database: Database) -> None:
            row = changes.get(database, path)
            if row is None or row.signature not in (before, after):  # a scan may have seen it already
                return
            if row.version == old:
                row = row._replace(version=new, digest="")
            changes.put(database, [row._replace(signature=after)])

        self._parts.journal.change(change)

    # For the tree

    def flush(self) -> None:
        """Write rows of new files that are not in the journal yet."""
        with self._lock:
            rows, self._new = self._new, []
            if rows:
                self._parts.journal.change(lambda database: changes.put(database, rows))

    def _note(self, row: Row) -> None:
        with self._lock:
            self._new.append(row)
            full = len(self._new) >= TOGETHER
        if full:
            self.flush()

    def give_attributes(self, path: str, staged: Path, wanted: Attributes) -> None:
        """Give a staged file what it is to have under a path; what the file system refuses is shown. Raises OSError."""
        fd = os.open(staged.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            refused = attributes.apply(fd, staged.name, wanted)
        finally:
            os.close(fd)
        self._parts.health.note(REFUSED, path, ", ".join(refused))

    def _replaceable(self, path: str, row: Row | None, fd: int, name: str) -> Signature | None:
        """Return what the local file is expected to be when it is replaced; None if it must stay."""
        if row is None or row.kind == "directory" or row.state not in ("clean", "remote"):
            return None
        facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
        signature = Signature.of(facts)
        if attributes.kind_of(facts.st_mode) != row.kind:
            return None
        if row.kind == "file":
            opened = self._parts.hydration.open(path)
            try:
                if in_use(opened):
                    log.info("%s is in use and stays as it is, though it was changed in the store", path)
                    return None
                if row.state == "remote" and self._parts.hydration.complete(opened):
                    return None  # nobody knows whose it is: its upload compares the two
            finally:
                os.close(opened)
        return signature if row.state == "remote" or signature == row.signature else None

    def _exchange(self, staged: Path, new: Row, expected: Signature, fd: int, name: str) -> str | None:
        """Let a staged file and a local one change places, and remove what came out if it is the expected one.

        Return the path of the copy if it had to be kept, else ""; None if there was no local file any more.
        """
        facts = os.stat(staged, follow_symlinks=False)
        swap = Swap(staged.name, new.path, facts.st_ino)
        self._parts.journal.change(lambda database: changes.begin_swap(database, swap))
        happened = exchange(str(staged), fd, name)
        kept = ""
        if happened:
            out = os.stat(staged, follow_symlinks=False)
            if Signature.of(out)[:3] != expected[:3]:
                kept = self.keep(staged, fd, new.path)
        row = new._replace(signature=rows.placed_signature(facts, _now(fd, name, facts))) if happened else None

        def end(database: Database) -> None:
            changes.end_swap(database, swap)
            if row is not None:
                changes.put(database, [row])
            if kept:
                changes.note_conflict(database, kept)

        self._parts.journal.change(end)
        if not happened:
            return None
        if not kept:
            staged.unlink()
        return kept

    def replace(self, entry: Entry, staged: Path) -> str:
        """Let somebody else's content take a name, and keep ours beside it; return the copy's path, "" if we had none.

        This is what a conflict ends with. Raises OSError.
        """
        self.give_attributes(entry.path, staged, entry.attributes)
        with self._lock:
            digest = self._digests.pop(entry.path, entry.digest)
        new = rows.new_row(entry, NEVER, hydrated=True, digest=digest)
        with self._parts.root.place(entry.path) as (fd, name):
            kept = self._exchange(staged, new, NEVER, fd, name)
        if kept is None:
            staged.unlink(missing_ok=True)
        return kept or ""

    def keep(self, staged: Path, fd: int, path: str) -> str:
        """Give a file that nobody may lose the name of a conflict copy beside a path; return the copy's path."""
        directory, _, name = path.rpartition("/")
        spelling = self._parts.root.spelling
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        for number in count():
            copy = conflict_name(spelling.local(name), self._parts.host, stamp, number)
            if rename_new(str(staged), fd, copy):
                copy = spelling.stored(copy)
                log.warning("%s was changed here and elsewhere: the local content is kept as %s", path, copy)
                return f"{directory}/{copy}" if directory else copy
        raise AssertionError("unreachable")

    def remove(self, row: Row) -> bool:
        """Remove a local file because its object is gone; return whether it is gone now.

        It stays if it is in use, or is not what the journal has. Raises OSError.
        """
        if row.state != "clean":
            return False
        try:
            with self._parts.root.place(row.path) as (fd, name):
                if self._replaceable(row.path, row, fd, name) is None:
                    return False
                return self._take_out(row, fd, name)
        except FileNotFoundError:
            return False

    def _take_out(self, row: Row, fd: int, name: str) -> bool:
        staged = self.staged("out")
        swap = Swap(staged.name, row.path, 0)
        self._parts.journal.change(lambda database: changes.begin_swap(database, swap))
        taken = take_out(fd, name, str(staged))
        expected = taken and Signature.of(os.stat(staged, follow_symlinks=False))[:3] == row.signature[:3]
        if taken and not expected and not rename_new(str(staged), fd, name):
            self.keep(staged, fd, row.path)

        def end(database: Database) -> None:
            changes.end_swap(database, swap)
            if expected:
                changes.drop(database, [row.path])

        self._parts.journal.change(end)
        if expected:
            staged.unlink()
        return expected

    def _recover(self, swap: Swap) -> None:
        """Finish an exchange that a crash interrupted."""
        staged = self.staging / swap.staged
        row = self._parts.journal.row(swap.path)
        kept = ""
        try:
            facts = os.stat(staged, follow_symlinks=False)
        except FileNotFoundError:  # nothing had happened, or all had
            facts = None
        known = facts is not None and row is not None and row.state == "clean"
        if known and facts is not None and row is not None:
            known = Signature.of(facts)[:3] == row.signature[:3]
        if facts is not None and facts.st_ino != swap.ino and not known:
            kept = self._put_back(staged, swap.path)

        def end(database: Database) -> None:
            changes.end_swap(database, swap)
            if kept and kept != swap.path:
                changes.note_conflict(database, kept)

        self._parts.journal.change(end)

    def _put_back(self, staged: Path, path: str) -> str:
        directory, _, name = path.rpartition("/")
        try:
            fd = self._parts.root.open_directory(directory)
        except OSError as err:
            if err.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            fd, path = self._parts.root.open_directory(""), name  # its directory is gone; the file is not
        try:
            name = self._parts.root.spelling.local(name)
            return path if rename_new(str(staged), fd, name) else self.keep(staged, fd, path)
        finally:
            os.close(fd)


def _now(fd: int, name: str, staged: os.stat_result) -> os.stat_result:
    """Return what a name's file is; if it is gone already, what it was."""
    try:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    except FileNotFoundError:
        return staged


def _write(descriptor: int, data: memoryview, start: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, start)
        data, start = data[written:], start + written
