"""Mode `sync`: every file is complete before a container starts."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from pathlib import Path
from threading import Lock

from engine.spec.errors import Conflict, EngineError, NotFound, Unavailable
from engine.spec.storage import ShortRead
from engine.tree import content
from engine.tree.beneath import Root
from engine.tree.content import UnknownContent
from engine.tree.hydration import Entry, Hydration, Site
from engine.tree.listing import version_of

log = logging.getLogger(__name__)

THREADS = 16
"""Files that are fetched at one time."""
_TRIES = 5
"""How often a file is fetched that somebody changes meanwhile."""


class EagerHydration(Hydration):
    """Fetches all files at once. Nothing is done for a file afterwards."""

    whole = True

    def __init__(self, root: Root) -> None:
        self._root = root
        self._lock = Lock()
        self._done = 0

    def start(self, site: Site) -> None:
        """Begin."""
        self._site = site

    def prepare(self, entries: Sequence[Entry]) -> None:
        """Fetch these files. Raises what the store raises, and Unavailable when the disk is full."""
        total, self._done = sum(entry.size for entry in entries), 0
        with ThreadPoolExecutor(THREADS, thread_name_prefix="fetch") as pool:
            running: set[Future[None]] = set()
            todo = enumerate(entries)
            try:
                for batch in _batches(todo, THREADS * 4):
                    running |= {pool.submit(self._fetch, entry, number, total) for number, entry in batch}
                    running = _finished(running, leave=THREADS)
                _finished(running, leave=0)
            finally:
                for each in running:
                    each.cancel()

    def _fetch(self, entry: Entry, number: int, total: int) -> None:
        staged = self._site.staging / f"fetch-{number}"
        try:
            found = self._fetch_whole(entry, staged)
            if found is not None:
                self._site.install(found, staged, hydrated=True)
        except OSError as err:
            staged.unlink(missing_ok=True)
            full = err.errno in (errno.ENOSPC, errno.EDQUOT)
            raise Unavailable(
                f"{entry.path!r} cannot be fetched",
                why=f"the local disk: {err.strerror or err}",
                hint="Free space, or use a volume with mode=on-demand" if full else "",
            ) from err
        with self._lock:
            self._done += entry.size
            self._site.progressed("fetching", self._done, total)

    def _fetch_whole(self, entry: Entry, staged: Path) -> Entry | None:
        """Fetch one file into the staging directory, and return what it is; None if the tree goes without it."""
        for _ in range(_TRIES):
            fd = os.open(staged, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                self._site.download(entry, fd)
                os.fsync(fd)  # the journal must not call complete what a power failure can take away
                return entry
            except (ShortRead, NotFound):
                facts = self._site.store.head(entry.path)
                if facts is None:
                    self._site.gone(entry.path)
                    staged.unlink()
                    return None
                if version_of(facts) != entry.version:
                    entry = entry._replace(size=facts.size, version=version_of(facts), digest="")
            except EngineError as err:
                staged.unlink()
                if isinstance(err, Conflict) and self._site.has(entry.path):  # damaged, and we have it whole
                    self._site.spoiled(entry.path, err)
                    return None
                raise
            finally:
                os.close(fd)
        raise Unavailable(f"{entry.path!r} cannot be fetched", why=f"{_TRIES} times it was changed or came incomplete")

    def ensure(self, path: str) -> None:
        """Nothing: all files are complete, or `prepare` has raised."""

    def forget(self, path: str) -> None:
        """Nothing is kept for a file."""

    def moved(self, path: str, version: str, inode: int) -> bool:
        """Nothing: a file without its content is replaced by `prepare`, by its own name."""
        return True

    def open(self, path: str) -> int:
        """Open a file for reading. Raises OSError."""
        return self._root.open(path)

    def complete(self, descriptor: int) -> bool:
        """Return whether a file has its content: placeholders may be left of a time in the mode on-demand."""
        try:
            found = content.read(descriptor)
        except UnknownContent:
            return False
        return found is None or (found.where != "remote" and found.boot == content.boot_id())

    def usage(self) -> None:
        """Return nothing in particular: all bytes are here."""

    def close(self) -> None:
        """Nothing has to be given up."""


def _batches(todo: Iterator[tuple[int, Entry]], size: int) -> Iterator[list[tuple[int, Entry]]]:
    batch: list[tuple[int, Entry]] = []
    for each in todo:
        batch.append(each)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _finished(running: set[Future[None]], *, leave: int) -> set[Future[None]]:
    """Wait until so many are left, raise the first error, and return those."""
    while len(running) > leave:
        done, running = wait(running, return_when=FIRST_EXCEPTION if not leave else "FIRST_COMPLETED")
        for each in done:
            each.result()
    return running
