"""One file that is being fetched: what is to be read from the store, and the steps on the file itself.

Nobody reads or changes the file meanwhile: who opens it waits. So a part that was fetched twice does no harm, and a
process that was killed in the middle leaves nothing that its successor has to know, beyond the file's attribute.
"""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import replace

from engine.spec.errors import Conflict, NotFound
from engine.spec.storage import ShortRead, Store
from engine.tree import content as contents
from engine.tree.content import CHUNK, UnknownContent, boot_id
from engine.tree.fills import now
from engine.tree.hydration import Signature
from engine.tree.listing import version_of

Range = tuple[int, int]


class Filling:
    """The work on one file (a descriptor on the quiet mount): `begin`, then `fetch` for each range, then `finish`."""

    def __init__(self, fd: int, store: Store) -> None:
        self.fd = fd
        self.ranges: list[Range] = []
        """What is to be fetched."""
        self._store = store
        self._there: set[int] = set()
        self._holes = False

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
        if found.where == "filled" and (facts.st_mtime_ns, facts.st_size) != (found.mtime, found.size):
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
            data = self._store.get(self.key)  # whole: one answer is of one version
            if len(data) != self.content.size:
                raise ShortRead(f"{self.key!r} has {len(data)} bytes and had {self.content.size} when it was listed")
        else:
            data = self._store.get(self.key, start, end)
        view = memoryview(data)
        while view:
            written = os.pwrite(self.fd, view, start)
            view, start = view[written:], start + written

    def fetched(self, part: Range) -> None:
        """Write down that a range is in the file: a successor need not fetch it. Called by one thread at a time."""
        self._there.add(part[0])
        if self.content.size > CHUNK and not self._holes:
            contents.write(self.fd, self.content.with_chunks(self._there))

    def finish(self) -> tuple[Signature, Signature]:
        """Say in the attribute that the file is filled; return what it was before and is now.

        Raises Conflict if the object is not what was listed, and NotFound if it is gone.
        """
        if self.content.size > CHUNK or self._holes:  # its parts may be of two versions
            facts = self._store.head(self.key)
            if facts is None:
                raise NotFound(f"there is no object {self.key!r}")
            if version_of(facts) != self.content.version:
                raise Conflict(f"{self.key!r} was changed in the store while it was fetched")
        facts_here = os.fstat(self.fd)
        if not self._holes:
            os.utime(self.fd, ns=(facts_here.st_atime_ns, self.content.mtime))
        filled = replace(self.content, where="filled", begun=False, boot=boot_id(), at=now(), chunks=b"")
        contents.write(self.fd, filled)
        before = Signature(self.content.inode, self.content.size, self.content.mtime, self.content.ctime)
        return before, signature(self.fd)


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
