"""Finds what changed locally: each file's stat(2) against its row in the journal.

What is found is in the journal, on the disk, before anything is done about it. A directory that is renamed, a file that
is edited, a new mode: all are differences of (inode, size, mtime, ctime), and no clock is compared with another one.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from engine.spec.trees import UsualAttributes
from engine.tree import attributes, changes
from engine.tree.attributes import Kind, kind_of
from engine.tree.beneath import name_in
from engine.tree.hydration import Signature
from engine.tree.names import STAGING, is_conflict_copy, unstorable
from engine.tree.parts import Parts
from engine.tree.rows import Row, parent_of
from engine.tree.schema import Database
from engine.tree.watch import Watch

log = logging.getLogger(__name__)

STAYS_LOCAL = "not stored"
"""Topic of notes on what cannot be in the store: it is only here."""
LEFT_OUT = "left out"
"""Topic of notes on what has no content that could be stored: sockets, FIFOs, devices."""
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
"""What an open(2) of a path answers that was removed, or became another thing: its directory's next scan sees that."""


class _Seen(NamedTuple):
    """A path that is not as the journal has it."""

    path: str
    kind: Kind
    signature: Signature
    links: int
    attributes: str
    complete: bool
    handle: bytes
    known: Signature | None = None
    """What the journal had when they were compared."""


class Found(NamedTuple):
    """What a scan found."""

    files: tuple[str, ...]
    """Files that are new or differ."""
    others: int
    """Directories and links that are new or differ, and paths that are gone."""


class Scanner:
    """Compares the tree with the journal. One scan at a time."""

    def __init__(self, parts: Parts, watch: Watch | None) -> None:
        self._parts = parts
        self._watch = watch

    def everything(self) -> Found:
        """Scan the whole tree."""
        with self._parts.health.renewing(STAYS_LOCAL), self._parts.health.renewing(LEFT_OUT):
            return self._scan([""], deep=True)

    def some(self, directories: Iterable[str]) -> Found:
        """Scan these directories, and what is new below them."""
        return self._scan(sorted(directories), deep=False)

    def _scan(self, todo: list[str], *, deep: bool) -> Found:
        seen: list[_Seen] = []
        gone: list[str] = []
        done: set[str] = set()
        failure: OSError | None = None
        while todo:
            directory = todo.pop()
            if directory in done:
                continue
            done.add(directory)
            try:
                self._look(directory, seen, gone, todo, deep)
            except OSError as err:
                if err.errno not in _GONE or directory == "":
                    failure = failure or err
                log.debug("%s cannot be scanned: %s", directory, err)
        if seen or gone:
            self._parts.journal.change(lambda database: _record(database, seen, gone, self._parts.usual))
            for path in gone:
                self._parts.health.forget(path)
                self._parts.hydration.forget(path)
        if failure is not None:
            raise failure
        files = tuple(one.path for one in seen if one.kind == "file")
        return Found(files, len(seen) - len(files) + len(gone))

    def _look(self, directory: str, seen: list[_Seen], gone: list[str], todo: list[str], deep: bool) -> None:
        with self._parts.root.directory(directory) as fd:
            if self._watch is not None:
                self._watch.add(fd, directory)  # before it is read: nothing is missed between
            rows = self._parts.journal.children(directory)
            own = self._parts.journal.row(directory)
            facts = os.fstat(fd)
            if own is None or own.signature != Signature.of(facts):
                text = attributes.read(name_in(fd, "."), facts, "directory").text()
                seen.append(_Seen(directory, "directory", Signature.of(facts), 1, text, True, b""))
            names = set()
            with os.scandir(fd) as entries:
                for entry in entries:
                    if not directory and entry.name == STAGING:
                        continue
                    name = self._parts.root.spelling.stored(entry.name)
                    path = f"{directory}/{name}" if directory else name
                    names.add(path)
                    self._compare(fd, entry, path, rows, seen, todo, deep)
        gone += [path for path, row in rows.items() if path not in names and row.state != "remote"]

    def _compare(
        self,
        fd: int,
        entry: os.DirEntry[str],
        path: str,
        rows: Mapping[str, Row],
        seen: list[_Seen],
        todo: list[str],
        deep: bool,
    ) -> None:
        try:
            facts = entry.stat(follow_symlinks=False)
            kind = kind_of(facts.st_mode)
            row = rows.get(path)
            if kind is None:
                self._parts.health.note(LEFT_OUT, path, "it is no file, directory or symbolic link")
                return
            if (row is None or kind == "directory") and (why := unstorable(path, kind, self._parts.store.caps)):
                self._parts.health.note(STAYS_LOCAL, path, why)
                return
            if kind == "directory":
                if deep or row is None or row.signature.ino != facts.st_ino:
                    todo.append(path)
                return
            signature = Signature.of(facts)
            if row is not None and row.signature == signature and row.kind == kind and row.state != "remote":
                if row.state == "local":
                    why = unstorable(path, kind, self._parts.store.caps) or "the store refuses its name"
                    self._parts.health.note(STAYS_LOCAL, path, why)
                    return
                if row.hydrated or row.handle or self._parts.hydration.whole:
                    return
            if kind == "file":
                one = self._look_into(fd, entry.name, path)._replace(known=row and row.signature)
                if row is not None and row.kind == kind and row.state != "remote" and _is_same(row, one):
                    return  # what differs is what its fetch does to it
            else:
                text = attributes.read(name_in(fd, entry.name), facts, kind).text()
                one = _Seen(path, kind, signature, facts.st_nlink, text, True, b"")
            seen.append(one)
        except OSError as err:
            if err.errno not in _GONE:
                raise

    def _look_into(self, directory: int, name: str, path: str) -> _Seen:
        """Return what a file is, apart from what its fetch or its eviction is doing to it. Raises OSError."""
        hydration = self._parts.hydration
        fd = hydration.open(path)
        try:
            signature, facts = hydration.signature(fd), os.fstat(fd)
            complete = hydration.complete(fd) or hydration.written(fd)
            handle = b"" if complete else hydration.handle(fd)
        finally:
            os.close(fd)
        found = attributes.read(name_in(directory, name), facts, "file")._replace(mtime_ns=signature.mtime_ns)
        return _Seen(path, "file", signature, facts.st_nlink, found.text(), complete, handle)


def _is_same(row: Row, one: _Seen) -> bool:
    facts = (one.signature, one.attributes, one.links)
    return (row.signature, row.attributes, row.links) == facts and (row.hydrated or row.handle == one.handle)


def _record(database: Database, seen: Iterable[_Seen], gone: Iterable[str], usual: UsualAttributes) -> None:
    """Write what was found. The rows are read again: an upload may have ended since they were compared."""
    touched: set[str] = set()
    for path in gone:
        row = changes.get(database, path)
        if row is not None and row.state != "remote":
            _remove(database, row, touched)
    rows = []
    for one in seen:
        row = changes.get(database, one.path)
        if row is not None and row.kind != one.kind:
            _remove(database, row, touched)
            row = None
        if one.kind == "file":
            rows.append(_file(database, one, row))
        else:
            rows.append(_other(one, row))
        touched |= _sidecars(one, row, usual)
    changes.put(database, rows)
    changes.mark_changed(database, touched)


def _remove(database: Database, row: Row, touched: set[str]) -> None:
    """Note that a path is gone, and all below it."""
    below = changes.get_below(database, row.path) if row.kind == "directory" else []
    for each in (*below, row):
        changes.note_removal(database, each)
        touched.add(parent_of(each.path))
        if each.kind == "directory":
            touched.add(each.path)  # its sidecar goes


def _sidecars(one: _Seen, row: Row | None, usual: UsualAttributes) -> set[str]:
    """Return the directories whose sidecars say something of this path that is not true any more."""
    if row is not None and row.attributes == one.attributes and row.links == one.links:
        return set()
    if one.kind != "directory":
        return {parent_of(one.path)}
    if one.path == "" and row is None and _is_usual(one.attributes, usual):
        return set()  # nobody writes into a bucket that is only looked at
    return {one.path}


def _is_usual(text: str, usual: UsualAttributes) -> bool:
    """Whether a directory is as any new one, but for its time."""
    found = attributes.Attributes.parse(json.loads(text))._replace(mtime_ns=0)
    return found == attributes.Attributes("directory", usual.directory_mode, usual.uid, usual.gid)


def _other(one: _Seen, row: Row | None) -> Row:
    """Return the row of a directory or a symbolic link: they are in sidecars only."""
    return Row(one.path, one.kind, one.signature, one.links, "", "clean", True, "", "", one.attributes)


def _file(database: Database, one: _Seen, row: Row | None) -> Row:
    """Return the row of a file that is new or changed."""
    fresh = Row(
        one.path, "file", one.signature, one.links, "", "dirty", one.complete, "", "", one.attributes, one.handle
    )
    if is_conflict_copy(one.path):
        changes.note_conflict(database, one.path)
    if row is None:
        back = changes.take_removal(database, one.path, one.signature.ino)
        if back is None:
            return fresh
        # Without the digest: its object may be gone, and equal content is no reason to take it for stored.
        return fresh._replace(version=back.version, sent=back.sent)
    if row.state == "remote":  # somebody was faster than the listing: the upload compares the two
        return fresh
    if row.signature == one.signature and row.state != "local":  # written by another thread meanwhile
        return row._replace(attributes=one.attributes, links=one.links, handle=one.handle)
    if row.signature.ino != one.signature.ino and not row.hydrated and not changes.is_swapped(database, one.path):
        # What had the name was never read, and may be elsewhere now: its object must not be overwritten before that is
        # known. It goes in its turn, and what has the name now is stored after it.
        changes.note_removal(database, row)
        return fresh
    kept = fresh._replace(version=row.version, digest=row.digest, sent=row.sent)
    if not one.complete and row.signature.ino == one.signature.ino:
        # Nobody can write into a file whose content is not here: these are new attributes.
        if row.signature != one.known:  # it was filled or given up since: the next scan compares it with that
            return row
        return kept._replace(state="clean" if row.state == "clean" else "dirty")
    return kept
