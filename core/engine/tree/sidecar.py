"""Sidecars: what objects cannot hold, kept beside them in one object for each directory.

The object `DIRECTORY/.engine-attributes.json` has the directory's own attributes, those of its files, its symbolic
links, and by its existence an empty directory. It is JSON, sorted, one file after the other, for people to read:

    {"about": "...", "format": 1, "store": "...",
     "directory": {"type": "directory", "mode": "0755", "uid": 0, "gid": 0, "mtime": "1700000000.123456789"},
     "entries": {
        "a.txt": {"etag": "...", "sha256": "...", "mode": "0644", "uid": 0, "gid": 0, "mtime": "...",
                  "xattrs": {"user.note": "text, or base64:..."}},
        "b.txt": {..., "hardlink": "a.txt"},
        "to-a": {"type": "symlink", "target": "a.txt", ...}}}

Each file is an object of its own under its name, also every name of a hard-linked one: other tools need none of
this. `etag` says which object `sha256` and `mtime` are of: if somebody else wrote it since, they do not count. A
sidecar is written on the condition that nobody else wrote it; where somebody did, the two are merged, name by name.

The sidecar of the root is also how a store is known again. It has a random name for it (`store`) from the first write
on, and one that is gone, or has another name, is not written anew by who knew it: that the store is not what it was
must stay visible, also where a server makes a deleted bucket again with the next write. The next listing decides.
"""

from __future__ import annotations

import hashlib
import json
import logging
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from engine.spec.errors import Conflict, InvalidParameter, NotFound, Unavailable
from engine.spec.storage import ABSENT, Store
from engine.tree import changes
from engine.tree.attributes import Attributes
from engine.tree.journal import Journal
from engine.tree.listing import version_of
from engine.tree.names import sidecar_of
from engine.tree.removing import remove
from engine.tree.rows import DirectoryRow
from engine.tree.written import Written

log = logging.getLogger(__name__)

FORMAT = 1
_ABOUT = "Attributes of the files beside this object, written by Engine. See its documentation of remote volumes."
_TRIES = 8
"""How often a sidecar is merged when somebody else always writes it first."""
MERGED = "merged"
"""Stands for the version of a sidecar that has more in it than is local: no object has it."""
_json = json.JSONEncoder().encode
"""An entry a line: the encoder in C knows no indentation, and the other one takes ten times as long."""
Document = Mapping[str, Any]
EMPTY: Document = {}
LOST = "lost"
"""Note in the journal: how many objects the store has lost (see `engine.tree.lost`); empty if all is well."""


def parse(text: str | bytes) -> Document:
    """Return a sidecar's document. Raises InvalidParameter if it is none, or of a newer format."""
    try:
        found = json.loads(text)
        if not isinstance(found, dict) or not isinstance(found.get("entries", {}), dict):
            raise TypeError("it is no object with entries")
        if found.get("format") != FORMAT:
            raise ValueError(f"the format {found.get('format')!r} is not known")
        return found
    except (ValueError, TypeError, RecursionError) as err:
        raise InvalidParameter("a sidecar cannot be read", why=str(err)) from err


def spell(entries: Mapping[str, Any], directory: Any, store: str = "") -> str:
    """Return the text of a sidecar; `store` is the store's name in that of the root."""
    found: dict[str, Any] = {"about": _ABOUT, "format": FORMAT, **({"store": store} if store else {})}
    if directory is not None:
        found["directory"] = directory
    head = "".join(f"{_json(name)}: {_json(value)},\n" for name, value in found.items())
    lines = ",\n".join(f"{_json(name)}: {_json(value)}" for name, value in sorted(entries.items()))
    return f'{{{head}"entries": {{\n{lines}\n}}}}\n'


def entry_of(document: Document, name: str, version: str) -> tuple[Attributes, str] | None:
    """Return a file's attributes and its digest; time and digest only if they are of that version of the object.

    None where the sidecar says nothing; raises InvalidParameter where it says nonsense.
    """
    found = document.get("entries", {}).get(name)
    if found is None:
        return None
    attributes = Attributes.parse(found)
    if found.get("etag") != version:
        return attributes._replace(mtime_ns=0), ""
    return attributes, str(found.get("sha256", ""))


def store_of(document: Document) -> str:
    """Return the random name that the root's sidecar gives its store; "" if it gives none."""
    return str(document.get("store", ""))


def merge(base: Document, ours: Document, theirs: Document) -> Document:
    """Return what both sides mean, name by name: where both changed the same, ours."""
    names = {*ours.get("entries", {}), *theirs.get("entries", {})}
    merged = {}
    for name in names:
        old, here, there = (d.get("entries", {}).get(name) for d in (base, ours, theirs))
        chosen = there if here == old else here
        if chosen is not None:
            merged[name] = chosen
    own = [d.get("directory") for d in (base, ours, theirs)]
    return {"entries": merged, "directory": own[2] if own[1] == own[0] and own[2] is not None else own[1]}


class Sidecars:
    """Writes sidecars from the journal."""

    def __init__(
        self,
        store: Store,
        records: Journal,
        written: Written,
        doubt: Callable[[], object],
        refused: Callable[[str, str], object],
    ) -> None:
        """`doubt` is called when the store is not the one that was written: it should be listed.

        `refused` is called with a directory whose sidecar the store refuses, and why: it is tried again after the next
        change, and nothing else waits for it.
        """
        self._store = store
        self._journal = records
        self._written = written
        self._doubt = doubt
        self._refused = refused

    def write(self, directory: str) -> None:
        """Make a directory's sidecar say what the journal says. Raises what the store raises."""
        try:
            self._write(directory)
        except InvalidParameter as err:
            self._refused(directory, err.why or err.what)

    def _write(self, directory: str) -> None:
        noted = self._journal.directory(directory)
        if noted is None or (not directory and self._journal.note(LOST)):
            return
        own = self._journal.row(directory)
        if directory and (own is None or own.kind != "directory"):
            self._remove(noted)
            return
        ours = self._document(directory, json.loads(own.attributes) if own else None)
        base, known = _parsed(noted.document, sidecar_of(directory)), noted.version
        name = "" if directory else store_of(base) or uuid.uuid4().hex
        own_text = text = spell(ours["entries"], ours["directory"], name)
        for _ in range(_TRIES):
            if text == noted.document and noted.version:
                break
            noted = self._intend(noted, text, own_text)
            try:
                version = self._put(sidecar_of(directory), text.encode(), noted.version)
                # What others changed is not local yet: the next listing, or the next write, has to look again.
                noted = noted._replace(version=version if text == own_text else MERGED, document=own_text)
                break
            except Conflict:
                found, version = self._read(directory)
                theirs = _parsed(found, sidecar_of(directory))
                if (said := said_here(noted, found)) is not None:  # our own, without an answer
                    base = _parsed(said, sidecar_of(directory))
                if known and not directory and (not version or store_of(theirs) != store_of(base)):
                    log.warning("the store is not the one that was written: its sidecar is gone, or of another one")
                    self._doubt()
                    return
                name = name and (store_of(theirs) or name)
                own_text = spell(ours["entries"], ours["directory"], name)
                # One that is gone says nothing of its files: that they are gone, too, only a listing says.
                merged = merge(base, ours, theirs) if version else ours
                text = spell(merged["entries"], merged["directory"], name)
                noted = noted._replace(version=version)
        else:
            raise Unavailable(f"the sidecar of {directory or '/'} cannot be written", why="others always come first")
        self._journal.change(lambda database: changes.note_sidecar(database, noted))

    def _document(self, directory: str, own: Any) -> Document:
        entries: dict[str, Any] = {}
        for path, row in self._journal.children(directory).items():
            if row.kind == "directory" or row.state in ("local", "remote"):
                continue
            found = json.loads(row.attributes)
            if row.kind == "file":
                if not row.version:
                    continue  # not uploaded yet: its upload marks the directory again
                found = {"etag": row.version, **({"sha256": row.digest} if row.digest else {}), **found}
                first = self._journal.first_name(row.signature.ino) if row.links > 1 else path
                if first != path:
                    found["hardlink"] = first
            entries[path.rpartition("/")[2]] = found
        return {"entries": entries, "directory": own}

    def _put(self, key: str, data: bytes, version: str) -> str:
        """Write a sidecar over the version that is known. Raises Conflict if there is another one."""
        if self._store.caps.put_if:
            return version_of(self._store.put(key, data, if_match=version or ABSENT))
        found = self._store.head(key)
        if (version_of(found) if found else "") != version:
            raise Conflict(f"writing {key!r}", why="somebody else wrote it")
        return version_of(self._store.put(key, data))

    def _intend(self, noted: DirectoryRow, text: str, own_text: str) -> DirectoryRow:
        """Note what is about to be written: after a write without an answer it is known for our own."""
        sent = json.loads(noted.sent or "{}") | {_digest(text): "" if text == own_text else own_text}
        noted = noted._replace(sent=json.dumps(sent))
        # A crash of the machine may lose this: then what removed names had is taken for somebody else's.
        self._journal.change(lambda database: changes.intend_sidecar(database, noted.path, noted.sent), durable=False)
        return noted

    def _read(self, directory: str) -> tuple[str, str]:
        """Return a sidecar's text and its version; both are empty if there is none."""
        key = sidecar_of(directory)
        facts = self._store.head(key)
        try:
            return (self._store.get(key).decode(errors="replace"), version_of(facts)) if facts else ("", "")
        except NotFound:
            return "", ""

    def _remove(self, noted: DirectoryRow) -> None:
        """Remove the sidecar of a directory that is gone; not if somebody else uses that directory by now."""
        key = sidecar_of(noted.path)
        try:
            version = noted.version if noted.version not in ("", MERGED) else self._own(noted, key)
            for _ in range(_TRIES):
                if not version:
                    break
                try:
                    remove(self._store, key, version)
                    self._written.removed(key)
                    break
                except Conflict:  # whether it is still ours is to be decided anew
                    version = self._own(noted, key)
            else:
                raise Unavailable(f"the sidecar {key} cannot be removed", why="others always come first")
        except InvalidParameter:  # a name that the store refuses has nothing there
            pass
        self._journal.change(lambda database: changes.drop_sidecar(database, noted))

    def _own(self, noted: DirectoryRow, key: str) -> str:
        """Return a sidecar's version if it is as this host wrote it without an answer; "" if it is not, or gone."""
        facts = self._store.head(key) if noted.sent else None
        if facts is None:
            return ""
        text = self._store.get(key).decode(errors="replace")
        return version_of(facts) if said_here(noted, text) == text else ""


def said_here(noted: DirectoryRow, text: str) -> str | None:
    """Return what a sidecar said of this host's files if this host wrote it and had no answer; None if it did not."""
    said = json.loads(noted.sent or "{}").get(_digest(text))
    return None if said is None else said or text


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()


def _parsed(text: str, key: str) -> Document:
    try:
        return parse(text) if text else EMPTY
    except InvalidParameter as err:
        log.error("the sidecar %s counts as empty: %s", key, err)
        return EMPTY
