"""Parts of changes of the journal: called inside `Journal.change`, with its database."""

from __future__ import annotations

from collections.abc import Iterable

from engine.tree.rows import COLUMNS, REMOVAL, DirectoryRow, Removal, Row, Swap, parent_of, removal_of, row_of
from engine.tree.schema import Database


def put(database: Database, rows: Iterable[Row]) -> None:
    """Write rows."""
    database.executemany(
        "INSERT OR REPLACE INTO files VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)",
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
                *r[-3:],
            )
            for r in rows
        ],
    )


def get(database: Database, path: str) -> Row | None:
    """Return a path's row, as this transaction sees it."""
    found = database.execute(f"SELECT {COLUMNS} FROM files WHERE path = ?", (path,)).fetchone()
    return found and row_of(found)


def get_below(database: Database, directory: str) -> list[Row]:
    """Return the rows of all paths below a directory, as this transaction sees them."""
    low, high = f"{directory}/", f"{directory}0"  # "0" follows "/"
    query = f"SELECT {COLUMNS} FROM files WHERE path > ? AND path < ?"
    return [row_of(r) for r in database.execute(query, (low, high))]


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
            "INSERT OR REPLACE INTO removals (path, version, ino, digest, sent, hydrated, handle)"
            " VALUES (?,?,?,?,?,?,?)",
            (row.path, row.version, row.signature.ino, row.digest, row.sent, row.hydrated, row.handle),
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
    found = database.execute(f"SELECT {REMOVAL} FROM removals WHERE path = ?", (path,)).fetchone()
    if found is None:
        return None
    removal = removal_of(found)
    if removal.ino != ino and not removal.hydrated:
        return None
    database.execute("DELETE FROM removals WHERE path = ?", (path,))
    return removal


def mark_changed(database: Database, directories: Iterable[str]) -> None:
    """Note that the sidecars of these directories have to be written, and that of the root with the first of all."""
    database.executemany(
        "INSERT INTO directories (path, version, document, changed) VALUES (?, '', '', 1)"
        " ON CONFLICT (path) DO UPDATE SET changed = changed + 1",
        changed := [(d,) for d in directories],
    )
    if changed:
        database.execute("INSERT OR IGNORE INTO directories (path, version, document, changed) VALUES ('', '', '', 1)")


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
        "INSERT INTO directories (path, version, document, changed) VALUES (?, ?, ?, 0) ON CONFLICT (path) DO UPDATE"
        " SET version = excluded.version, document = excluded.document, sent = '',"
        " changed = CASE WHEN changed = ? THEN 0 ELSE changed END",
        row[:4],
    )


def intend_sidecar(database: Database, path: str, sent: str) -> None:
    """Note what is about to be written, beside what was and has no answer (`DirectoryRow.sent`)."""
    database.execute("UPDATE directories SET sent = ? WHERE path = ?", (sent, path))


def forget_sidecar(database: Database, path: str) -> None:
    """Note that a sidecar that was written is not there any more, and that a new one is to be written."""
    database.execute(
        "UPDATE directories SET version = '', document = '', changed = changed + 1 WHERE path = ?", (path,)
    )


def drop_sidecar(database: Database, row: DirectoryRow) -> None:
    """Forget a sidecar that was removed with its directory, unless the directory came back meanwhile."""
    database.execute("DELETE FROM directories WHERE path = ? AND changed = ?", (row.path, row.changed))
    database.execute("UPDATE directories SET version = '', document = '' WHERE path = ?", (row.path,))
