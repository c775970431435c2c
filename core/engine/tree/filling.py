"""One file that is being fetched: what is to be read from the store, and the steps on the file itself.

Nobody reads or changes the file meanwhile: who opens it waits. So a part that was fetched twice does no harm, and a
process that was killed in the middle leaves nothing that its successor has to know, beyond the file's attribute.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace
from typing import NamedTuple

from engine.spec.errors import Conflict, NotFound
from engine.spec.storage import Stat, Store
from engine.tree import content as contents
from engine.tree.content import CHUNK, Content, UnknownContent, boot_id
from engine.tree.fills import now
from engine.tree.hydration import Signature
from engine.tree.listing import version_of

Range = tuple[int, int]


class Changed(Conflict):
    """The object is not the one that the file says: see `Filling.renew`."""


class Renewal(NamedTuple):
    """A file that is to be filled from another object than it was listed with."""

    before: Signature
    after: Signature
    old: str
    """Version of the object that was listed."""
    new: str


class Filling:
    """The work on one file (a descriptor on the quiet mount): `begin`, then `fetch` for each range, then `finish`.

    When that ends with ShortRead or `Changed`, `renew` finds out whether it is begun again with another object.
    """

    def __init__(self, fd: int, store: Store) -> None:
        self.fd = fd
        self.ranges: list[Range] = []
        """What is to be fetched."""
        self._store = store
        self._there: set[int] = set()
        self._holes = False
        self._renewed = False

    @property
    def key(self) -> str:
        """The object's."""
        return self.content.key

    def begin(self) -> None:
        """Look at the file, which is not here, and find what is to be fetched. Raises UnknownContent, OSError."""
        found = contents.read(self.fd)
        facts = os.fstat(self.fd)
        if found is None:
            raise UnknownContent("it has no attribute that says what its content is")
        if not stat.S_ISREG(facts.st_mode) or found.inode != facts.st_ino:
            raise UnknownContent("its attribute is of another file")
        self.content = found
        if found.where == "filled" and found.changed(facts):
            # Fetched, then changed here, and the machine ended before all was on the disk: what a program has written
            # to the disk stays; where nothing ever came to the disk is a hole.
            self._holes = True
            self.ranges = _holes(self.fd, min(facts.st_size, found.size))
            return
        if not found.begun:
            found = replace(found, begun=True, mtime=facts.st_mtime_ns, ctime=facts.st_ctime_ns)
        self.content = replace(found, where="remote", chunks=found.chunks if found.where == "remote" else b"")
        contents.write(self.fd, self.content)
        if facts.st_size != self.content.size:
            os.ftruncate(self.fd, self.content.size)
        self.ranges = self.content.missing()
        self._there = set(range(0, self.content.size, CHUNK)) - {start for start, _ in self.ranges}

    def fetch(self, part: Range) -> None:
        """Fetch a range into the file. Raises OSError, and EngineError: ShortRead, NotFound, Unavailable."""
        start, end = part
        if self.content.size <= CHUNK and not self._holes:
            data = self._store.view(self.key)  # whole: one answer is of one version
            if len(data) != self.content.size:
                raise Changed(f"{self.key!r} has {len(data)} bytes and had {self.content.size} when it was listed")
        else:
            data = self._store.view(self.key, start, end)
        while data:
            written = os.pwrite(self.fd, data, start)
            data, start = data[written:], start + written

    def fetched(self, part: Range) -> None:
        """Write down that a range is in the file: a successor need not fetch it. Called by one thread at a time."""
        self._there.add(part[0])
        if self.content.size > CHUNK and not self._holes:
            contents.write(self.fd, self.content.with_chunks(self._there))

    def finish(self) -> tuple[Signature, Signature]:
        """Say in the attribute that the file is filled; return what it was before and is now.

        Raises Changed if the object is not what was listed, and NotFound if it is gone.
        """
        several = self.content.size > CHUNK or self._holes or self._renewed  # what came may be of two versions
        if several and version_of(self._head()) != self.content.version:
            raise Changed(f"{self.key!r} was changed in the store while it was fetched")
        facts_here = os.fstat(self.fd)
        if not self._holes:
            os.utime(self.fd, ns=(facts_here.st_atime_ns, self.content.mtime))
        filled = replace(self.content, where="filled", begun=False, boot=boot_id(), at=now(), chunks=b"")
        contents.write(self.fd, filled)
        return own(self.content), signature(self.fd)

    def renew(self) -> Renewal | None:
        """Make the file a placeholder of the object that is there now; None if that is the one it is of already.

        The attribute is the first to change: from then on whoever goes on, this process or the next one, fetches all of
        the new object, and makes the file as long as that is. Raises NotFound if there is no object any more.
        """
        facts, old = self._head(), self.content
        if self._holes or version_of(facts) == old.version:  # beside holes there is what a program has written
            return None
        mtime = int((facts.mtime or 0) * 10**9) or old.mtime
        self.content = replace(old, version=version_of(facts), size=facts.size, mtime=mtime, chunks=b"")
        contents.write(self.fd, self.content)
        os.ftruncate(self.fd, facts.size)
        self._renewed, self._there, self.ranges = True, set(), self.content.missing()
        return Renewal(own(old), own(self.content), old.version, self.content.version)

    def _head(self) -> Stat:
        facts = self._store.head(self.key)
        if facts is None:
            raise NotFound(f"there is no object {self.key!r}")
        return facts


def own(content: Content) -> Signature:
    """Return the signature of the file when we have not changed it, or would not have."""
    return Signature(content.inode, content.size, content.mtime, content.ctime)


def signature(fd: int) -> Signature:
    """Return what the tree knows a file's state by."""
    return Signature.of(os.fstat(fd))


def _holes(fd: int, size: int) -> list[Range]:
    """Return the parts of a file that have never been written, in pieces of at most `CHUNK`."""
    found: list[Range] = []
    here = 0
    while here < size:
        start = os.lseek(fd, here, os.SEEK_HOLE)
        end = min(_data_after(fd, start, size), size)
        found += [(s, min(s + CHUNK, end)) for s in range(start, end, CHUNK)]
        here = max(end, here + 1)
    return found


def _data_after(fd: int, start: int, size: int) -> int:
    try:
        return os.lseek(fd, start, os.SEEK_DATA)
    except OSError as err:
        if err.errno != errno.ENXIO:  # no data behind it
            raise
        return size
