"""Brings into the tree what changed in the store while nobody looked: a listing against the journal.

An object of another version than the journal has is fetched where the local file is unchanged; where it is changed, its
upload finds the conflict. An object that is gone takes the local file with it if that is unchanged; a changed one is
uploaded as a new one. Files in use are left alone. What was written or removed here while the store was listed is
older in the listing than in the journal, and is left alone, too.

Nothing at all is removed or replaced when the store is not the one that was written (see `engine.tree.lost`).
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from engine.spec.errors import InvalidParameter
from engine.tree import attributes, changes, lost, sidecar
from engine.tree.attributes import Attributes
from engine.tree.beneath import name_in, rename_new
from engine.tree.bulk import REFUSED
from engine.tree.documents import UNREADABLE, Documents
from engine.tree.hydration import Entry, Signature
from engine.tree.listing import Listing, Remote
from engine.tree.names import sidecar_of, unnameable
from engine.tree.parts import Parts
from engine.tree.placing import SPOILED, Placer
from engine.tree.rows import NEVER, Removal, Row
from engine.tree.schema import Database
from engine.tree.written import Meanwhile

log = logging.getLogger(__name__)

NOT_SHOWN = "objects that are no files here"
"""Topic of notes on keys that cannot be paths."""
_THREADS = 16


class Arrival:
    """One listing, and what follows from it."""

    def __init__(self, parts: Parts, placer: Placer, found: Listing, meanwhile: Meanwhile) -> None:
        """`meanwhile`: what was written and removed here since the listing was begun."""
        self._parts = parts
        self._placer = placer
        self._found = found
        self._meanwhile = meanwhile
        self._said = Documents(parts, found)

    def apply(self) -> None:
        """Do all of it. Raises what the store raises, and OSError; it can be done again from the beginning then."""
        health = self._parts.health
        health.clear(NOT_SHOWN)
        health.clear(SPOILED)
        for key, why in self._found.problems.items():
            health.note(NOT_SHOWN, key, why)
        self._said.read()
        keep = self._lost()
        if not keep:
            self._remove_files()
        self._make_directories()
        self._make_links(remove=not keep)
        self._fetch(replace=not keep)
        self._change_attributes()
        self._finish_directories(remove=not keep)
        self._change(self._said.note)

    def _lost(self) -> bool:
        """Whether the store is not the one that was written, and lacks objects."""
        said, found = self._said, self._found
        now = said.now("") if "" in found.sidecars else sidecar.EMPTY
        paths = lost.missing(self._parts.journal, found, self._meanwhile.written)
        if lost.is_known(said.row(""), said.then(""), now, found):
            paths = []
        lost.note(self._parts.journal, paths)
        self._parts.health.trouble("lost", lost.why(self._parts.journal))
        return bool(paths)

    # Files

    def _remove_files(self) -> None:
        for row in list(self._parts.journal.rows("clean", "remote")):
            if row.kind != "file" or row.path in self._found.files or not (row.version or row.state == "remote"):
                continue
            if row.path in self._meanwhile.written:
                continue
            if row.state == "remote":
                self._change(partial(changes.drop, paths=[row.path]))
            elif self._placer.remove(row):
                self._parts.hydration.forget(row.path)
        pending = [r for r in self._parts.journal.pending() if r.path not in self._meanwhile.written]
        gone = {r.path: r.version for r in pending if r.version and r.path not in self._found.files}

        def renew(database: Database) -> None:
            for path, version in gone.items():
                row = changes.get(database, path)
                if row is not None and row.state in ("dirty", "uploading") and row.version == version:
                    changes.put(database, [row._replace(version="", digest="")])

        if gone:
            self._change(renew)

    def _fetch(self, *, replace: bool) -> None:
        wanted: list[Entry] = []
        links: list[Entry] = []
        fresh: list[Row] = []
        rows = {r.path: r for r in self._parts.journal.rows()}
        removing = {r.path: r for r in self._parts.journal.removals()}
        markers = self._markers(rows)
        for path, remote in self._found.files.items():
            if path in markers:
                continue
            row, removal = rows.get(path), removing.get(path)
            if path in self._meanwhile.written or path in self._meanwhile.removed:
                continue
            if removal is not None:
                if _is_of(removal, remote):
                    continue  # removed here: it will be there
                self._parts.health.note("removed here, changed elsewhere", path, "the object is kept")
                self._change(partial(changes.end_removal, removal=removal))
            if row is not None and (row.kind != "file" or row.state not in ("clean", "remote")):
                continue
            if row is not None and row.state == "clean" and not replace:
                continue
            here = row is not None and (row.hydrated or not self._parts.hydration.whole)
            if here and row is not None and row.state == "clean" and row.version == remote.version:
                continue
            entry = self._said.entry(path, remote)
            (links if entry.attributes.link and entry.digest else wanted).append(entry)
            if row is None or row.state == "remote":
                fresh.append(_expected(entry))
        self._change(lambda database: changes.put(database, fresh))
        self._parts.hydration.prepare(wanted)
        self._placer.flush()
        self._parts.hydration.prepare([entry for entry in links if not self._link(entry)])
        self._placer.flush()

    def _markers(self, rows: Mapping[str, Row]) -> set[str]:
        """Return what is listed and is no object: obstore lists the marker `a/` of an empty directory as an empty `a`.

        Only an empty object that is new here may be one.
        """
        empty = [
            path
            for path, remote in self._found.files.items()
            if not remote.size and (path not in rows or rows[path].version != remote.version)
        ]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="markers") as pool:
            found = pool.map(self._parts.store.head, empty)
            return {path for path, facts in zip(empty, found, strict=True) if facts is None}

    def _link(self, entry: Entry) -> bool:
        """Make a file another name of one that is here, if the sidecars say that both are the same."""
        first = self._parts.journal.row(entry.attributes.link)
        if first is None or first.kind != "file" or first.state != "clean" or first.digest != entry.digest:
            return False
        staged = self._placer.staged("link")
        with self._parts.root.place(first.path) as (fd, name):
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if Signature.of(facts) != first.signature:
                return False
            os.link(name, staged, src_dir_fd=fd, follow_symlinks=False)
        with self._parts.root.place(entry.path) as (fd, name):
            if not rename_new(str(staged), fd, name):
                staged.unlink()
                return False
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
        if Signature.of(facts)[:3] == first.signature[:3]:
            both = first._replace(signature=Signature.of(facts), links=facts.st_nlink)
            self._change(
                lambda database: changes.put(database, [both, both._replace(path=entry.path, version=entry.version)])
            )
        return True

    def _change_attributes(self) -> None:
        """Give files that were not fetched what others changed: mode, owner, extended attributes."""
        for directory in self._said.changed():
            then, now = (d.get("entries", {}) for d in (self._said.then(directory), self._said.now(directory)))
            for path, row in self._parts.journal.children(directory).items():
                name = path.rpartition("/")[2]
                if row.kind != "file" or row.state != "clean" or name not in now or now[name] == then.get(name):
                    continue
                wanted = self._said.entry(
                    path, Remote(row.signature.size, row.version, row.signature.mtime_ns)
                ).attributes
                ours = Attributes.parse(json.loads(row.attributes))
                if wanted._replace(link="") != ours and (name not in then or ours == _plain(then[name])):
                    self._set(row, wanted._replace(link=""))

    def _set(self, row: Row, wanted: Attributes) -> None:
        with self._parts.root.place(row.path) as (fd, name):
            if Signature.of(os.stat(name, dir_fd=fd, follow_symlinks=False)) != row.signature:
                return
            attributes.apply(fd, name, wanted)
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
        changed = row._replace(signature=Signature.of(facts), attributes=wanted.text())
        self._change(lambda database: changes.put(database, [changed]))

    # Directories and links

    def _make_directories(self) -> None:
        rows = []
        gone = self._meanwhile.removed | self._removing()
        for directory in sorted(self._found.without(gone).directories()):
            known = self._parts.journal.row(directory)
            if known is not None and known.kind == "directory":
                continue
            if self._out_of_the_way(directory, known) and (row := self._make_directory(directory)):
                rows.append(row)
        self._change(lambda database: changes.put(database, rows))

    def _removing(self) -> set[str]:
        """Return the objects and sidecars that were removed here, and still are to be in the store."""
        files, sidecars = self._found.files, self._found.sidecars
        gone = {r.path for r in self._parts.journal.removals() if r.path in files and _is_of(r, files[r.path])}
        here = {row.path for row in self._parts.journal.rows("clean") if row.kind == "directory"}
        for directory, version in sidecars.items():
            known = self._said.row(directory)
            if known is not None and known.changed and known.version == version and directory not in here:
                gone.add(sidecar_of(directory))
        return gone

    def _make_directory(self, directory: str) -> Row | None:
        with self._parts.root.place(directory) as (fd, name):
            try:
                os.mkdir(name, 0o700, dir_fd=fd)
            except FileExistsError:
                return None
            usual = self._parts.usual
            refused = attributes.give(fd, name, usual.uid, usual.gid, usual.directory_mode)
            self._parts.health.note(REFUSED, directory, refused)
            facts = os.stat(name, dir_fd=fd, follow_symlinks=False)
            text = attributes.read(name_in(fd, name), facts, "directory").text()
        return Row(directory, "directory", Signature.of(facts), 1, "", "clean", True, "", "", text)

    def _out_of_the_way(self, path: str, row: Row | None) -> bool:
        """Make a name free for a directory; a local file that has it is kept as a conflict copy."""
        facts = self._parts.root.lstat(path)
        if facts is None:
            return True
        if attributes.kind_of(facts.st_mode) == "directory":
            return False
        staged = self._placer.staged("in-the-way")
        with self._parts.root.place(path) as (fd, name):
            os.rename(name, staged, src_dir_fd=fd)
            copy = self._placer.keep(staged, fd, path)

        def change(database: Database) -> None:
            changes.note_conflict(database, copy)
            if row is not None:
                changes.drop(database, [path])

        self._change(change)
        return True

    def _make_links(self, *, remove: bool) -> None:
        for directory in self._said.changed():
            then, now = (d.get("entries", {}) for d in (self._said.then(directory), self._said.now(directory)))
            rows = self._parts.journal.children(directory)
            for name in {**then, **now}:
                path = f"{directory}/{name}" if directory else name
                if "/" in name or unnameable(name, self._parts.root.spelling) or then.get(name) == now.get(name):
                    continue
                if not remove and name in then:
                    continue
                if "symlink" in (_type(then.get(name)), _type(now.get(name))) and path not in self._found.files:
                    self._make_link(path, rows.get(path), then.get(name), now.get(name))

    def _make_link(self, path: str, row: Row | None, then: Any, now: Any) -> None:
        """Make, change or remove a symbolic link, unless it was changed here."""
        if row is not None and (row.kind != "symlink" or _plain(then) != Attributes.parse(json.loads(row.attributes))):
            return
        wanted = _plain(now) if _type(now) == "symlink" else None
        staged = self._placer.staged("symlink")
        with self._parts.root.place(path) as (fd, name):
            here = self._parts.root.lstat(path)
            if row is not None and (here is None or Signature.of(here) != row.signature):
                return
            if wanted is not None and not self._stage_link(path, wanted, staged):
                return
            if row is not None:
                os.unlink(name, dir_fd=fd)
                self._change(lambda database: changes.drop(database, [path]))
            if wanted is None:
                return
            if not rename_new(str(staged), fd, name):
                staged.unlink()
                return
            signature = Signature.of(os.stat(name, dir_fd=fd, follow_symlinks=False))
        made = Row(path, "symlink", signature, 1, "", "clean", True, "", "", wanted.text())
        self._change(lambda database: changes.put(database, [made]))

    def _stage_link(self, path: str, wanted: Attributes, staged: Path) -> bool:
        """Make a symbolic link beside the tree; False if what is said of it makes none."""
        try:
            os.symlink(wanted.target, staged)
        except OSError as err:  # no target, or one that is too long
            self._parts.health.note(UNREADABLE, path, err.strerror or str(err))
            return False
        self._placer.give_attributes(path, staged, wanted)
        return True

    def _finish_directories(self, *, remove: bool) -> None:
        """Give directories their attributes, last because all of the above changes their times; the deepest first."""
        stored = self._found.directories()
        finished = []
        for row in sorted(self._parts.journal.rows("clean"), key=lambda r: r.path, reverse=True):
            if row.kind != "directory":
                continue
            old = self._said.row(row.path)
            if row.path in stored or not row.path:
                now = self._finish(row)
                if now != row:
                    finished.append(now)
            elif remove and old is not None and old.version and not self._parts.journal.children(row.path):
                self._remove_directory(row)
        if finished:
            self._change(lambda database: changes.put(database, finished))

    def _finish(self, row: Row) -> Row:
        """Give a directory what is said of it now, and return its row."""
        if row.path not in self._said.changed():
            return self._refresh(row)
        then, now = (_plain(d.get("directory")) for d in (self._said.then(row.path), self._said.now(row.path)))
        ours = Attributes.parse(json.loads(row.attributes))._replace(mtime_ns=0)
        mine = "directory" not in self._said.then(row.path) or ours == then._replace(mtime_ns=0)
        if now.kind != "directory" or not mine:
            return self._refresh(row)
        with self._parts.root.directory(row.path) as fd:
            attributes.apply(fd, ".", now)
            facts = os.fstat(fd)
        return row._replace(signature=Signature.of(facts), attributes=now.text())

    def _refresh(self, row: Row) -> Row:
        """Return a directory's row with its time after files were put into it: that is no change of its user's."""
        with self._parts.root.directory(row.path) as fd:
            facts = os.fstat(fd)
            now = attributes.read(name_in(fd, "."), facts, "directory")
        before = Attributes.parse(json.loads(row.attributes))
        if Signature.of(facts) != row.signature and now == before._replace(mtime_ns=now.mtime_ns):
            return row._replace(signature=Signature.of(facts), attributes=now.text())
        return row

    def _remove_directory(self, row: Row) -> None:
        try:
            with self._parts.root.place(row.path) as (fd, name):
                os.rmdir(name, dir_fd=fd)
        except OSError as err:  # something is in it that the store does not have
            log.info("%s is gone from the store and stays here: %s", row.path, err)
            return

        def change(database: Database) -> None:
            changes.drop(database, [row.path])
            database.execute("DELETE FROM directories WHERE path = ?", (row.path,))

        self._change(change)

    def _change(self, call: Callable[[Database], object]) -> None:
        self._parts.journal.change(call)


def _is_of(removal: Removal, remote: Remote) -> bool:
    """Whether an object is the one to be removed; also if it may be."""
    return removal.version == remote.version or bool(removal.sent)


def _expected(entry: Entry) -> Row:
    return Row(
        entry.path,
        "file",
        NEVER._replace(size=entry.size),
        1,
        entry.version,
        "remote",
        False,
        entry.digest,
        "",
        "",
    )


def _type(entry: Any) -> str:
    return str(entry.get("type", "file")) if isinstance(entry, Mapping) else ""


def _plain(entry: Any) -> Attributes:
    """Return an entry's attributes without what is not the file's own; the defaults if it has none."""
    try:
        return Attributes.parse(entry if isinstance(entry, Mapping) else {})._replace(link="")
    except InvalidParameter:
        return Attributes()
