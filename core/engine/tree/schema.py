"""The journal's database: its tables, and how it is opened, made, brought up to date, or set aside."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

from engine.spec.errors import Internal

Database = sqlite3.Connection

SCHEMA_VERSION = 3
_SCHEMA = """
CREATE TABLE files (
    path TEXT PRIMARY KEY, parent TEXT NOT NULL, kind TEXT NOT NULL,
    ino INTEGER NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, ctime_ns INTEGER NOT NULL,
    links INTEGER NOT NULL, version TEXT NOT NULL, state TEXT NOT NULL, hydrated INTEGER NOT NULL,
    digest TEXT NOT NULL, sent TEXT NOT NULL, attributes TEXT NOT NULL, handle BLOB NOT NULL DEFAULT x''
) WITHOUT ROWID;
CREATE INDEX files_parent ON files (parent);
CREATE INDEX files_ino ON files (ino) WHERE ino != 0;
CREATE INDEX files_pending ON files (state) WHERE state NOT IN ('clean', 'local');
CREATE TABLE removals (
    seq INTEGER PRIMARY KEY AUTOINCREMENT, path TEXT NOT NULL UNIQUE, version TEXT NOT NULL, ino INTEGER NOT NULL,
    digest TEXT NOT NULL, sent TEXT NOT NULL, hydrated INTEGER NOT NULL DEFAULT 1,
    handle BLOB NOT NULL DEFAULT x''
);
CREATE INDEX removals_ino ON removals (ino);
CREATE TABLE directories (
    path TEXT PRIMARY KEY, version TEXT NOT NULL, document TEXT NOT NULL, changed INTEGER NOT NULL,
    sent TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX directories_changed ON directories (changed) WHERE changed > 0;
CREATE TABLE swaps (staged TEXT PRIMARY KEY, path TEXT NOT NULL, ino INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE conflicts (path TEXT PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE notes (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
"""
_UPGRADES = {
    1: "ALTER TABLE removals ADD COLUMN hydrated INTEGER NOT NULL DEFAULT 1",
    2: "ALTER TABLE files ADD COLUMN handle BLOB NOT NULL DEFAULT x'';"
    "ALTER TABLE removals ADD COLUMN handle BLOB NOT NULL DEFAULT x'';"
    "ALTER TABLE directories ADD COLUMN sent TEXT NOT NULL DEFAULT ''",
}
"""By the version that each begins with."""


def open_database(path: str) -> Database:
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
            _upgrade(database, found)
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


def _upgrade(database: Database, found: int) -> None:
    database.execute("BEGIN IMMEDIATE")
    for version in range(found, SCHEMA_VERSION):
        for statement in _UPGRADES[version].split(";"):
            database.execute(statement)
    database.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
    database.execute("COMMIT")


def put_aside(path: str) -> str:
    """Rename a damaged journal with its log, so that somebody may look at it; return its new name."""
    name = f"{path}.damaged-{time.strftime('%Y%m%dT%H%M%S', time.gmtime())}"
    for suffix in ("-wal", "-shm", ""):
        found = Path(path + suffix)
        if found.exists():
            found.rename(name + suffix)
    return name
