"""A store whose objects are encrypted in another store."""

from __future__ import annotations

import itertools
import logging
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping
from typing import Literal, NamedTuple

from engine_drivers.storage.crypt.content import (
    BLOCK,
    HEADER,
    MAC,
    MAGIC,
    SEALED,
    Content,
    Damaged,
    apparent_size,
    nonce_of,
    plain_size,
)
from engine_drivers.storage.crypt.keys import Keys
from engine_drivers.storage.crypt.manifest import Manifest
from engine_drivers.storage.crypt.names import Names
from engine_drivers.storage.crypt.nonces import Nonces
from engine_drivers.storage.crypt.scrub import Scrub
from engine_drivers.storage.crypt.segments import DIRECTORY, Entry
from engine_sdk import (
    Checked,
    Forbidden,
    NotFound,
    ShortRead,
    Stat,
    StorageCaps,
    Store,
    Unsupported,
    check_key,
    check_range,
    exactly,
    no_object,
)

log = logging.getLogger(__name__)
_REMEMBERED = 4096
"""Objects whose nonce and size are remembered, so that a read of a range is one request."""
_LOOKED_AT = 64
"""Objects that are looked at for one that proves the password right or wrong."""
_ATTEMPTS = 3


class _Known(NamedTuple):
    nonce: bytes
    size: int
    """Of the stored object."""


class CryptStore(Store):
    """Objects are sealed, their names hidden. Metadata of objects passes as it is: it is not encrypted.

    What is remembered of an object cannot be wrong unnoticed: a nonce that is not the object's opens no block.
    """

    def __init__(
        self, inner: Store, keys: Keys, names: Names, caps: StorageCaps, manifest: Manifest | None = None
    ) -> None:
        self.caps = caps
        self._inner = inner
        self._manifest = manifest
        self._names = names
        self._content = Content(keys.data)
        self._nonces = Nonces(keys.data)
        self._known: OrderedDict[str, _Known] = OrderedDict()
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return f"CryptStore({self._inner!r})"

    def _name(self, key: str) -> str:
        check_key(key, self.caps, driver="crypt")
        return self._names.hide(key)

    def _plain(self, key: str, stat: Stat) -> Stat:
        return stat.model_copy(update={"key": key, "size": plain_size(stat.size)})

    # Reading

    def head(self, key: str) -> Stat | None:
        """Return an object's facts, or None if there is none."""
        stat = self._inner.head(self._name(key))
        return None if stat is None else self._plain(key, stat)

    def get(self, key: str, start: int = 0, end: int | None = None) -> bytes:
        """Return bytes `start` up to `end` (exclusive), or to the end. Damaged if they were tampered with."""
        check_range(start, end)
        name = self._name(key)
        whole = start == 0 and end is None
        for attempt in itertools.count(1):
            try:
                if whole:
                    return self._whole(name)
                return self._range(name, key, self._lookup(name, fresh=attempt > 1), start, end)
            except (Damaged, ShortRead):
                if attempt == _ATTEMPTS:  # the object was replaced between two requests: look again
                    raise
        raise AssertionError("unreachable")

    def _whole(self, name: str) -> bytes:
        sealed = self._inner.get(name)
        plain_size(len(sealed))
        nonce = nonce_of(sealed[:HEADER])
        self._check(name, nonce, len(sealed))
        return self._content.open(memoryview(sealed)[HEADER:], nonce, 0)

    def _check(self, name: str, nonce: bytes, size: int) -> None:
        if self._manifest is not None:
            self._manifest.check(name, Entry(nonce, size))

    def _wrote(self, name: str, nonce: bytes, size: int) -> None:
        self._remember(name, _Known(nonce, size))
        if self._manifest is not None:
            self._manifest.wrote(name, Entry(nonce, size))

    def _range(self, name: str, key: str, known: _Known, start: int, end: int | None) -> bytes:
        size = plain_size(known.size)
        stop = max(start, size) if end is None else end
        if stop > size and stop > start:
            return exactly(b"", stop - start, key, driver="crypt")
        if start == stop:
            return b""
        first = start // BLOCK
        after = HEADER + (-(-stop // BLOCK)) * SEALED
        sealed = self._inner.get(name, HEADER + first * SEALED, min(after, known.size))
        skip = start - first * BLOCK
        return self._content.open(sealed, known.nonce, first)[skip : skip + stop - start]

    def _lookup(self, name: str, *, fresh: bool) -> _Known:
        with self._lock:
            known = None if fresh else self._known.get(name)
        if known is None:
            stat = self._inner.head(name)
            if stat is None:
                raise no_object(self._names.show(name), driver="crypt")
            plain_size(stat.size)
            known = _Known(nonce_of(self._inner.get(name, 0, HEADER)), stat.size)
            self._check(name, known.nonce, known.size)
            self._remember(name, known)
        return known

    def _remember(self, name: str, known: _Known) -> None:
        with self._lock:
            self._known[name] = known
            self._known.move_to_end(name)
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)

    # Writing

    def _new(self, key: str) -> str:
        """Return the name of an object that is to be written. Raises Unavailable if the manifest has gone."""
        name = self._name(key)
        if self._manifest is not None:
            self._manifest.ready()
        return name

    def put(
        self, key: str, data: bytes, *, if_match: str | None = None, metadata: Mapping[str, str] | None = None
    ) -> Stat:
        """Seal and write an object."""
        name, nonce = self._new(key), self._nonces.fresh(empty=not data)
        sealed = b"".join(self._content.seal((data,), nonce))
        stat = self._inner.put(name, sealed, if_match=if_match, metadata=metadata)
        self._wrote(name, nonce, len(sealed))
        return self._plain(key, stat)

    def put_stream(
        self,
        key: str,
        chunks: Iterable[bytes],
        *,
        if_match: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Stat:
        """Seal an object piece by piece while it is written."""
        name, rest = self._new(key), iter(chunks)
        first = next((chunk for chunk in rest if chunk), b"")
        nonce = self._nonces.fresh(empty=not first)
        sealed = _Counted(self._content.seal(itertools.chain((first,), rest), nonce))
        stat = self._inner.put_stream(name, sealed, if_match=if_match, metadata=metadata)
        self._wrote(name, nonce, sealed.size)
        return self._plain(key, stat)

    def delete(self, key: str, *, if_match: str | None = None) -> None:
        """Remove an object, with `if_match` on a condition; one that is gone already is no error."""
        name = self._new(key)
        if if_match is None:
            self._inner.delete(name)
        elif self.caps.delete_if:
            self._inner.delete(name, if_match=if_match)
        else:
            raise Unsupported("this store cannot remove on a condition", driver="crypt")
        if self._manifest is not None:
            self._manifest.removed(name)

    def copy(self, source: str, target: str) -> Stat:
        """Copy an object in the inner store: content is not bound to a name, so that nothing is encrypted anew."""
        name, new = self._name(source), self._new(target)
        if self._manifest is None:
            return self._plain(target, self._inner.copy(name, new))
        self._manifest.copying(name, new)
        stat = self._inner.copy(name, new)
        self._manifest.copied(name, new)
        return self._plain(target, stat)

    # Listing

    def list(self, prefix: str = "", *, delimiter: Literal["", "/"] = "") -> Iterator[Stat]:
        """Iterate over the objects that this key opens; what is not in this format is left out, and logged once."""
        directory = prefix.rpartition("/")[0]
        if directory:
            check_key(directory, self.caps, driver="crypt")
        below = self._names.hide_directory(directory)
        return self._shown(self._inner.list(f"{below}/" if below else "", delimiter=delimiter), prefix)

    def _shown(self, stored: Iterator[Stat], prefix: str) -> Iterator[Stat]:
        foreign = 0
        for stat in stored:
            if stat.key.startswith(DIRECTORY):
                continue
            try:
                if stat.is_prefix:
                    plain = stat.model_copy(update={"key": self._names.show_directory(stat.key.rstrip("/")) + "/"})
                else:
                    plain = stat.model_copy(update={"key": self._names.show(stat.key), "size": self._told(stat)})
            except Damaged as err:
                foreign += 1
                if foreign == 1:
                    log.warning("a foreign object among the encrypted ones is left out: %s", err)
                continue
            if plain.key.startswith(prefix):
                yield plain

    def _told(self, stat: Stat) -> int:
        """Return the size that a listing tells. An object that was cut must not look like one that is gone or empty."""
        should = None if self._manifest is None else self._manifest.known(stat.key)
        if stat.size == HEADER and should is not None and should.size > HEADER:
            try:
                self._lookup(stat.key, fresh=True)
            except Damaged:
                return apparent_size(should.size)
            except (NotFound, ShortRead):
                pass  # changed again since
            return 0
        try:
            return plain_size(stat.size)
        except Damaged:
            return apparent_size(stat.size if should is None else should.size)

    # Health

    def scrub(self, *, accept: bool = False) -> Iterator[Checked]:
        """Look at every object, and for those that the manifest knows and that are missing."""
        return Scrub(self._inner, self._content, self._names, self._manifest, accept).run()

    def check(self) -> None:
        """Ask for the inner store, and for an object that proves the password."""
        self._inner.check()
        self.verify()

    def verify(self) -> None:
        """Raise Forbidden if the objects that are there were written with another password; reads only.

        The first block of an object is authenticated: it proves the password. An empty store proves nothing.
        """
        refused = 0
        names = 0
        for stat in itertools.islice(self._stored(), _LOOKED_AT):
            try:
                self._names.show(stat.key)
            except Damaged:
                names += 1
            if stat.size <= HEADER + MAC:
                continue
            opened = self._opens(stat)
            if opened:
                if names:
                    raise _wrong("names are not in the form that these options give; is password2 missing?")
                return
            refused += opened is False
        if refused and not (self._manifest is not None and self._manifest.opens()):  # then they are damaged
            raise _wrong(f"{refused} objects were written with another password")

    def _stored(self) -> Iterator[Stat]:
        return (stat for stat in self._inner.list() if not stat.key.startswith(DIRECTORY))

    def _opens(self, stat: Stat) -> bool | None:
        """Return if this key opens an object; None if it is not in this format, or was removed meanwhile."""
        try:
            beginning = self._inner.get(stat.key, 0, min(stat.size, HEADER + SEALED))
        except (NotFound, ShortRead):
            return None
        if not beginning.startswith(MAGIC):
            return None
        try:
            self._content.open(memoryview(beginning)[HEADER:], nonce_of(beginning[:HEADER]), 0)
        except Damaged:
            return False
        return True

    def close(self) -> None:
        """Write what is left of the manifest, and give up the inner connection."""
        if self._manifest is not None:
            self._manifest.close()
        self._inner.close()


class _Counted(Iterator[bytes]):
    """Counts the bytes that pass."""

    def __init__(self, chunks: Iterator[bytes]) -> None:
        self._chunks = chunks
        self.size = 0

    def __next__(self) -> bytes:
        chunk = next(self._chunks)
        self.size += len(chunk)
        return chunk


def _wrong(why: str) -> Forbidden:
    return Forbidden(
        "the password does not open this store",
        driver="crypt",
        why=why,
        hint="Nothing was changed. Give the password, and the second one, with which it was made",
    )
