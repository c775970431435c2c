"""What the sidecars of a listing say, beside what they said when they were last read or written here."""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor

from engine.spec.errors import InvalidParameter, NotFound
from engine.tree import changes, sidecar
from engine.tree.attributes import Attributes
from engine.tree.hydration import Entry
from engine.tree.listing import Listing, Remote
from engine.tree.names import sidecar_of
from engine.tree.parts import Parts
from engine.tree.rows import DirectoryRow
from engine.tree.schema import Database
from engine.tree.sidecar import EMPTY, LOST, Document

UNREADABLE = "sidecars that cannot be read"
"""Topic of notes on what sidecars say and nobody can understand."""
_THREADS = 16


class Documents:
    """The sidecars of one listing. `read` comes first, `note` last."""

    def __init__(self, parts: Parts, found: Listing) -> None:
        self._parts = parts
        self._found = found
        self._old = parts.journal.directories()
        self._then: dict[str, Document] = {}
        self._now: dict[str, Document] = {}
        self._rows: list[DirectoryRow] = []
        usual = parts.usual
        self._usual = Attributes(mode=usual.file_mode, uid=usual.uid, gid=usual.gid)

    def read(self) -> None:
        """Fetch those that are new or were changed. Raises what the store raises."""
        versions = self._found.sidecars
        changed = [d for d, v in versions.items() if d not in self._old or self._old[d].version != v]
        with ThreadPoolExecutor(_THREADS, thread_name_prefix="sidecars") as pool:
            for directory, text in zip(changed, pool.map(self._get, changed), strict=True):
                self._take_own(directory, text.decode(errors="replace"))
                self._now[directory], why = EMPTY, ""
                try:
                    if text:
                        self._now[directory] = sidecar.parse(text)
                except InvalidParameter as err:
                    why = err.why
                self._parts.health.note(UNREADABLE, sidecar_of(directory), why)
                old = self._old.get(directory, DirectoryRow(directory, "", "", 0))
                document = text.decode(errors="replace")
                self._rows.append(old._replace(version=versions[directory], document=document, changed=-1))

    def _take_own(self, directory: str, text: str) -> None:
        """Compare with what this host wrote, though it had no answer: what it removed since is not others' doing."""
        old = self._old.get(directory)
        said = sidecar.said_here(old, text) if old else None
        if old is not None and said is not None:
            self._old[directory] = old._replace(version=self._found.sidecars[directory], document=said)

    def _get(self, directory: str) -> bytes:
        try:
            return self._parts.store.get(sidecar_of(directory))
        except NotFound:  # removed since the listing
            return b""

    def changed(self) -> Collection[str]:
        """Return the directories whose sidecars are new or were changed by others."""
        return self._now.keys()

    def row(self, directory: str) -> DirectoryRow | None:
        """Return what was known of a directory's sidecar before this listing."""
        return self._old.get(directory)

    def now(self, directory: str) -> Document:
        """Return what the store says of a directory's files."""
        return self._now[directory] if directory in self._now else self.then(directory)

    def then(self, directory: str) -> Document:
        """Return what it said when it was last read or written here."""
        if directory not in self._then:
            old = self._old.get(directory)
            try:
                self._then[directory] = sidecar.parse(old.document) if old and old.document else EMPTY
            except InvalidParameter:
                self._then[directory] = EMPTY
        return self._then[directory]

    def entry(self, path: str, remote: Remote) -> Entry:
        """Return a file as the store has it, with what its sidecar says of it."""
        directory, _, name = path.rpartition("/")
        plain = self._usual
        found, digest = plain, ""
        try:
            found, digest = sidecar.entry_of(self.now(directory), name, remote.version) or (plain, "")
        except InvalidParameter as err:
            self._parts.health.note(UNREADABLE, path, err.why)
        if found.kind != "file":
            found, digest = plain, ""
        found = found._replace(mtime_ns=found.mtime_ns or remote.mtime_ns)
        return Entry(path, remote.size, remote.version, found, digest)

    def note(self, database: Database) -> None:
        """Note in the journal what was read."""
        other, root = self._parts.journal.note(LOST), self._old.get("")
        for row in self._rows:
            if row.path or not other:  # by the root's the store would be known from now on
                changes.note_sidecar(database, row)
        if root and root.version and "" not in self._found.sidecars and not other:
            changes.forget_sidecar(database, "")  # somebody removed it alone: a new one may be written
