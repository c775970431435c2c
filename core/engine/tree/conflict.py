"""Somebody else wrote the object that we were to write: both contents are kept.

The store's content keeps the name, here and everywhere; ours gets the name `NAME.conflict-HOST-TIME`, in the same
directory, and is uploaded under it. Programs that have our file open go on with it under its new name. The time in the
name is this host's clock; nothing is decided by it.

First it is made sure that there is a conflict: the other content may be ours, from any upload whose answer was lost,
or equal to ours, as after the loss of the journal.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from engine.spec.storage import Stat
from engine.tree import changes
from engine.tree.attributes import Attributes
from engine.tree.hydration import Entry
from engine.tree.listing import version_of
from engine.tree.parts import Parts
from engine.tree.placing import Placer
from engine.tree.rows import Row
from engine.tree.schema import Database


class Conflicts:
    """Resolves conflicts, one path at a time."""

    def __init__(self, parts: Parts, placer: Placer) -> None:
        self._parts = parts
        self._placer = placer

    def resolve(self, row: Row, digest: str) -> bool:
        """Bring journal and tree to where the next upload of the path can go well, and return whether they changed.

        `digest` is of the local content. Raises what the store raises, and OSError.
        """
        if self._parts.journal.removal(row.path) is not None:
            return True  # it is of a file that had the name before, and goes first
        found = self._parts.store.head(row.path)
        if found is None and not row.version:
            return False
        if found is None:
            return self._base(row, "", "")  # somebody removed the object: ours is a new one
        if version_of(found) == row.version:
            return False
        staged = self._placer.staged("theirs")
        try:
            theirs, entry = self._fetch(row, found, staged)
            if theirs in (digest, *row.sent.split()):
                return self._base(row, entry.version, theirs)
            self._placer.replace(entry, staged)
            return True
        finally:
            staged.unlink(missing_ok=True)

    def _fetch(self, row: Row, found: Stat, staged: Path) -> tuple[str, Entry]:
        """Fetch the other content; return its digest and what it is."""
        ours = Attributes.parse(json.loads(row.attributes))
        entry = Entry(row.path, found.size, version_of(found), ours._replace(mtime_ns=int((found.mtime or 0) * 10**9)))
        fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self._placer.download(entry, fd)
            os.fsync(fd)
            with os.fdopen(os.dup(fd), "rb") as file:
                file.seek(0)
                return hashlib.file_digest(file, "sha256").hexdigest(), entry
        finally:
            os.close(fd)

    def _base(self, row: Row, version: str, digest: str) -> bool:
        """Note which object the local content is to replace, if that changes anything."""

        def change(database: Database) -> bool:
            now = changes.get(database, row.path)
            if now is None or now.version != row.version:
                return True
            changes.put(database, [now._replace(version=version, digest=digest, sent="")])
            return now.version != version or now.sent != ""

        return self._parts.journal.change(change)
