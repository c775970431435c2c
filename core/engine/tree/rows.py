"""What the journal of a tree has: the rows of its tables."""

from __future__ import annotations

import os
from typing import Any, Literal, NamedTuple

from engine.tree.attributes import Kind
from engine.tree.hydration import Entry, Signature

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
    handle: bytes = b""
    """What a file without its content is found by under any name (see `Hydration.handle`); b"" if it is not known."""


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
    handle: bytes
    """As of a row."""


class DirectoryRow(NamedTuple):
    """What a directory's sidecar was when it was last read or written."""

    path: str
    version: str
    """Of the sidecar's object; "" if there is none."""
    document: str
    changed: int
    """How often it was changed since; 0 if it is as it should be."""
    sent: str = ""
    """JSON: what writes would have stored whose end is not known. The SHA-256 of each text, and beside it what it said
    of this host's files where it said more than that: "" if it did not."""


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


COLUMNS = "path, kind, ino, size, mtime_ns, ctime_ns, links, version, state, hydrated, digest, sent, attributes, handle"
"""Of the table of files, as `row_of` takes them."""


REMOVAL = "seq, path, version, ino, digest, sent, hydrated, handle"
"""Of the table of removals, as `removal_of` takes them."""


def removal_of(found: tuple[Any, ...]) -> Removal:
    """Return what was selected as `REMOVAL`."""
    seq, path, version, ino, digest, sent, hydrated, handle = found
    return Removal(seq, path, version, ino, digest, sent, bool(hydrated), handle)


def row_of(found: tuple[Any, ...]) -> Row:
    """Return what was selected as `COLUMNS`."""
    path, kind, ino, size, mtime, ctime, links, version, state, hydrated, *rest = found
    return Row(path, kind, Signature(ino, size, mtime, ctime), links, version, state, bool(hydrated), *rest)


def new_row(entry: Entry, signature: Signature, *, hydrated: bool, digest: str, handle: bytes = b"") -> Row:
    """Return the row of a file that is made as the store has it; `signature` is `NEVER` until it has its name."""
    own = entry.attributes._replace(link="") if entry.attributes.link else entry.attributes
    return Row(entry.path, "file", signature, 1, entry.version, "clean", hydrated, digest, "", own.text(), handle)


def placed_signature(before: os.stat_result, now: os.stat_result) -> Signature:
    """Return the signature of a file that has its name now.

    Its ctime is that of getting it. If anything else changed since `before`, the signature is that of before, and the
    next scan sees a change.
    """
    was, signature = Signature.of(before), Signature.of(now)
    return signature if signature[:3] == was[:3] else was


def parent_of(path: str) -> str:
    """Return the directory of a path. The root is "", and its own parent is no directory's name."""
    return path.rpartition("/")[0] if path else "/"
