"""The journal of a tree: what each file was when it last agreed with the store, and what is still to be done.

SQLite in WAL mode with synchronous=FULL: a change is on the disk when `change` returns, and only then acted on (what a
file's own attribute says as well need not wait for the disk). Changes of many threads that come together share one
commit. The truth about local files is the files; the truth about objects
is the store. The journal is what makes the difference between the two readable as "changed here" or "changed there".

A journal that is damaged is set aside and begun anew, empty. That is safe: a file that it does not know is uploaded
only where there is no object, and compared where there is one (see `engine.tree.conflict`).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar, cast

from engine.spec.errors import Internal, Unavailable
from engine.tree.attributes import Kind
from engine.tree.hydration import Signature

log = logging.getLogger(__name__)
T = TypeVar("T")
Database = sqlite3.Connection

SCHEMA_VERSION = 2
_SCHEMA = """
CREATE TABLE files (
    path TEXT PRIMARY KEY, parent TEXT NOT NULL, kind TEXT NOT NULL,
    ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    links INTEGER NOT NULL, version TEXT NOT NULL, state TEXT NOT NULL, hydrated INTEGER NOT NULL,
    digest TEXT NOT NULL, sent TEXT NOT NULL, attributes TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX files_parent ON files (parent);
CREATE INDEX files_ino ON files (ino) WHERE ino != 0;
CREATE INDEX files_pending ON files (state) WHERE state NOT IN ('clean', 'local');
CREATE TABLE removals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, version TEXT NOT NULL, ino INTEGER NOT NULL,
    digest TEXT NOT NULL, sent TEXT NOT NULL, hydrated INTEGER NOT NULL DEFAULT 1
);
CREATE INDEX removals_ino ON removals (ino);
CREATE TABLE directories (
    path TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL, changed INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX directories_changed ON directories (changed) WHERE changed > 0;
CREATE TABLE swaps (staged TEXT PRIMARY KEY, path TEXT NOT NULL, ino INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE conflicts (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_UPGRADE = "ALTER TABLE removals ADD COLUMN hydrated INTEGER NOT NULL DEFAULT 1"
"""From version 1 to 2."""

State = Literal["remote", "clean", "dirty", "uploading", "local"]
"""What a file is:

remote      known from the store, not in the local tree yet
clean       as it is in the store, as far as the journal knows
dirty       changed here; to be uploaded
uploading   the same, and an upload was begun: the store may have it already (`sent` has its digest)
local       cannot be in the store; stays here, and status says so
"""


class Row(NamedTuple):
    """A path of the tree."""

    path: str
    kind: Kind
    signature: Signature
    """Of a clean file: what it had when it agreed with the store. Of another: what was last seen. All 0: never seen."""
    links: int
    """Hard links."""
    version: str
    """The object that the local content was made from; "" if there is none."""
    state: State
    hydrated: bool
    """All content is on the local disk."""
    digest: str
    """SHA-256 (hex) of the content of `version`; "" if it is not known."""
    sent: str
    """What uploads would have stored whose end is not known: digests, separated by spaces; "" if there is none."""
    attributes: str
    """JSON of `Attributes`, as last seen."""


class Removal(NamedTuple):
    """An object to be removed, because the file was: entries are replayed in the order in which they were seen."""

    seq: int
    path: str
    version: str
    ino: int
    """Of the file that had the name: the same inode under another name is a rename."""
    digest: str
    sent: str
    """As of a row: digests of uploads that may have replaced `version`."""
    hydrated: bool
    """Its content was here. If not, it is nowhere but in the object, and the file may only have another name."""


class DirectoryRow(NamedTuple):
    """What a directory's sidecar was when it was last read or written."""

    path: str
    version: str
    """Of the sidecar's object; "" if there is none."""
    document: str
    changed: int
    """How often it was changed since; 0 if it is as it should be."""


class Swap(NamedTuple):
    """A staged file that is about to change places with the file of a path."""

    staged: str
    path: str
    ino: int
    """Of the staged file before that: while it has it, nothing happened."""


class Counts(NamedTuple):
    """Sums over the journal."""

    files: int
    bytes: int
    hydrated_bytes: int
    pending_files: int
    pending_bytes: int


NEVER = Signature(0, 0, 0, 0)


class _Work:
    """A change that waits for its commit."""

    def __init__(self, call: Callable[[Database], Any], durable: bool) -> None:
        self.call = call
        self.durable = durable
        self.done = False
        self.result: Any = None
        self.error: Exception | None = None


class Journal:
    """The database of one tree. All methods may be called from any thread."""

    def __init__(self, path: str) -> None:
        """Open the journal, or make it. One that is damaged is renamed (see `set_aside`) and begun anew.

        Raises Internal if a newer engine wrote it, Unavailable if it cannot be opened.
        """
        self.set_aside = ""
        """Where a damaged journal was put; empty if this one was not damaged."""
        self._waiting: list[_Work] = []
        self._gate = threading.Lock()
        self._writing = threading.Lock()
        self._reading = threading.Lock()
        try:
            self._writer = _open(path)
        except sqlite3.OperationalError as err:
            raise Unavailable(f"the journal {path} cannot be opened", why=str(err)) from err
        except sqlite3.DatabaseError as err:
            self.set_aside = _put_aside(path)
            log.error(
                "the journal %s is damaged (%s): it is now %s, and everything is compared", path, err, self.set_aside
            )
            self._writer = _open(path)
        self._reader = sqlite3.connect(path, isolation_level=None, check_same_thread=False)

    def close(self) -> None:
        """Close the database."""
        with self._writing, self._reading:
            self._reader.close()
            self._writer.close()

    # Writing

    def change(self, call: Callable[[Database], T], *, durable: bool = True) -> T:
        """Run a change in a transaction and return its result when it is on the disk.

        With `durable` False it is not waited for the disk: no end of a process undoes the change, but a crash of the
        machine does unless a durable change has returned since.

        Changes that wait at the same time are committed together; a call may run twice, if another one of them raises.
        What the call raises is raised, and nothing of it has happened. Raises Unavailable when the disk is full.
        """
        work = _Work(call, durable)
        with self._gate:
            self._waiting.append(work)
        with self._writing:
            if not work.done:
                self._commit()
        if work.error is not None:
            if isinstance(work.error, sqlite3.Error):
                raise Unavailable(
                    "the journal cannot be written", why=str(work.error), hint="Is the disk full?"
                ) from work.error
            raise work.error
        return cast(T, work.result)

    def _commit(self) -> None:
        with self._gate:
            together, self._waiting = self._waiting, []
        if len(together) > 1 and self._try(together) is None:
            return
        for work in together:  # alone, so that each has only its own error
            work.error = self._try([work])

    def _try(self, together: list[_Work]) -> Exception | None:
        """Run changes in one transaction; return what was raised, and then none of them has happened."""
        try:
            durable = any(work.durable for work in together)
            self._writer.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._writer.execute("BEGIN IMMEDIATE")
            for work in together:
                work.result = work.call(self._writer)
            self._writer.execute("COMMIT")
        except Exception as err:  # noqa: BLE001  # raised in the waiting thread
            if self._writer.in_transaction:
                self._writer.execute("ROLLBACK")
            return err
        finally:
            for work in together:
                work.done = True
        return None

    # Reading

    def _all(self, query: str, arguments: tuple[Any, ...] = ()) -> list[Any]:
        with self._reading:
            try:
                return self._reader.execute(query, arguments).fetchall()
            except sqlite3.Error as err:
                raise Unavailable("the journal cannot be read", why=str(err)) from err

    def children(self, directory: str) -> dict[str, Row]:
        """Return the rows of one directory, by their paths. The root has no row in any directory."""
        return {r[0]: _row(r) for r in self._all(f"SELECT {_COLUMNS} FROM files WHERE parent = ?", (directory,))}

    def row(self, path: str) -> Row | None:
        """Return a path's row."""
        return next((_row(r) for r in self._all(f"SELECT {_COLUMNS} FROM files WHERE path = ?", (path,))), None)

    def rows_of(self, paths: Sequence[str]) -> dict[str, Row]:
        """Return the rows of some paths, by their paths."""
        marks = ",".join("?" * len(paths))
        return {r[0]: _row(r) for r in self._all(f"SELECT {_COLUMNS} FROM files WHERE path IN ({marks})", (*paths,))}

    def rows(self, *states: State) -> Iterator[Row]:
        """Iterate over the rows of some states, or over all, as they are now."""
        marks = ",".join("?" * len(states))
        where = f" WHERE state IN ({marks})" if states else ""
        return map(_row, self._all(f"SELECT {_COLUMNS} FROM files{where}", states))

    def pending(self) -> list[Row]:
        """Return the rows that are to be uploaded."""
        where = "state NOT IN ('clean', 'local') AND state != 'remote'"  # in the words of the index
        return [_row(r) for r in self._all(f"SELECT {_COLUMNS} FROM files WHERE {where}")]

    def first_name(self, ino: int) -> str:
        """Return the first of a file's names, in the order of the alphabet; "" if it has none."""
        found = self._all("SELECT min(path) FROM files WHERE ino = ? AND ino != 0 AND kind = 'file'", (ino,))
        return found[0][0] or ""

    def unsaved_names(self, ino: int) -> list[str]:
        """Return the names of a file under which it is still to be uploaded."""
        where = "ino = ? AND ino != 0 AND kind = 'file' AND state IN ('dirty', 'uploading')"
        return [r[0] for r in self._all(f"SELECT path FROM files WHERE {where}", (ino,))]

    def names(self, ino: int) -> list[Row]:
        """Return the rows of all names of a file."""
        where = "ino = ? AND ino != 0 AND kind = 'file'"
        return [_row(r) for r in self._all(f"SELECT {_COLUMNS} FROM files WHERE {where}", (ino,))]

    def removals(self) -> list[Removal]:
        """Return the objects to be removed, in order."""
        return [_removal(r) for r in self._all(f"SELECT {_REMOVAL} FROM removals ORDER BY seq")]

    def removal(self, path: str) -> Removal | None:
        """Return the order to remove a path's object; None if there is none."""
        found = self._all(f"SELECT {_REMOVAL} FROM removals WHERE path = ?", (path,))
        return next(map(_removal, found), None)

    def removed_inode(self, ino: int) -> Removal | None:
        """Return the removal of the file that had this inode; None if there is none."""
        found = self._all(f"SELECT {_REMOVAL} FROM removals WHERE ino = ?", (ino,))
        return next(map(_removal, found), None)

    def directories(self) -> dict[str, DirectoryRow]:
        """Return all sidecars that are known."""
        found = self._all("SELECT path, version, document, changed FROM directories")
        return {r[0]: DirectoryRow(*r) for r in found}

    def directory(self, path: str) -> DirectoryRow | None:
        """Return what is known of one directory's sidecar."""
        found = self._all("SELECT path, version, document, changed FROM directories WHERE path = ?", (path,))
        return next((DirectoryRow(*r) for r in found), None)

    def changed_directories(self) -> list[str]:
        """Return the directories whose sidecars have to be written."""
        return [r[0] for r in self._all("SELECT path FROM directories WHERE changed > 0")]

    def swaps(self) -> list[Swap]:
        """Return the exchanges whose end is not known."""
        return [Swap(*r) for r in self._all("SELECT staged, path, ino FROM swaps")]

    def conflicts(self) -> tuple[str, ...]:
        """Return the paths of conflict copies that still exist."""
        return tuple(r[0] for r in self._all("SELECT path FROM conflicts ORDER BY path"))

    def last_removal(self) -> int:
        """Return the number of the newest order to remove an object; 0 if there is none."""
        return int(self._all("SELECT ifnull(max(seq), 0) FROM removals")[0][0])

    def note(self, name: str) -> str:
        """Return a remark about the whole tree; "" if there is none of that name."""
        return next((str(r[0]) for r in self._all("SELECT value FROM notes WHERE name = ?", (name,))), "")

    def counts(self) -> Counts:
        """Return sums: files and bytes of the tree, and what is pending."""
        (files, size, hydrated), *_ = self._all(
            "SELECT count(*), total(size), total(CASE WHEN hydrated THEN size ELSE 0 END)"
            " FROM files WHERE kind = 'file'"
        )
        (pending, sizes), *_ = self._all(
            "SELECT count(*), total(size) FROM files WHERE state NOT IN ('clean', 'local') AND state != 'remote'"
        )
        (removals,), *_ = self._all("SELECT count(*) FROM removals")
        return Counts(files, int(size), int(hydrated), pending + removals, int(sizes))


# Parts of changes: called inside Journal.change


def put(database: Database, rows: Iterable[Row]) -> None:
    """Write rows."""
    database.executemany(
        "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
        [
            (
                r.path,
                parent_of(r.path),
                r.kind,
                *r.signature,
                r.links,
                r.version,
                r.state,
                r.hydrated,
                r.digest,
                *r[-2:],
            )
            for r in rows
        ],
    )


def get(database: Database, path: str) -> Row | None:
    """Return a path's row, as this transaction sees it."""
    found = database.execute(f"SELECT {_COLUMNS} FROM files WHERE path = ?", (path,)).fetchone()
    return found and _row(found)


def get_below(database: Database, directory: str) -> list[Row]:
    """Return the rows of all paths below a directory, as this transaction sees them."""
    low, high = f"{directory}/", f"{directory}0"  # "0" follows "/"
    return [_row(r) for r in database.execute(f"SELECT {_COLUMNS} FROM files WHERE path > ? AND path < ?", (low, high))]


def drop(database: Database, paths: Iterable[str]) -> None:
    """Remove rows, and what is noted of these paths beside them."""
    for path in paths:
        database.execute("DELETE FROM files WHERE path = ?", (path,))
        database.execute("DELETE FROM conflicts WHERE path = ?", (path,))


def note_removal(database: Database, row: Row) -> None:
    """Replace a row by the order to remove its object. A file that was never uploaded needs no order.

    One that was renamed and never read may have been renamed again, and not be seen yet: the object that its content is
    in waits for one more scan.
    """
    drop(database, (row.path,))
    if row.kind == "file" and (row.version or row.sent):
        database.execute(
            "INSERT OR REPLACE INTO removals (path, version, ino, digest, sent, hydrated) VALUES (?,?,?,?,?,?)",
            (row.path, row.version, row.signature.ino, row.digest, row.sent, row.hydrated),
        )
    elif not row.hydrated:
        for (seq,) in database.execute("SELECT seq FROM removals WHERE ino = ?", (row.signature.ino,)).fetchall():
            database.execute("UPDATE removals SET seq = (SELECT max(seq) + 1 FROM removals) WHERE seq = ?", (seq,))


def take_removal(database: Database, path: str, ino: int) -> Removal | None:
    """Take back the order to remove a path's object, because there is a file again, and return it.

    It may be carried out just now, or have been before a crash: whether there is still an object, only the store knows.
    The order stands, and None is returned, if this is another file (`ino`) and the removed one was never read: it may
    have another name now, and its content is in the object, which must not be overwritten.
    """
    found = database.execute(f"SELECT {_REMOVAL} FROM removals WHERE path = ?", (path,)).fetchone()
    if found is None:
        return None
    removal = _removal(found)
    if removal.ino != ino and not removal.hydrated:
        return None
    database.execute("DELETE FROM removals WHERE path = ?", (path,))
    return removal


def mark_changed(database: Database, directories: Iterable[str]) -> None:
    """Note that the sidecars of these directories have to be written, and that of the root with the first of all."""
    database.executemany(
        "INSERT INTO directories VALUES (?, '', '', 1) ON CONFLICT (path) DO UPDATE SET changed = changed + 1",
        changed := [(d,) for d in directories],
    )
    if changed:
        database.execute("INSERT OR IGNORE INTO directories VALUES ('', '', '', 1)")


def update_removal(database: Database, path: str, version: str, digest: str) -> bool:
    """Note which object it is that has to be removed: an upload ended after the file was removed. False if none is."""
    query = "UPDATE removals SET version = ?, digest = ?, sent = '' WHERE path = ?"
    return database.execute(query, (version, digest, path)).rowcount > 0


def end_removal(database: Database, removal: Removal) -> bool:
    """Note that an object is removed; return False if the order was changed meanwhile, and stands."""
    ended = database.execute(
        "DELETE FROM removals WHERE seq = ? AND version = ? AND sent = ?", (removal.seq, removal.version, removal.sent)
    )
    mark_changed(database, [parent_of(removal.path)])
    return ended.rowcount > 0


def begin_swap(database: Database, swap: Swap) -> None:
    """Note that two files are about to change places."""
    database.execute("INSERT OR REPLACE INTO swaps VALUES (?, ?, ?)", swap)


def is_swapped(database: Database, path: str) -> bool:
    """Return whether the tree itself is just exchanging the file of a path."""
    return database.execute("SELECT 1 FROM swaps WHERE path = ?", (path,)).fetchone() is not None


def end_swap(database: Database, swap: Swap) -> None:
    """Note that what came of it is known."""
    database.execute("DELETE FROM swaps WHERE staged = ?", (swap.staged,))


def note_conflict(database: Database, path: str) -> None:
    """Note that a path is a conflict copy."""
    database.execute("INSERT OR IGNORE INTO conflicts VALUES (?)", (path,))


def write_note(database: Database, name: str, value: str) -> None:
    """Keep a remark about the whole tree."""
    database.execute("INSERT OR REPLACE INTO notes VALUES (?, ?)", (name, value))


def note_sidecar(database: Database, row: DirectoryRow) -> None:
    """Note what a sidecar is now. `row.changed` is the count that was read before: later changes still count."""
    database.execute(
        "INSERT INTO directories VALUES (?, ?, ?, 0) ON CONFLICT (path) DO UPDATE SET version = excluded.version,"
        " document = excluded.document, changed = CASE WHEN changed = ? THEN 0 ELSE changed END",
        row,
    )


def forget_sidecar(database: Database, path: str) -> None:
    """Note that a sidecar that was written is not there any more, and that a new one is to be written."""
    database.execute(
        "UPDATE directories SET version = '', document = '', changed = changed + 1 WHERE path = ?", (path,)
    )


def drop_sidecar(database: Database, row: DirectoryRow) -> None:
    """Forget a sidecar that was removed with its directory, unless the directory came back meanwhile."""
    database.execute("DELETE FROM directories WHERE path = ? AND changed = ?", (row.path, row.changed))
    database.execute("UPDATE directories SET version = '', document = '' WHERE path = ?", (row.path,))


_COLUMNS = "path, kind, ino, size, mtime_ns, ctime_ns, links, version, state, hydrated, digest, sent, attributes"


_REMOVAL = "seq, path, version, ino, digest, sent, hydrated"


def _removal(found: tuple[Any, ...]) -> Removal:
    return Removal(*found)._replace(hydrated=bool(found[-1]))


def _row(found: tuple[Any, ...]) -> Row:
    path, kind, ino, size, mtime, ctime, links, version, state, hydrated, digest, sent, attributes = found
    signature = Signature(ino, size, mtime, ctime)
    return Row(path, kind, signature, links, version, state, bool(hydrated), digest, sent, attributes)


def parent_of(path: str) -> str:
    """Return the directory of a path. The root is "", and its own parent is no directory's name."""
    return path.rpartition("/")[0] if path else "/"


def _open(path: str) -> Database:
    """Open or make a database. Raises sqlite3.DatabaseError (and not its subclass) if it is damaged."""
    database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    try:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("PRAGMA synchronous=FULL")
        found = database.execute("PRAGMA user_version").fetchone()[0]
        if found > SCHEMA_VERSION:
            raise Internal(f"{path} was written by a newer engine (schema {found}, this one knows {SCHEMA_VERSION})")
        problems = [r[0] for r in database.execute("PRAGMA quick_check(3)").fetchall()]
        if problems != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(problems))
        if found == 0:
            _create(database, path)
        elif found < SCHEMA_VERSION:
            _upgrade(database)
        return database
    except BaseException:
        database.close()
        raise


def _create(database: Database, path: str) -> None:
    if database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise sqlite3.DatabaseError(f"{path} has tables and no version")
    database.execute("BEGIN IMMEDIATE")
    for statement in _SCHEMA.split(";"):
        database.execute(statement)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    database.execute("COMMIT")


def _upgrade(database: Database) -> None:
    database.execute("BEGIN IMMEDIATE")
    database.execute(_UPGRADE)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    database.execute("COMMIT")


def _put_aside(path: str) -> str:
    """Rename a damaged journal with its log, so that somebody may look at it; return its new name."""
    name = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    for suffix in ("-wal", "-shm", ""):
        found = Path(path + suffix)
        if found.exists():
            found.rename(name + suffix)
    return name
