"""The journal of a tree: what each file was when it last agreed with the store, and what is still to be done.

SQLite in WAL mode with synchronous=FULL: a change is on the disk when `change` returns, and only then acted on (what a
file's own attribute says as well need not wait for the disk). Changes of many threads that come together share one
commit. The truth about local files is the files; the truth about objects is the store. The journal is what makes the
difference between the two readable as "changed here" or "changed there".

A journal that is damaged is set aside and begun anew, empty. That is safe: a file that it does not know is uploaded
only where there is no object, and compared where there is one (see `engine.tree.conflict`).
"""

from __future__ import annotations

import logging
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar, cast

from engine.spec.errors import Unavailable
from engine.tree.rows import (
    COLUMNS,
    REMOVAL,
    Counts,
    DirectoryRow,
    Removal,
    Row,
    State,
    Swap,
    removal_of,
    row_of,
)
from engine.tree.schema import Database, open_database, put_aside

log = logging.getLogger(__name__)
T = TypeVar("T")


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
            self._writer = open_database(path)
        except sqlite3.OperationalError as err:
            raise Unavailable(f"the journal {path} cannot be opened", why=str(err)) from err
        except sqlite3.DatabaseError as err:
            self.set_aside = put_aside(path)
            log.error(
                "the journal %s is damaged (%s): it is now %s, and everything is compared", path, err, self.set_aside
            )
            self._writer = open_database(path)
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
        return {r[0]: row_of(r) for r in self._all(f"SELECT {COLUMNS} FROM files WHERE parent = ?", (directory,))}

    def row(self, path: str) -> Row | None:
        """Return a path's row."""
        return next((row_of(r) for r in self._all(f"SELECT {COLUMNS} FROM files WHERE path = ?", (path,))), None)

    def rows_of(self, paths: Sequence[str]) -> dict[str, Row]:
        """Return the rows of some paths, by their paths."""
        marks = ",".join("?" * len(paths))
        return {r[0]: row_of(r) for r in self._all(f"SELECT {COLUMNS} FROM files WHERE path IN ({marks})", (*paths,))}

    def rows(self, *states: State) -> Iterator[Row]:
        """Iterate over the rows of some states, or over all, as they are now."""
        marks = ",".join("?" * len(states))
        where = f" WHERE state IN ({marks})" if states else ""
        return map(row_of, self._all(f"SELECT {COLUMNS} FROM files{where}", states))

    def pending(self) -> list[Row]:
        """Return the rows that are to be uploaded."""
        where = "state NOT IN ('clean', 'local') AND state != 'remote'"  # in the words of the index
        return [row_of(r) for r in self._all(f"SELECT {COLUMNS} FROM files WHERE {where}")]

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
        return [row_of(r) for r in self._all(f"SELECT {COLUMNS} FROM files WHERE {where}", (ino,))]

    def removals(self) -> list[Removal]:
        """Return the objects to be removed, in order."""
        return [removal_of(r) for r in self._all(f"SELECT {REMOVAL} FROM removals ORDER BY seq")]

    def removal(self, path: str) -> Removal | None:
        """Return the order to remove a path's object; None if there is none."""
        found = self._all(f"SELECT {REMOVAL} FROM removals WHERE path = ?", (path,))
        return next(map(removal_of, found), None)

    def removed_inode(self, ino: int) -> Removal | None:
        """Return the removal of the file that had this inode; None if there is none."""
        found = self._all(f"SELECT {REMOVAL} FROM removals WHERE ino = ?", (ino,))
        return next(map(removal_of, found), None)

    def directories(self) -> dict[str, DirectoryRow]:
        """Return all sidecars that are known."""
        found = self._all("SELECT path, version, document, changed, sent FROM directories")
        return {r[0]: DirectoryRow(*r) for r in found}

    def directory(self, path: str) -> DirectoryRow | None:
        """Return what is known of one directory's sidecar."""
        found = self._all("SELECT path, version, document, changed, sent FROM directories WHERE path = ?", (path,))
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
