"""Gives many new files their names at once: what the first listing of a full store brings.

A file is made without a name (O_TMPFILE), gets all that it is to have by its descriptor, and is then linked under its
name by linkat(2), which replaces nothing: a crash leaves nothing unfinished behind. That takes four fifths of the
time of making it under another name and renaming it, and the journal is written once for many files. It is one thread's
work: the calls are so short that two threads take twice as long, because they hand over the interpreter at each.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from itertools import groupby

from engine.spec.errors import ApplyFailed
from engine.spec.trees import TreeProgress
from engine.tree import attributes, changes
from engine.tree.beneath import link_new
from engine.tree.hydration import Entry, Initializer
from engine.tree.parts import Parts
from engine.tree.rows import Row, new_row, parent_of, placed_signature

TOGETHER = 1000
"""Files whose rows are written to the journal together."""
REFUSED = "attributes not set"
"""Topic of notes on attributes that the local file system refused."""


def place(parts: Parts, entries: Sequence[Entry], initialize: Initializer) -> list[Entry]:
    """Put files into the tree and into the journal, and return those whose names were taken; see `Site.install_new`.

    Raises ApplyFailed and Unavailable.
    """
    ordered = sorted(entries, key=_directory)
    taken: list[Entry] = []
    for start in range(0, len(ordered), TOGETHER):
        parts.health.progress = TreeProgress(step="placing", done=start, total=len(ordered), unit="files")
        taken += _place(parts, ordered[start : start + TOGETHER], initialize)
    return taken


def _place(parts: Parts, entries: Sequence[Entry], initialize: Initializer) -> list[Entry]:
    rows: list[Row] = []
    taken: list[Entry] = []
    staging = os.open(parts.staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for directory, some in groupby(entries, key=_directory):
            with parts.root.directory(directory) as fd:
                for entry in some:
                    row = _place_one(parts, entry, initialize, staging, fd)
                    if row is None:
                        taken.append(entry)
                    else:
                        rows.append(row)
    finally:
        os.close(staging)
        if rows:
            parts.journal.change(lambda database: changes.put(database, rows))
    return taken


def _place_one(parts: Parts, entry: Entry, initialize: Initializer, staging: int, directory: int) -> Row | None:
    """Make one file; return its row, None if its name is taken."""
    name = parts.root.spelling.local(entry.path.rpartition("/")[2])
    try:
        fd = os.open(".", os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600, dir_fd=staging)
        try:
            handle = initialize(entry, fd)
            refused = attributes.apply_to(fd, entry.attributes)
            before = os.fstat(fd)
            if not link_new(fd, directory, name):
                return None
            now = os.fstat(fd)
        finally:
            os.close(fd)
    except OSError as err:
        raise ApplyFailed(f"{entry.path!r} cannot be put into the tree", why=err.strerror or str(err)) from err
    if refused:
        parts.health.note(REFUSED, entry.path, ", ".join(refused))
    signature = placed_signature(before, now)
    return new_row(entry, signature, hydrated=not handle, digest=entry.digest, handle=handle)


def _directory(entry: Entry) -> str:
    return parent_of(entry.path)
