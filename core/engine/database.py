"""SQLite databases that are not lost unseen: checked when they are opened, with a backup that takes their place.

Beside a database `NAME` lie `NAME.backup`, its state at the last clean stop, and, once it was lost, `NAME.lost`: when
that was, and which backup is used. As long as that file is there, nothing is removed for being unknown to the database.
"""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import sqlite3
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from engine.durable import replace_file, sync_directory, sync_file
from engine.spec.errors import ApplyFailed, EngineError, Internal, Unavailable

log = logging.getLogger(__name__)


class DatabaseFile:
    """One database on disk, with its backup and the note of its loss."""

    def __init__(self, path: Path, schema: str, version: int) -> None:
        """`schema` are statements that may be executed again, `version` is what `PRAGMA user_version` says after."""
        self.path = path
        self.backup = path.with_name(f"{path.name}.backup")
        self.mark = path.with_name(f"{path.name}.lost")
        self._schema = schema
        self._version = version
        self._changes = 0
        """What the connection had changed when the backup was as new as the database."""

    def open(self, *, data_there: Callable[[], bool], seeded: str = "") -> sqlite3.Connection:
        """Open the database, or make it; put the backup in its place if it was lost.

        It was lost if it has no tables, or none in the table `seeded` (which has rows in every database that was used),
        although there are things that it should know (`data_there`) or a backup of it. Nothing is written when
        everything is there. Raises Internal if a newer engine wrote it, Unavailable if it is damaged or cannot be used.
        """
        connection = self._connect()
        if self._blank(connection, seeded) and (self.backup.exists() or data_there()):
            connection.close()
            self._put_back()
            connection = self._connect()
        if connection.execute("PRAGMA user_version").fetchone()[0] < self._version:
            self._make_tables(connection)
        if missing := self._missing(connection):
            connection.close()
            raise self._damaged(missing)
        self._changes = connection.total_changes
        return connection

    def failure(self, err: sqlite3.DatabaseError) -> EngineError:
        """Return in words why a statement failed: the database is damaged, or cannot be read or written."""
        code = getattr(err, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF  # what is above says more of the same kind
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return self._damaged(str(err))
        hint = "Is the data root's disk full?"
        return ApplyFailed(f"the engine's database {self.path} cannot be written", why=str(err), hint=hint)

    def _missing(self, connection: sqlite3.Connection) -> str:
        """Return which table or column of the schema is not there; empty if all are."""
        with contextlib.closing(sqlite3.connect(":memory:")) as model:
            model.executescript(self._schema)
            wanted = _columns(model)
        there = _columns(connection)
        for table in wanted:
            if table not in there:
                return f"the table {table} is missing"
            if lacking := sorted(wanted[table] - there[table]):
                return f"the table {table} has no column {lacking[0]}"
        return ""

    def _make_tables(self, connection: sqlite3.Connection) -> None:
        try:
            connection.executescript(f"BEGIN IMMEDIATE; {self._schema}; PRAGMA user_version={self._version}; COMMIT;")
        except sqlite3.OperationalError as err:
            connection.close()
            raise Unavailable(f"the database {self.path} cannot be written", why=str(err)) from err

    def _connect(self) -> sqlite3.Connection:
        try:
            self._keep_private()
            connection = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=10)
        except (OSError, sqlite3.OperationalError) as err:
            raise Unavailable(f"the database {self.path} cannot be opened", why=str(err)) from err
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            fault = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except sqlite3.DatabaseError as err:
            connection.close()
            if isinstance(err, sqlite3.OperationalError):  # no permission, no space, a file system that cannot lock
                raise Unavailable(f"the database {self.path} cannot be opened", why=str(err)) from err
            raise self._damaged(str(err)) from err
        if fault != "ok":
            connection.close()
            raise self._damaged(fault)
        if version > self._version:
            connection.close()
            raise Internal(
                f"{self.path} was written by a newer engine (schema {version}, this one knows {self._version})",
                hint="Start that engine again, or this one with another data root.",
            )
        return connection

    def _keep_private(self) -> None:
        """Make the database, and one that is there, readable by root only: SQLite gives new files the database's mode.

        The environment of containers is in it, and with it passwords.
        """
        self.path.touch(mode=0o600)
        for path in self.path.parent.glob(f"{self.path.name}*"):
            path.chmod(0o600)

    def _damaged(self, why: str) -> Unavailable:
        why = " ".join(why.split())  # SQLite's check gives lines
        if self.backup.exists():
            hint = (
                f"Its state of {_changed_at(self.backup)} is in {self.backup}: move {self.path.name}, "
                f"{self.path.name}-wal and {self.path.name}-shm elsewhere, and the next start uses it; "
                "engine doctor says so then."
            )
        else:
            hint = (
                f"There is no backup of it. Move {self.path.name}, {self.path.name}-wal and {self.path.name}-shm "
                "elsewhere: the next start takes back what the directories beside it tell, and removes nothing."
            )
        return Unavailable(f"the database {self.path} is damaged", why=why, hint=hint)

    @staticmethod
    def _blank(connection: sqlite3.Connection, seeded: str) -> bool:
        tables = {row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not tables:
            return True
        return seeded in tables and connection.execute(f"SELECT 1 FROM {seeded} LIMIT 1").fetchone() is None

    def _put_back(self) -> None:
        """Note the loss, then let the backup take the database's place, if there is one."""
        used = f"the backup of {_changed_at(self.backup)}" if self.backup.exists() else ""
        note = {"noticed": datetime.now(UTC).isoformat(timespec="seconds"), "used": used}
        replace_file(self.mark, json.dumps(note).encode())
        log.error("the database %s was lost; in its place: %s", self.path, used or "a new one")
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        if used:
            copy = self.path.with_name(f".{self.path.name}.new")
            shutil.copyfile(self.backup, copy)
            sync_file(copy)
            copy.rename(self.path)
        sync_directory(self.path.parent)

    def keep_backup(self, connection: sqlite3.Connection) -> None:
        """Write the backup anew, unless nothing has changed since. A full disk is no error: the old one stays."""
        try:
            changes = connection.total_changes
        except sqlite3.ProgrammingError:
            return  # closed: once more is no error
        if changes == self._changes and self.backup.exists():
            return
        unfinished = self.path.with_name(f".{self.backup.name}.new")
        try:
            unfinished.unlink(missing_ok=True)
            connection.execute("VACUUM INTO ?", (str(unfinished),))
            unfinished.chmod(0o600)
            sync_file(unfinished)
            unfinished.rename(self.backup)
            self._changes = changes
        except (OSError, sqlite3.Error) as err:
            log.warning("no backup of %s: %s", self.path, err)
            with contextlib.suppress(OSError):
                unfinished.unlink(missing_ok=True)

    def loss(self) -> str:
        """Return a sentence about the loss as long as it is noted, else an empty text."""
        try:
            note = json.loads(self.mark.read_text())
        except FileNotFoundError:
            return ""
        except (OSError, ValueError):
            note = {}
        return (
            f"the database was found lost at {note.get('noticed', 'a time that is not known')}; in use is "
            f"{note.get('used') or 'a new one, as there was no backup'}, and what it does not know is kept. "
            f"When nothing is missing: rm {self.mark}"
        )


def _columns(connection: sqlite3.Connection) -> dict[str, set[str]]:
    """Return the names of all columns by table."""
    rows = connection.execute(
        "SELECT t.name, c.name FROM sqlite_master t, pragma_table_info(t.name) c WHERE t.type = 'table'"
    )
    tables: dict[str, set[str]] = {}
    for table, column in rows:
        tables.setdefault(table, set()).add(column)
    return tables


def _changed_at(path: Path) -> str:
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).isoformat(timespec="seconds")
