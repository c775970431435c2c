"""A store that is not the one that was written, and lacks what it had.

It is another bucket, one that was deleted (and made again by a server at its next write), or a disk that is not
mounted. It is known by the name in its root's sidecar (see `engine.tree.sidecar`). Then nothing local is removed or
replaced. Nothing is uploaded again by itself either: it might be the wrong place. That is a person's decision, and the
status says what to do. Until it is made, a barrier is not reached: the store does not have everything.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

from engine.tree import changes
from engine.tree.journal import Journal
from engine.tree.listing import Listing
from engine.tree.rows import DirectoryRow
from engine.tree.schema import Database
from engine.tree.sidecar import LOST, Document, store_of

log = logging.getLogger(__name__)


def is_known(root: DirectoryRow | None, then: Document, now: Document, found: Listing) -> bool:
    """Return whether a store is the one that was written, as far as that can be said.

    `root` is what is noted of its root's sidecar, `then` and `now` what that said and says.
    """
    if was := store_of(then):
        return "" in found.sidecars and store_of(now) == was
    return bool(found.files) and not (root and root.version and "" not in found.sidecars)


def missing(records: Journal, found: Listing, written: Collection[str]) -> list[str]:
    """Return the unchanged files whose objects are gone; `written` were uploaded while the store was listed."""
    known = (r.path for r in records.rows("clean") if r.kind == "file" and r.version)
    return [path for path in known if path not in found.files and path not in written]


def why(records: Journal) -> str:
    """Return what has been lost, and what to do, for a person; "" if nothing has."""
    if not (number := count(records)):
        return ""
    return (
        "the store is not the one that was written: its sidecar is gone or of another one, and the objects of "
        f"{number} files are gone from the store. Nothing is removed or replaced here. Is it the right bucket, is its "
        "disk mounted? If so, a file is stored again when it is changed (touch), and forgotten when it is removed here"
    )


def count(records: Journal) -> int:
    """Return how many unchanged files have no object any more, as the last listing showed it."""
    return int(records.note(LOST) or 0)


def note(records: Journal, paths: Sequence[str]) -> None:
    """Note which files the store has lost, for all that follows; none if it has not, or has them again.

    They are sent again when they are only touched: what content the store had is forgotten.
    """
    text = str(len(paths) or "")
    if text == records.note(LOST):
        return

    def change(database: Database) -> None:
        changes.write_note(database, LOST, text)
        for path in paths:
            row = changes.get(database, path)
            if row is not None and row.state == "clean":
                changes.put(database, [row._replace(digest="")])

    records.change(change)
    if paths:
        log.error("%s", why(records))
